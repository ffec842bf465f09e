"""How often the mirror writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from app.answer.sse import numbered
from app.fleet.log_commands import Command
from app.fleet.mirror import Mirror
from app.fleet.mirror_rules import LIFE_S
from app.fleet.names import Keys, id_prefix
from app.streams.delivery import Frames
from app.streams.replay import Replay, ReplayBudget
from app.streams.terms import Policy, Terms
from app.web.tasks import beside
from app.wire.plain import PlainFormat, framed
from tests.support.clock import jumping

ids = [id_prefix(0, "abcdefgh") + name for name in "xyz"]


def terms(stream_id: str) -> Terms:
    return Terms(stream_id, "acme", "claude-opus-4-8", Policy.GRACE, 30.0, stop_token="token")


class Link:
    """A connection to a Redis that takes everything, which counts the rounds; and who is told nothing of them."""

    epoch = 1

    def __init__(self, takes_s: float = 0.0) -> None:
        self.count = 0
        self.sent: list[Command] = []
        self.sent_at: list[float] = []  # loop times
        self._takes_s = takes_s

    async def open(self) -> None:
        self.count += 1
        await asyncio.sleep(self._takes_s)

    async def close(self) -> None:
        return

    async def exchange(self, commands: Sequence[Command], _timeout_s: float) -> list[Any]:
        self.sent += commands
        self.sent_at += [asyncio.get_running_loop().time()] * len(commands)
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
            mirror.began(terms(ids[number]), Frames(PlainFormat(thinking=False), replay))
        await asyncio.sleep(11)
        link.sent.clear()
        for replay in replays:
            replay.extend([numbered(1, framed({"text": "x"}))])
        mirror.due(ids[1])
        await asyncio.sleep(0.1)
        assert link.appended() == [ids[1]]
        await asyncio.sleep(10)
        assert sorted(link.appended()) == sorted(ids), "the others in their turn, and it no second time"


@jumping
async def test_what_redis_lacks_of_a_long_answer_is_written_at_once() -> None:
    link = Link()
    async with mirroring(link, 10.0) as mirror:
        replay = Replay(10**6, ReplayBudget(10**9))
        replay.extend([numbered(n, framed({"text": "x" * 1000})) for n in range(1, 101)])
        mirror.began(terms(ids[0]), Frames(PlainFormat(thinking=False), replay))
        await asyncio.sleep(10.1)
    entries = [
        command for command in link.sent if command[:2] == ("XADD", Keys("t").stream(ids[0]).log) and "f" in command
    ]
    assert [command[-3] for command in entries] == list(range(1, 101, 15)), "16 kB each, all of them in one go"


@jumping
async def test_a_log_that_always_has_news_is_given_its_time_to_live_anew() -> None:
    link = Link()
    async with mirroring(link, 0.25) as mirror:
        replay = Replay(10**6, ReplayBudget(10**9))
        mirror.began(terms(ids[0]), Frames(PlainFormat(thinking=False), replay))
        for number in range(1, int(LIFE_S / 0.1)):
            replay.extend([numbered(number, framed({"text": "x"}))])
            await asyncio.sleep(0.1)
    given_anew = [at for at, command in zip(link.sent_at, link.sent, strict=True) if command[0] == "PEXPIRE"]
    assert all(later - at < LIFE_S / 2 for at, later in pairwise([*given_anew, link.sent_at[0] + LIFE_S]))
