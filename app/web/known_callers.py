"""What the service knows of callers, put together: their keys and files, and the browser tokens that stand for them."""

from __future__ import annotations

from dataclasses import dataclass

from ..access.guard import Guard
from ..access.key_sets import KeySets
from ..access.keys import Keys
from ..settings.sections import Callers
from .callers_watch import CallersWatch
from .entrance.identity import Identity
from .entrance.way_in import Route
from .routes.token_api import Sign, TokenApi


@dataclass(frozen=True, slots=True)
class KnownCallers:
    """What the service knows of callers.

    Attributes:
        guard: knows them.
        identity: says who asks.
        watch: keeps the guard in step with the callers file; None where there is none.
        sign: signs browser tokens; None where there is no callers file.
    """

    guard: Guard
    identity: Identity
    watch: CallersWatch | None = None
    sign: Sign | None = None

    @classmethod
    def of(cls, callers: Callers, folder: str = "") -> KnownCallers:
        """Those that the settings name, for one of the workers that share a folder. Raises SettingsError."""
        watch = CallersWatch.of(callers, folder)
        if watch is None:
            guard = Guard(configured_keys(callers))
            return cls(guard, Identity(guard))
        from ..access import tokens  # here, because its library takes a second that other services do not need

        key_sets = KeySets()
        keys = configured_keys(callers)
        guard = Guard(keys, watch.read(names=Keys(keys).names), watch.audit.used, tokens.Tokens(key_sets))
        return cls(guard, Identity(guard, key_sets, tokens.import_set), watch, tokens.sign)

    def routes(self) -> list[Route]:
        """The path on which browser tokens are made."""
        return TokenApi(self.guard, self.sign).routes()

    def read_again(self, callers: Callers) -> None:
        """Takes keys and files that were read again. Raises SettingsError: something is wrong; nothing has changed."""
        keys = configured_keys(callers)
        known = self.watch.read(self.guard.roster, Keys(keys).names) if self.watch is not None else None
        self.guard.replace(keys)
        if self.watch is not None and known is not None:
            self.watch.take(self.guard, known)


def configured_keys(callers: Callers) -> tuple[str, ...]:
    """The keys that the settings themselves name."""
    return () if callers.auth == "none" else callers.api_keys
