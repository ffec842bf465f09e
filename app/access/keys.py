"""The keys that the setting `api_keys` names. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from .callers import is_name


class Keys:
    """Keys as configured, kept as digests: each `KEY`, or `NAME:KEY`.

    A key without a name is a caller of its own, called by its digest.

    Args:
        keys: never logged, never shown.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._callers = [(_digest(key), name) for name, key in map(_parted, keys)]

    @property
    def names(self) -> set[str]:
        """Of the callers that have them."""
        return {name or _own_name(digest) for digest, name in self._callers}

    def __bool__(self) -> bool:
        return bool(self._callers)

    def caller_of(self, given: str) -> str | None:
        """The name of the caller that has this key, which gives no key away; None for an unknown one."""
        if not self._callers:
            return None
        digest = _digest(given)
        # All keys are compared, each in constant time, so that the time it takes tells nothing about them.
        known = [name for theirs, name in self._callers if hmac.compare_digest(digest, theirs)]
        return (known[0] or _own_name(digest)) if known else None

    def id_of(self, given: str, pepper: bytes) -> str | None:
        """By which a browser token names this key; None for an unknown one.

        Whoever has the token reads it, so that it is worth nothing without the pepper: a short key could be guessed from
        its digest.
        """
        return _id(_digest(given), pepper) if self.caller_of(given) is not None else None

    def caller_of_id(self, key_id: str, pepper: bytes) -> str | None:
        """The name of the caller that has the key of this id; None for an unknown one."""
        names = (name or _own_name(digest) for digest, name in self._callers if _id(digest, pepper) == key_id)
        return next(names, None)


def _parted(configured: str) -> tuple[str, str]:
    name, colon, key = configured.partition(":")
    return (name, key) if colon and key and is_name(name) else ("", configured)


def _id(digest: bytes, pepper: bytes) -> str:
    # Ids of keys that were made have no colon.
    return f"api:{hmac.digest(pepper, digest, hashlib.sha256).hex()[:32]}"


def _own_name(digest: bytes) -> str:
    return digest.hex()[:16]


def _digest(key: str) -> bytes:
    # aiohttp and os.environ hand on bytes that are no UTF-8 as surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
