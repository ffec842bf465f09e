"""Budgets, rates and places of several processes, against a real Redis: exact, whatever is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.access.limits import Late, Want
from app.fleet.apart import Apart
from app.fleet.contact import Contact, RedisAway
from app.fleet.errors import FleetAway
from app.fleet.limits import FleetLimits
from app.fleet.redis_link import Asks, Link, connector
from app.money.allowance import grant
from app.settings.fleet import RedisOptions
from app.streams.state import Balance, Draft, StateAway, Taking
from app.web.tasks import beside
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.real

DAY = ("acme", "day", "2026-11-26")


@pytest.fixture(scope="module")
def redis_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_of_module: RedisServer) -> Iterator[RedisServer]:
    redis_of_module.client.flushall()
    yield redis_of_module
    assert redis_of_module.without_expiry() == []


class Lossy:
    """Asks Redis, and loses answers when it is told to: what was asked is done all the same."""

    def __init__(self, asks: Asks) -> None:
        self.contact = asks.contact
        self.asks = asks
        self.loses = False

    async def ask(self, *command: str | bytes | int, anyway: bool = False) -> Any:
        reply = await self.asks.ask(*command, anyway=True)
        if self.loses and command[0] in ("EVALSHA", "EVAL"):
            raise RedisAway
        return reply


@asynccontextmanager
async def process(redis: RedisServer, name: str) -> AsyncIterator[tuple[FleetLimits, Lossy]]:
    asks = Asks(Link(connector(RedisOptions(redis_url=redis.url))), Contact(), 10.0)
    lossy = Lossy(asks)
    limits = FleetLimits(lossy, "t", name, Apart("closed", lambda: 2))
    try:
        async with beside(asks.run()), beside(limits.run()):
            yield limits, lossy
    finally:
        await asks.link.close()


def draft(limit: int, book: int = 0, keep: int = 0, least: int = 0, ahead: int = 0) -> Draft:
    return Draft(*DAY, limit, book, keep, least, ahead)


async def test_of_a_thousand_starts_in_two_processes_as_many_find_a_place_as_there_are(redis: RedisServer) -> None:
    async with process(redis, "a") as (a, _), process(redis, "b") as (b, _):
        taken = {a: 0, b: 0}

        async def start(limits: FleetLimits) -> bool:
            taken[limits] += 1
            refused = await limits.take([], Taking("acme", taken[limits], taken[limits], 100, None))
            if refused is not None:
                assert refused == "streams"
                taken[limits] -= 1
                limits.note([("acme", taken[limits])], [])
            return refused is None

        # One after another in each process, as its own count is what it tells; both at once.
        async def starts(limits: FleetLimits) -> int:
            return sum([await start(limits) for _ in range(500)])

        assert sum(await asyncio.gather(starts(a), starts(b))) == 100
        a.note([("acme", taken[a] - 1)], [])
        taken[a] -= 1
        await eventually(lambda: not a._wake.is_set())
        assert await start(b)
        assert await b.take([], Taking("other", 1, taken[b] + 1, None, 100)) == "all streams"
        assert await b.take([], Taking("other", 1, taken[b] + 1, None, 101)) is None


async def test_places_of_a_process_that_is_dead_lapse(redis: RedisServer) -> None:
    async with process(redis, "a") as (a, _):
        assert await a.take([], Taking("acme", 1, 1, 1, None)) is None
        key = next(key for key in redis.names() if ":p:" in key)
        redis.client.hset(key, "dead", "7:1000.0")  # long ago, by Redis's own clock
        redis.client.hset(key, "lives", "1:99999999999.0")
        assert await a.take([], Taking("acme", 2, 2, 3, None)) is None
        assert redis.client.hget(key, "dead") is None
        assert await a.take([], Taking("acme", 3, 3, 3, None)) == "streams"


async def test_a_browser_tokens_user_has_places_of_its_own_in_all_processes(redis: RedisServer) -> None:
    want = Want(("requests", "acme"), 60)
    user = "acme\nuser"
    async with process(redis, "a") as (a, _), process(redis, "b") as (b, _):
        place = Taking("acme", 1, 1, 5, 10, subject=user, here_of_subject=1, most_of_subject=1)
        assert await a.take([want], place) is None
        assert await b.take([want], place) == "token streams"
        a.note([("acme", 1), (user, 0)], [])
        await eventually(lambda: not a._wake.is_set())
        assert await b.take([want], place) is None
        assert str(redis.client.hget("t:{l}:p", "a")).startswith("b'1:")  # who stands under two names has one place


async def test_a_rate_is_one_bucket_for_all(redis: RedisServer) -> None:
    want = Want(("requests", "acme"), 60)
    async with process(redis, "a") as (a, _), process(redis, "b") as (b, _):
        place = Taking("acme", 1, 1, None, None)
        for n in range(60):
            assert await (a, b)[n % 2].take([want], place) is None
        late = await b.take([want], place)
        assert isinstance(late, Late)
        assert late.remaining == 0
        assert 0 < late.wait_s <= 1.01
        b.note([], [Want(want.key, 60, -10)])
        await eventually(lambda: not b._wake.is_set() and not b._untold)
        assert await a.take([want], place) is None
        whole = Want(("output-tokens", "acme"), 100, 1000)  # more than the whole bucket counts as all of it
        assert await a.take([whole], place) is None
        late = await b.take([want, Want(whole.key, 100, 1)], place)
        assert isinstance(late, Late)
        assert late.want.key == whole.key  # the one that takes longest


async def test_no_two_processes_draw_more_than_there_is(redis: RedisServer) -> None:
    async with process(redis, "a") as (a, _), process(redis, "b") as (b, _):
        (first,) = await a.draw([draft(1000, least=300, ahead=1000)])
        assert first == Balance(grant(1000, 0, 0, 300, 1000), 0, 0)
        (second,) = await b.draw([draft(1000, least=900)])
        assert second == Balance(1000 - first.granted, 0, first.granted)
        (third,) = await a.draw([draft(1000, book=100, keep=first.granted - 100, least=50)])
        assert third == Balance(0, 100, second.granted)
        (fourth,) = await b.draw([draft(1000, book=0, keep=0)])  # gives everything back
        assert fourth.spent == 100
        (fifth,) = await a.draw([draft(1000, book=0, keep=first.granted - 100, least=10_000)])
        assert fifth.granted == 1000 - 100 - (first.granted - 100)


async def test_an_answer_that_was_lost_books_nothing_twice(redis: RedisServer) -> None:
    async with process(redis, "a") as (a, lossy):
        await a.draw([draft(1000, least=500)])
        lossy.loses = True
        for _ in range(3):
            with pytest.raises(StateAway):
                await a.draw([draft(1000, book=200, keep=300, least=100)])
        lossy.loses = False
        (balance,) = await a.draw([draft(1000, book=250, keep=250)])
        assert balance.spent == 250
        (balance,) = await a.draw([draft(1000, book=50, keep=200)])
        assert balance.spent == 300


async def test_nobody_is_let_in_on_an_answer_that_was_lost(redis: RedisServer) -> None:
    async with process(redis, "a") as (a, lossy):
        lossy.loses = True
        with pytest.raises(FleetAway):
            await a.take([], Taking("acme", 1, 1, 100, None))


async def test_what_redis_forgot_each_process_tells_again(redis: RedisServer) -> None:
    async with process(redis, "a") as (a, _), process(redis, "b") as (b, _):
        await a.draw([draft(1000, book=400)])
        await b.draw([draft(1000, book=300)])
        redis.client.flushall()
        redis.client.script_flush()
        assert (await a.draw([draft(1000)]))[0].spent == 400
        assert (await b.draw([draft(1000)]))[0].spent == 700


async def test_what_a_dead_process_had_drawn_counts_as_spent_once(redis: RedisServer) -> None:
    async with process(redis, "a") as (a, _):
        dead: list[int] = []
        a.on_dead = dead.append
        await a.draw([draft(10**17)])
        (key,) = (key for key in redis.names() if ":b:" in key)
        redis.client.hset(key, mapping={"d:gone": "123456789012:1000.0", "s:gone": "1", "d:lives": "5:99999999999.0"})
        (balance,) = await a.draw([draft(10**17)])
        assert (balance.spent, balance.others, dead) == (123456789013, 5, [123456789012])
        (balance,) = await a.draw([draft(10**17)])
        assert (balance.spent, dead) == (123456789013, [123456789012])
