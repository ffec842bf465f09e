"""Knows who calls, by what the request's head holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..errors import Unauthorized
from .callers import Caller, Roster
from .keys import Keys


class Guard:
    """Knows who calls. With neither keys nor a callers file, anyone may.

    Args:
        keys: as configured in `api_keys`; never logged, never shown.
        roster: the callers file; None where there is none.

    Attributes:
        roster: the callers file, or what stands for none: nobody is bounded.
    """

    def __init__(self, keys: Iterable[str] = (), roster: Roster | None = None) -> None:
        self.replace(keys, roster)

    def replace(self, keys: Iterable[str], roster: Roster | None) -> None:
        """Takes these instead, from the next request on; streams that run go on."""
        self._keys = Keys(keys)
        self._demands = bool(self._keys) or roster is not None
        self.roster = roster if roster is not None else Roster()

    @property
    def demands_keys(self) -> bool:
        """Whether only who has a key may call."""
        return self._demands

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Who calls; one without a name where anyone may.

        Takes `Authorization: Bearer KEY` and `x-api-key: KEY`, since Anthropic's SDKs have sent both.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        if not self._demands:
            return Caller()
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            raise Unauthorized("a key is needed: send Authorization: Bearer KEY, or x-api-key: KEY")
        name = self._keys.caller_of(given)
        if name is None:
            raise Unauthorized("this key is not known here")
        return self.roster.callers.get(name) or replace(self.roster.default, name=name)
