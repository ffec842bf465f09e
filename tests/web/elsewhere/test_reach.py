"""Whether another process can be reached: asked once for all who want to know."""

from __future__ import annotations

import asyncio

from app.web.elsewhere.carrying import Place
from app.web.elsewhere.reach import Reach
from tests.support.clock import jumping


@jumping
async def test_one_asks_for_all_and_its_answer_is_believed_for_a_second() -> None:
    asked: list[str] = []

    async def answers(place: Place) -> bool:
        asked.append(place.host)
        await asyncio.sleep(0.5)
        return place.host == "up"

    reach = Reach(answers)
    up, down = Place(host="up"), Place(host="down")
    assert await asyncio.gather(*(reach.of("a", up) for _ in range(20)), reach.of("b", down)) == [True] * 20 + [False]
    assert sorted(asked) == ["down", "up"]
    assert await reach.of("a", down), "what is known is believed"
    await asyncio.sleep(1)
    assert not await reach.of("a", down)
    assert len(asked) == 3


@jumping
async def test_who_asks_and_leaves_keeps_nobody_waiting() -> None:
    asked: list[str] = []

    async def answers(place: Place) -> bool:
        asked.append(place.host)
        await asyncio.sleep(0.5)
        return True

    reach = Reach(answers)
    leaves, stays = [asyncio.create_task(reach.of("a", Place(host="up"))) for _ in range(2)]
    await asyncio.sleep(0.1)
    leaves.cancel()
    assert await stays
    assert len(asked) == 2
