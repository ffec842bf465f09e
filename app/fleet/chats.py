"""Which stream is the newest of each chat, for all processes: the page chose the chat's name, which tells no owner."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice

from .contact import RedisRefused, nobody_knows
from .member import Asking
from .names import Keys

# Redis keeps a name this long after it was given, in seconds, beyond what a stream is kept: no answer takes an hour.
_ANSWER_S = 3600
# So many names are told again at once, so that each is answered in time.
_AT_ONCE = 200

# Whose the chat is, by caller and user, and its name.
Name = tuple[str, str, str]


class Chats:
    """The newest streams.

    Args:
        asks: of Redis.
        keys: of the fleet.
        replay_s: how long a stream is kept after its end, in seconds.
    """

    def __init__(self, asks: Asking, keys: Keys, replay_s: float) -> None:
        self._asks = asks
        self._keys = keys
        self._kept_s = _ANSWER_S + int(replay_s)

    async def claim(self, name: Name, stream_id: str) -> str | None:
        """Makes a stream the newest; returns which one was. Raises RedisAway. Cancelling is safe."""
        # In one step, so that of two questions at once one is the older, for everybody.
        with nobody_knows():
            older = await self._asks.ask("SET", self._keys.name(*name), stream_id, "EX", self._kept_s, "GET")
        return older.decode() if isinstance(older, bytes) else None

    async def newest(self, name: Name) -> str | None:
        """The newest stream; None where there is none. Raises RedisAway. Cancelling is safe."""
        with nobody_knows():
            told = await self._asks.ask("GET", self._keys.name(*name))
        return told.decode() if isinstance(told, bytes) else None

    async def tell_again(self, names: Iterable[tuple[Name, str]]) -> None:
        """Tells a Redis that has forgotten; what was claimed since then is newer, and stays. Raises RedisAway."""
        waiting = iter(names)
        while some := list(islice(waiting, _AT_ONCE)):
            asked = [
                self._asks.ask("SET", self._keys.name(*name), stream_id, "EX", self._kept_s, "NX")
                for name, stream_id in some
            ]
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(answer, BaseException) and not isinstance(answer, RedisRefused):
                    raise answer
