"""Budgets, rates and places of several processes, against a real Redis: exact, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from app.access.limits import Late, Want
from app.fleet.apart import Apart, Policy
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
async def process(redis: RedisServer, name: str, policy: Policy = "closed") -> AsyncIterator[tuple[FleetLimits, Lossy]]:
    asks = Asks(Link(connector(RedisOptions(redis_url=redis.url))), Contact(), 10.0)
    lossy = Lossy(asks)
    limits = FleetLimits(lossy, "t", name, Apart(policy, lambda: 2))
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


async def test_a_clock_of_redis_that_was_ahead_holds_up_nobody_for_longer_than_the_rules(redis: RedisServer) -> None:
    """As one that is set back, or that of a replica that is promoted: what was written is from a time to come."""
    far = f"{int(time.time()) + 3_459_526}.000"
    want, place = Want(("requests", "acme"), 1), Taking("acme", 1, 1, 1, None)
    async with process(redis, "a") as (a, _):
        redis.client.set(a._bucket(want), f"60.000000 {far}", px=3_459_526_000)
        late = await a.take([want], Taking("acme", 1, 1, None, None))
        assert isinstance(late, Late)
        assert late.wait_s == pytest.approx(60, abs=0.01)
        assert redis.client.pttl(a._bucket(want)) <= 61_000, "and it is seen once, though it was refused"
        key = a._place("acme")
        redis.client.hset(key, "dead", f"1:{far}")
        redis.client.expire(key, 60)
        assert await a.take([], place) == "streams"
        found: Any = redis.client.hget(key, "dead")
        count, till = found.split(b":")
        assert (count, float(till) < time.time() + 31) == (b"1", True)
        await a.draw([draft(100, least=1)])
        (budget,) = redis.client.keys("t:{l}:b:*")
        redis.client.hset(budget, "d:dead", f"40:{far}")
        (balance,) = await a.draw([draft(100, keep=1)])
        assert (balance.others, balance.spent) == (40, 0)
        found = redis.client.hget(budget, "d:dead")
        nano, till = found.split(b":")
        assert (nano, float(till) < time.time() + 61) == (b"40", True)


@pytest.mark.parametrize("before", [1, 0])
async def test_a_place_that_is_given_back_while_a_count_is_being_told_is_told_too(
    before: int, redis: RedisServer
) -> None:
    """Also one that was taken after a count of none was asked to be told, and given back before that was answered."""
    async with process(redis, "a") as (a, lossy):
        asked, answered = asyncio.Event(), asyncio.Event()

        async def late(*command: str | bytes | int, anyway: bool = False) -> Any:
            reply = await lossy.asks.ask(*command, anyway=True)
            if command[0] == "EVAL":  # the first is that of an unknown script
                asked.set()
                await answered.wait()
            return reply

        redis.client.script_flush()
        lossy.ask = late  # type: ignore[method-assign]
        a.note([("acme", before)], [])
        await asked.wait()
        key = a._place("acme")
        redis.client.hset(key, "a", "1:99999999999.0")
        redis.client.expire(key, 60)
        a.note([("acme", 0)], [])
        answered.set()
        await eventually(lambda: redis.client.exists(key) == 0)
        await eventually(lambda: not a._places)


async def test_a_place_that_is_given_back_while_another_one_is_asked_for_is_not_told_again(redis: RedisServer) -> None:
    """Or others would be refused for it as long as the one that was asked for is taken."""
    async with process(redis, "a") as (a, lossy):
        asked, answered = asyncio.Event(), asyncio.Event()

        async def late(*command: str | bytes | int, anyway: bool = False) -> Any:
            reply = await lossy.asks.ask(*command, anyway=True)
            if not asked.is_set():
                asked.set()
                await answered.wait()
            return reply

        assert await a.take([], Taking("acme", 1, 1, 5, None)) is None
        lossy.ask = late  # type: ignore[method-assign]
        second = asyncio.create_task(a.take([], Taking("acme", 2, 2, 5, None)))
        await asked.wait()
        a.note([("acme", 1)], [])
        answered.set()
        assert await second is None
        for _ in range(2):
            a.tell_again()
            await eventually(lambda: not a._wake.is_set())
            await lossy.asks.ask("PING")  # is asked after it
        told = redis.client.hget(a._place("acme"), "a")
        assert isinstance(told, bytes)
        assert told.startswith(b"1:")


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


@contextmanager
def refusing(redis: RedisServer, how: str) -> Iterator[None]:
    """A Redis that refuses, until the block ends."""
    changed = {
        "OOM": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
        "NOPERM": (["ACL", "SETUSER", "default", "-@scripting"], ["ACL", "SETUSER", "default", "+@all"]),
        "NOPERM in a script": (["ACL", "SETUSER", "default", "-hset"], ["ACL", "SETUSER", "default", "+@all"]),
        "NOREPLICAS": (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
    }[how]
    redis.client.execute_command(*changed[0])  # type: ignore[no-untyped-call]  # redis-py's own
    try:
        yield
    finally:
        redis.client.execute_command(*changed[1])  # type: ignore[no-untyped-call]  # redis-py's own


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is tried again at once."""
    monkeypatch.setattr("app.fleet.limits._AGAIN_S", 0.02)


REFUSALS = ["OOM", "NOPERM", "NOPERM in a script", "NOREPLICAS"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", REFUSALS)
async def test_where_redis_refuses_each_process_goes_by_its_share_and_tells_it_all_when_it_is_taken_again(
    how: str, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    want = Want(("requests", "acme"), 60)
    async with process(redis, "a", "local") as (a, lossy), process(redis, "b", "local") as (b, _):
        (first,) = await a.draw([draft(1000, least=100)])
        assert await a.take([want], Taking("acme", 1, 1, 4, None)) is None
        with refusing(redis, how):
            assert await a.take([want], Taking("acme", 2, 2, 4, None)) is None
            assert await a.take([want], Taking("acme", 3, 3, 4, None)) == "streams"  # its share of four is two
            (drawn,) = await a.draw([draft(1000, book=60, keep=40, least=700)])
            assert drawn.granted == 450  # its share of 900 that were left
            (none,) = await a.draw([Draft("new", *DAY[1:], 1000, 0, 0, 100, 0)])
            assert not none.known
            assert lossy.contact.refuses == how.split()[0]
        await eventually(lambda: not lossy.contact.refuses)
        key = a._place("acme")
        assert str(redis.client.hget(key, "a")).startswith("b'2:")
        assert await b.take([want], Taking("acme", 3, 3, 4, None)) == "streams"
        assert await b.take([want], Taking("acme", 2, 2, 4, None)) is None
        a.note([("acme", 0)], [])
        await eventually(lambda: redis.client.hget(key, "a") is None)
        (told,) = await a.draw([draft(1000, book=90, keep=first.granted - 60 + drawn.granted - 90)])
        assert told.spent == 150
        (others,) = await b.draw([draft(1000)])
        assert (others.spent, others.others) == (150, 400)
        await eventually(lambda: not redis.client.exists("t:{l}:t", "t:{l}:t:h"))
    ours = [message for message in caplog.messages if "Redis refuses" in message or "Redis takes" in message]
    assert [how.split()[0] in message for message in ours] in ([True, False], [True, False] * 2), (
        "one line a change of either's"
    )


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_where_redis_refuses_nothing_is_begun_or_all_by_the_policy(policy: Policy, redis: RedisServer) -> None:
    place = Taking("acme", 4, 4, 4, None)
    async with process(redis, "a", policy) as (a, lossy):
        with refusing(redis, "OOM"):
            if policy == "open":
                assert await a.take([], place) is None
                assert (await a.draw([draft(1000, least=800)]))[0].granted == 800
            else:
                with pytest.raises(FleetAway, match="takes no limits"):
                    await a.take([], place)
                with pytest.raises(StateAway):
                    await a.draw([draft(1000, least=800)])
        await eventually(lambda: not lossy.contact.refuses)
        assert await a.take([], place) is None


async def test_a_full_redis_that_holds_lapsed_places_lets_nobody_in_beyond_his_share(redis: RedisServer) -> None:
    """A script that has freed something would not be refused any more."""
    async with process(redis, "a", "local") as (a, _):
        key = a._place("acme")
        redis.client.hset(key, "other", "3:1000.0")  # long ago: nobody took it anew
        redis.client.expire(key, 60)
        with refusing(redis, "OOM"):
            assert await a.take([], Taking("acme", 3, 3, 4, None)) == "streams"


async def test_an_answer_that_was_lost_is_no_refusal_also_while_redis_refuses(redis: RedisServer) -> None:
    async with process(redis, "a", "open") as (a, lossy):
        with refusing(redis, "OOM"):
            assert await a.take([], Taking("acme", 1, 1, 4, None)) is None
        lossy.loses = True
        with pytest.raises(FleetAway, match="did not answer in time"):
            await a.take([], Taking("acme", 2, 2, 4, None))
