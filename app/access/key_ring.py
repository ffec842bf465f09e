"""The keys that were made for callers: what is kept of each, and whose a given one is. Pure: `now` comes in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import Unauthorized
from .key_form import Key

# Compared where there is no such key, so that an unknown one takes as long as a wrong one.
_NOBODYS = bytes(32)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is kept of a key, which cannot be had from it.

    Attributes:
        key_id: as in the key.
        caller: whose it is, by name.
        digest: HMAC-SHA-256 of the key with the pepper.
        created_at: seconds since 1970.
        expires_at: from then on it is refused; None for never.
        revoked_at: since then it is refused; None where it is not.
    """

    key_id: str
    caller: str
    digest: bytes = field(repr=False)
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def ended_at(self, now: float) -> int | None:
        """Since when it is refused; None while it is taken."""
        ends = [at for at in (self.expires_at, self.revoked_at) if at is not None and at <= now]
        return min(ends, default=None)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of all callers.

    Attributes:
        records: by id.
        pepper: without which the digests are worth nothing.
    """

    records: Mapping[str, KeyRecord] = field(default_factory=dict)
    pepper: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, records: Iterable[KeyRecord], pepper: bytes) -> KeyRing:
        """A ring of these."""
        return cls({record.key_id: record for record in records}, pepper)

    def record(self, key: Key, now: float) -> KeyRecord | None:
        """What is kept of a key; None where nobody here has made it.

        Args:
            key: as it was given.
            now: seconds since 1970.

        Raises:
            Unauthorized: it was revoked, or has expired; only who has it is told so.
        """
        found = self.records.get(key.key_id)
        same = hmac.compare_digest(digest_of(key, self.pepper), _NOBODYS if found is None else found.digest)
        if found is None or not same:
            return None
        if found.ended_at(now) is not None:
            ended = "was revoked" if found.revoked_at is not None and found.revoked_at <= now else "has expired"
            raise Unauthorized(f"this key, {key.key_id}, {ended}")
        return found


def digest_of(key: Key, pepper: bytes) -> bytes:
    """What is kept of a key in place of it."""
    return hmac.digest(pepper, key.text.encode("ascii"), hashlib.sha256)
