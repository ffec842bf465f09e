"""How often the mirror writes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from app.fleet.log_commands import Command
from app.fleet.mirror import Mirror
from app.fleet.names import Keys
from tests.support.clock import jumping


class Rounds:
    """A connection that counts the rounds, and who is told nothing of them."""

    epoch = 1

    def __init__(self) -> None:
        self.count = 0

    async def open(self) -> None:
        self.count += 1

    async def close(self) -> None:
        return

    async def exchange(self, _commands: Sequence[Command], _timeout_s: float) -> list[Any]:
        raise AssertionError("there is nothing to write")

    def mirrored(self, _lag_s: float, _lost: int, _healed: int) -> None:
        return

    def mirror_refused(self) -> None:
        return


@pytest.mark.parametrize(("mirror_s", "is_read", "rounds"), [(0.25, False, 40), (0.25, True, 100), (0.05, True, 200)])
@jumping
async def test_it_writes_as_often_as_readers_look_while_there_are_any(
    mirror_s: float, is_read: bool, rounds: int
) -> None:
    link = Rounds()
    mirror = Mirror(link, Keys("t"), (mirror_s, 60.0), lambda _terms: None, link)
    mirror.is_read = lambda: is_read
    task = asyncio.create_task(mirror.run())
    await asyncio.sleep(10)
    assert link.count == pytest.approx(rounds, abs=2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
