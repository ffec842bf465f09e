"""How often the mirror writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.answer.sse import numbered
from app.fleet.log_commands import Command
from app.fleet.mirror import Mirror
from app.fleet.names import Keys, id_prefix
from app.streams.delivery import Frames
from app.streams.replay import Replay, ReplayBudget
from app.streams.terms import Policy, Terms
from app.web.tasks import beside
from app.wire.plain import PlainFormat, framed
from tests.support.clock import jumping

ids = [id_prefix(0, "abcdefgh") + name for name in "xyz"]


class Link:
    """A connection to a Redis that takes everything, which counts the rounds; and who is told nothing of them."""

    epoch = 1

    def __init__(self, takes_s: float = 0.0) -> None:
        self.count = 0
        self.sent: list[Command] = []
        self._takes_s = takes_s

    async def open(self) -> None:
        self.count += 1
        await asyncio.sleep(self._takes_s)

    async def close(self) -> None:
        return

    async def exchange(self, commands: Sequence[Command], _timeout_s: float) -> list[Any]:
        self.sent += commands
        return [[] if command[0] == "EXEC" else b"1-0" for command in commands]

    def appended(self) -> list[str]:
        logs = [command[1] for command in self.sent if command[0] == "XADD"]
        return [one for log in logs for one in ids if Keys("t").stream(one).log == log]

    def mirrored(self, _lag_s: float, _lost: int, _healed: int) -> None:
        return

    def mirror_refused(self) -> None:
        return


@asynccontextmanager
async def mirroring(link: Link, mirror_s: float) -> AsyncIterator[Mirror]:
    mirror = Mirror(link, Keys("t"), (mirror_s, 60.0), lambda _terms: None, link)
    async with beside(mirror.run()):
        yield mirror


@pytest.mark.parametrize(
    ("mirror_s", "waited_for", "takes_s", "rounds"),
    [
        (0.25, False, 0.0, 40),
        (0.25, True, 0.0, 200),
        (0.25, True, 0.04, 150),  # then the others have the loop for half of the time
        (0.25, False, 0.15, 36),
    ],
)
@jumping
async def test_it_writes_more_often_while_readers_wait(
    mirror_s: float, waited_for: bool, takes_s: float, rounds: int
) -> None:
    link = Link(takes_s)
    async with mirroring(link, mirror_s) as mirror:
        for _ in range(1000):
            if waited_for:
                mirror.due("any")
            await asyncio.sleep(0.01)
        assert link.count == pytest.approx(rounds, rel=0.05)


@jumping
async def test_only_what_is_waited_for_is_written_before_its_time() -> None:
    link = Link()
    async with mirroring(link, 10.0) as mirror:
        replays = [Replay(10**6, ReplayBudget(10**9)) for _ in range(3)]
        for number, replay in enumerate(replays):
            terms = Terms(ids[number], "acme", "claude-opus-4-8", Policy.GRACE, 30.0, stop_token="token")
            mirror.began(terms, Frames(PlainFormat(thinking=False), replay))
        await asyncio.sleep(11)
        link.sent.clear()
        for replay in replays:
            replay.extend([numbered(1, framed({"text": "x"}))])
        mirror.due(ids[1])
        await asyncio.sleep(0.1)
        assert link.appended() == [ids[1]]
        await asyncio.sleep(10)
        assert sorted(link.appended()) == sorted(ids), "the others in their turn, and it no second time"
