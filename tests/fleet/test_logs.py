"""Readers who wait for what comes into logs: who is woken, when, and by how many commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from app.fleet.contact import Contact, RedisAway
from app.fleet.log_commands import Entry
from app.fleet.logs import LOOK_S, Logs
from app.fleet.member import Member
from app.fleet.names import Keys, id_prefix
from app.settings.fleet import FleetOptions
from app.web.tasks import beside
from tests.support.clock import jumping, loop

KEYS = Keys("t")
WITHIN_S = 1.0
LEASE = b'{"v": 1, "host": "", "port": 0}'


def stream(name: str, owner: str = "abcdefgh") -> str:
    return id_prefix(0, owner) + name


class Shelf:
    """A Redis with logs, and leases of all but those who are gone; says how often it was asked for news, and of how much."""

    def __init__(self) -> None:
        self.contact = Contact()
        self.logs: dict[str, list[tuple[bytes, list[bytes]]]] = {}
        self.gone: set[str] = set()
        self.looks: list[int] = []
        self.away = False
        self.answer_s = 0.0
        self.asked: Callable[[], None] = lambda: None

    def put(self, stream_id: str, frame_id: int) -> None:
        entry = (b"%d-0" % frame_id, [b"i", b"%d" % frame_id, b"f", b"id: %d\n\n" % frame_id])
        self.logs.setdefault(KEYS.stream(stream_id).log, []).append(entry)

    async def ask(self, *command: str | bytes | int, anyway: bool = False) -> Any:
        if self.away:
            raise RedisAway
        if command[0] == "GET":
            return None if any(name in str(command[1]) for name in self.gone) else LEASE
        assert command[0] == "XREAD"
        named = command[command.index("STREAMS") + 1 :]
        keys, places = named[: len(named) // 2], named[len(named) // 2 :]
        self.looks.append(len(keys))
        self.asked()
        await asyncio.sleep(self.answer_s)
        found = []
        for key, place in zip(keys, places, strict=True):
            after_id = int(str(place).partition("-")[0])
            new = [entry for entry in self.logs.get(str(key), []) if int(entry[0].partition(b"-")[0]) > after_id]
            if new:
                found.append([str(key).encode(), new])
        return found or None


@asynccontextmanager
async def looking(shelf: Shelf) -> AsyncIterator[Logs]:
    logs = Logs(Member(shelf, KEYS, FleetOptions()))
    async with beside(logs.run()):
        yield logs


async def timed(logs: Logs, stream_id: str, after_id: int) -> tuple[float, list[Entry]]:
    began = loop().time()
    entries = await logs.news(stream_id, after_id, WITHIN_S)
    return loop().time() - began, entries


@jumping
async def test_of_all_who_wait_only_who_has_news_is_woken_before_its_time() -> None:
    shelf = Shelf()
    async with looking(shelf) as logs:
        asked = [asyncio.create_task(timed(logs, stream(f"s{n}"), 4)) for n in range(50)]
        await asyncio.sleep(3.5 * LOOK_S)
        shelf.put(stream("s7"), 5)
        told = await asyncio.gather(*asked)
    assert set(shelf.looks) == {50, 49}, "one command a look for all who wait"
    for number, (took_s, entries) in enumerate(told):
        assert [entry.last_id for entry in entries] == ([5] if number == 7 else [])
        assert took_s == pytest.approx(4 * LOOK_S if number == 7 else WITHIN_S, abs=LOOK_S + 0.001)


@jumping
async def test_of_an_owner_without_a_lease_its_readers_are_told_at_the_next_look() -> None:
    shelf = Shelf()
    async with looking(shelf) as logs:
        quiet = asyncio.create_task(timed(logs, stream("x", "livesnow"), 0))
        shelf.gone.add("abcdefgh")
        took_s, entries = await timed(logs, stream("x"), 0)
        assert took_s == pytest.approx(LOOK_S)
        assert entries == []
        assert (await quiet)[0] > took_s


@jumping
async def test_readers_of_one_log_at_different_places_each_get_what_they_lack() -> None:
    shelf = Shelf()
    shelf.put(stream("x"), 5)
    async with looking(shelf) as logs:
        ahead, behind = await asyncio.gather(logs.news(stream("x"), 5, WITHIN_S), logs.news(stream("x"), 4, WITHIN_S))
    assert [entry.last_id for entry in behind] == [5]
    assert [entry.last_id for entry in ahead] == [5], "who has it skips it"


@jumping
async def test_who_comes_during_a_look_with_less_than_it_looked_for_waits_for_the_next_one() -> None:
    shelf = Shelf()
    tasks: list[asyncio.Task[tuple[float, list[Entry]]]] = []
    async with looking(shelf) as logs:

        def comes() -> None:
            if not tasks:
                tasks.append(asyncio.create_task(timed(logs, stream("x"), 4)))

        shelf.put(stream("x"), 5)
        shelf.put(stream("x"), 6)
        shelf.asked, shelf.answer_s = comes, 0.01
        took_s, entries = await timed(logs, stream("x"), 5)
        assert took_s == pytest.approx(LOOK_S + 0.01)
        assert [entry.last_id for entry in entries] == [6]
        took_s, entries = await tasks[0]
    assert [entry.last_id for entry in entries] == [5, 6]
    assert shelf.looks == [1, 1]


@jumping
async def test_looks_stay_a_window_apart_however_long_redis_takes() -> None:
    shelf = Shelf()
    shelf.answer_s = 0.02
    looked_at: list[float] = []
    shelf.asked = lambda: looked_at.append(loop().time())
    async with looking(shelf) as logs:
        await timed(logs, stream("x"), 0)
    assert [later - at for at, later in pairwise(looked_at)] == pytest.approx([LOOK_S] * (len(looked_at) - 1))


@jumping
async def test_who_leaves_is_looked_for_no_more_and_who_waits_learns_that_redis_is_away() -> None:
    shelf = Shelf()
    async with looking(shelf) as logs:
        leaves, stays = [asyncio.create_task(logs.news(stream(name), 0, WITHIN_S)) for name in ("a", "b")]
        await asyncio.sleep(1.5 * LOOK_S)
        leaves.cancel()
        await asyncio.sleep(2 * LOOK_S)
        assert shelf.looks[-1] == 1
        shelf.away = True
        with pytest.raises(RedisAway):
            await stays
