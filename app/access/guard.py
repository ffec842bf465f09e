"""Knows who calls, by what the request's head holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import Unauthorized
from .callers import Caller, Roster
from .key_form import parse_key
from .key_ring import KeyRecord, KeyRing
from .keys import Keys


@dataclass(frozen=True, slots=True)
class Known:
    """Who is known: the callers file, and the keys that were made for its callers.

    Attributes:
        roster: the file.
        ring: the keys.
    """

    roster: Roster = field(default_factory=Roster)
    ring: KeyRing = field(default_factory=KeyRing)


class KnowsTokens(Protocol):
    """Who knows whose a browser token is: `Tokens`."""

    def caller(self, text: str, known: Known, keys: Keys, now: float) -> Caller:
        """The token's caller, narrowed."""


class Guard:
    """Knows who calls. With neither keys nor a callers file, anyone may.

    Args:
        keys: as configured in `api_keys`; never logged, never shown.
        known: the callers file and its keys; None where there is none.
        used: told of each key that was taken, and when.
        tokens: knows browser tokens; None where none are taken.

    Attributes:
        known: the callers file and its keys, or what stands for none: nobody is bounded.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        known: Known | None = None,
        used: Callable[[KeyRecord, float], None] = lambda _record, _now: None,
        tokens: KnowsTokens | None = None,
    ) -> None:
        self._used = used
        self._tokens = tokens
        self.replace(keys)
        self._has_file = known is not None
        self.known = known if known is not None else Known()

    def replace(self, keys: Iterable[str]) -> None:
        """Takes these in place of the configured keys, from the next request on; streams that run go on."""
        self._keys = Keys(keys)

    def learn(self, known: Known) -> None:
        """Takes a callers file and its keys that were read again; streams that run go on."""
        self.known = known

    @property
    def roster(self) -> Roster:
        """The callers file, or what stands for none."""
        return self.known.roster

    @property
    def configured_names(self) -> set[str]:
        """The names of the callers that have configured keys."""
        return self._keys.names

    @property
    def demands_keys(self) -> bool:
        """Whether only who has a key may call."""
        return self._has_file or bool(self._keys)

    def identify(self, headers: Mapping[str, str], now: float) -> Caller:
        """Who calls; one without a name where anyone may.

        Takes `Authorization: Bearer KEY` and `x-api-key: KEY`, a key or a browser token, since Anthropic's SDKs have sent both.

        Args:
            headers: of the request.
            now: seconds since 1970.

        Raises:
            Unauthorized: no key, or one that is unknown, revoked or has expired, or a token that is not to be believed.
            KeysNeeded, KeysUnreachable: as `Tokens.caller` does.
        """
        if not self.demands_keys:
            return Caller()
        given = given_key(headers)
        if not given:
            raise Unauthorized("a key is needed: send Authorization: Bearer KEY, or x-api-key: KEY")
        name = self._keys.caller_of(given)
        if name is not None:
            return self.roster.caller(name)
        if self._tokens is not None and is_token(given):
            return self._tokens.caller(given, self.known, self._keys, now)
        caller = self._by_made_key(given, now)
        if caller is None:
            raise Unauthorized("this key is not known here")
        return caller

    def key_id_of(self, headers: Mapping[str, str]) -> str:
        """The id of the key that a request came with, which does not give it away; empty for none."""
        given = given_key(headers)
        made = parse_key(given)
        return self._keys.id_of(given, self.known.ring.pepper) or (made.key_id if made is not None else "")

    def _by_made_key(self, given: str, now: float) -> Caller | None:
        key = parse_key(given)
        record = self.known.ring.record(key, now) if key is not None else None
        # A caller that was taken out of the file has no keys any more.
        caller = self.roster.callers.get(record.caller) if record is not None else None
        if record is not None and caller is not None:
            self._used(record, now)
        return caller


def given_key(headers: Mapping[str, str]) -> str:
    """The key or the token that a request's head holds; empty for none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def is_token(text: str) -> bool:
    """Whether it looks like a browser token, and not like a key: a JWT begins with a brace, in base 64."""
    return text.startswith("eyJ") and text.count(".") == 2
