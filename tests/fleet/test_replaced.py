"""A worker that dies is replaced: at once after a long life, later and later after short ones, and not at all at the end."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, cast

from app.fleet.children import _LAST_PAUSE_S, _LONG_LIFE_S
from app.fleet.generation import Generation, Worker
from tests.support.clock import jumping, loop


class Dying:
    """Processes that live for so long, one after another; the last one's time is all later ones' too."""

    def __init__(self, *lives_s: float) -> None:
        self.lives_s = list(lives_s)
        self.started_at: list[float] = []
        self.ended_at: list[float] = []

    async def start(self, _place: int) -> Worker:
        self.started_at.append(loop().time())
        assert len(self.started_at) < 50, "a storm of starts"
        life_s = self.lives_s.pop(0) if len(self.lives_s) > 1 else self.lives_s[0]
        return Worker(cast("Any", _Child(self, life_s)), 0)

    def pauses_s(self) -> list[float]:
        """How long nobody ran, each time."""
        return [round(start - end, 6) for start, end in zip(self.started_at[1:], self.ended_at, strict=False)]


class _Child:
    """A process that is ready at once, and says no more until it ends."""

    def __init__(self, dying: Dying, life_s: float) -> None:
        self.dying = dying
        self.life_s = life_s
        self.told = asyncio.Event()
        self.tie = self
        self.said = False

    async def hear(self) -> dict[str, Any] | None:
        if not self.said:
            self.said = True
            return {"ready": True}
        try:
            async with asyncio.timeout(self.life_s):
                await self.told.wait()
        except TimeoutError:
            pass
        return None

    async def wait(self) -> int:
        self.dying.ended_at.append(loop().time())
        return 1

    def tell(self, message: object, _sockets: object = ()) -> None:
        if isinstance(message, signal.Signals):
            self.told.set()

    def close(self) -> None:
        pass


async def kept(dying: Dying, for_s: float) -> None:
    """Keeps one worker for so long, then ends it: that waits for no pause, and nothing starts after it."""
    workers = Generation(1, dying.start)
    workers.begun.set()
    keeping = asyncio.create_task(workers.keep(0))
    await asyncio.sleep(for_s)
    workers.end(signal.SIGTERM)
    told_at = loop().time()
    await keeping
    assert loop().time() == told_at, "a pause holds nothing up"
    started = len(dying.started_at)
    await asyncio.sleep(1000)
    assert len(dying.started_at) == started


@jumping
async def test_one_that_dies_at_once_is_replaced_after_pauses_that_double_up_to_the_last() -> None:
    dying = Dying(0.0)
    await kept(dying, 60)
    assert dying.pauses_s()[:7] == [0.2, 0.4, 0.8, 1.6, 3.2, _LAST_PAUSE_S, _LAST_PAUSE_S]
    assert set(dying.pauses_s()[6:]) == {_LAST_PAUSE_S}


@jumping
async def test_one_that_dies_after_a_long_life_is_replaced_soon() -> None:
    dying = Dying(0.0, 0.0, 0.0, _LONG_LIFE_S + 1, _LONG_LIFE_S + 1, 1e6)
    await kept(dying, 1000)
    assert dying.pauses_s() == [0.2, 0.4, 0.8, 0.1, 0.1]
