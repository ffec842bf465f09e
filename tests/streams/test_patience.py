"""An end is waited for until it comes, until its time is over, or until somebody hurries."""

from __future__ import annotations

import asyncio

from app.streams.patience import Patience
from tests.support.clock import jumping, loop


@jumping
async def test_it_waits_for_the_first_of_an_event_its_time_and_somebody_who_hurries() -> None:
    patience, event, began = Patience(), asyncio.Event(), loop().time()
    await patience.wait(5, event)
    assert loop().time() - began == 5
    loop().call_later(2, event.set)
    await patience.wait(5, event)
    assert loop().time() - began == 7
    await patience.wait(5, event, stays=lambda: True)
    assert loop().time() - began == 12, "the rest of the time is waited too"
    loop().call_later(1, patience.forget)
    await patience.wait(5, event, stays=lambda: True)
    assert loop().time() - began == 13, "but not for what only stays"
    await patience.wait(1)
    assert loop().time() - began == 14, "while what runs is waited for"
    loop().call_later(1, patience.hurry)
    await patience.wait(5)
    assert loop().time() - began == 15
    await patience.wait(5, stays=lambda: True)
    assert loop().time() - began == 15, "nobody waits any more"
