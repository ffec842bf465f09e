"""Every stream that a reader can ask for, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from app.access.callers import Caller
from app.answer.outcome import Outcome
from app.errors import BadRequest, Expired, Forbidden, NotFound, ShuttingDown
from app.streams.lifecycle import ReaderState
from app.streams.liveness import Finding
from app.streams.terms import Policy, new_stop_token
from tests.support.clock import jumping, loop, run, settled
from tests.support.connections import FakeConnection, Page, StreamsUnderTest, streams_under_test
from tests.support.fakes import Step, event, text

SHORT: list[Step] = [[event("message_start")], [text("all of it")], [event("message_stop")]]
ENDLESS: list[Step] = [[text("x" * 10)] for _ in range(1000)]


async def whole(opened: StreamsUnderTest, stream_id: str = "st_1", steps: list[Step] = SHORT) -> bytes:
    """A stream that has ended."""
    opened.start(steps, connection := FakeConnection(), stream_id=stream_id)
    await connection.over.wait()
    await settled()
    assert stream_id not in opened.streams.live
    return connection.received


@jumping
async def test_an_ended_stream_is_there_for_its_time_and_then_not() -> None:
    async with streams_under_test(replay_s=60.0) as opened:
        sent = await whole(opened)
        await asyncio.sleep(59.9)
        await opened.resume("st_1", "c", again := FakeConnection())
        assert again.received == sent
        await asyncio.sleep(0.2)
        with pytest.raises(NotFound):
            await opened.resume("st_1", "c", FakeConnection())
        assert opened.archive.budget.used_bytes == 0


@jumping
async def test_only_the_same_caller_finds_a_stream_living_or_ended() -> None:
    async with streams_under_test() as opened:
        await whole(opened)
        opened.start(ENDLESS, FakeConnection(stalls_at=0), stream_id="st_2")
        await settled()
        for stream_id in ("st_1", "st_2", "st_3"):
            with pytest.raises(NotFound):
                await opened.resume(stream_id, "another", FakeConnection())
            with pytest.raises(NotFound):
                opened.streams.find(stream_id, Caller(name="another"), None)


@dataclass
class Steering:
    caller: str
    token: str | None
    error: type[Exception] | None


@pytest.mark.parametrize(
    "steering",
    [
        Steering("c", None, None),
        Steering("", "token of st_1", None),
        Steering("", "token of st_2", NotFound),
        Steering("", "", NotFound),
        Steering("", "é\ud800\udcff", NotFound),
        Steering("", None, Forbidden),
        Steering("é", None, NotFound),
    ],
)
def test_a_stream_is_steered_by_its_caller_or_its_token(steering: Steering) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            session, _ = opened.start(ENDLESS, FakeConnection(stalls_at=0))
            await settled()
            if steering.error is None:
                assert opened.streams.find("st_1", Caller(name=steering.caller), steering.token) is session
            else:
                with pytest.raises(steering.error):
                    opened.streams.find("st_1", Caller(name=steering.caller), steering.token)

    run(scene())


@jumping
async def test_places_that_are_gone_or_not_there_yet_are_refused() -> None:
    async with streams_under_test(replay_bytes=400) as opened:
        steps: list[Step] = []
        for n in range(9):
            steps += [[text(f"{n}" * 90)], 1.0]
        last_id = (await whole(opened, steps=steps)).count(b"\n\n")
        with pytest.raises(Expired):
            await opened.resume("st_1", "c", FakeConnection(1))
        with pytest.raises(BadRequest, match=f"last, {last_id}"):
            await opened.resume("st_1", "c", FakeConnection(last_id + 1))
        await opened.resume("st_1", "c", end := FakeConnection(last_id))
        assert end.released
        assert end.received == b""


@jumping
async def test_a_stream_that_keeps_nothing_is_not_resumed() -> None:
    async with streams_under_test() as opened:
        opened.start(ENDLESS, FakeConnection(stalls_at=0), policy=Policy.ABORT)
        await settled()
        with pytest.raises(Expired):
            await opened.resume("st_1", "c", FakeConnection())


@jumping
async def test_what_ended_longest_ago_makes_room_for_what_runs() -> None:
    async with streams_under_test(replay_total_bytes=4000) as opened:
        for place in range(8):
            await whole(opened, f"st_{place}", [[text("x" * 900)], [event("message_stop")]])
        with pytest.raises(Expired):
            await opened.resume("st_0", "c", FakeConnection())
        await opened.resume("st_7", "c", last := FakeConnection())
        page = Page()
        page.take(last.received)
        assert page.text == "x" * 900
        assert opened.archive.budget.used_bytes <= 4000
        assert opened.streams.has_room


@jumping
async def test_a_stalled_reader_of_an_ended_stream_is_dropped() -> None:
    async with streams_under_test() as opened:
        await whole(opened)
        stalled = FakeConnection(stalls_at=0)
        reading = asyncio.create_task(opened.resume("st_1", "c", stalled))
        await asyncio.sleep(3)
        assert not reading.done()
        stalled.finding = Finding.STALLED
        await asyncio.sleep(1.1)
        assert stalled.aborted
        assert reading.done()
        assert await reading is None


@jumping
async def test_a_drain_takes_nobody_in_and_ends_who_is_left_when_its_time_is_over() -> None:
    async with streams_under_test(drain_s=10.0) as opened:
        opened.start([*SHORT[:2], 900.0], long := FakeConnection())
        opened.start([[text("y")], 5.0], short := FakeConnection(), stream_id="st_2")
        await asyncio.sleep(1)
        began = loop().time()
        draining = asyncio.create_task(opened.streams.drain())
        await settled()
        assert not opened.streams.accepting
        with pytest.raises(ShuttingDown):
            opened.start(SHORT, FakeConnection(), stream_id="st_3")
        await draining
        assert loop().time() - began == pytest.approx(10.0)
        await long.over.wait()
        for connection, told in ((short, "done"), (long, "error")):
            page = Page()
            page.take(connection.received)
            assert told in page.last
        await settled()
        assert opened.settled() == {"completed": 1, "shutdown": 1}


@jumping
async def test_a_drain_is_over_when_the_last_stream_is_or_in_a_hurry() -> None:
    async with streams_under_test(drain_s=1000.0) as opened:
        opened.start([[text("y")], 5.0], FakeConnection())
        await asyncio.sleep(1)
        began = loop().time()
        await opened.streams.drain()
        assert loop().time() - began == pytest.approx(4.0)
    async with streams_under_test(drain_s=1000.0) as opened:
        opened.start([500.0, [text("y")]], FakeConnection())
        draining = asyncio.create_task(opened.streams.drain())
        await asyncio.sleep(1)
        opened.streams.patience.hurry()
        await draining
        assert loop().time() - began == pytest.approx(5.0)


@jumping
async def test_a_drain_waits_for_a_lost_reader_which_can_come_back_to_all_of_it() -> None:
    async with streams_under_test(drain_s=1000.0) as opened:
        steps: list[Step] = [[event("message_start")], *[[text(f"{n} ")] for n in range(500)], [event("message_stop")]]
        session, _ = opened.start(steps, first := FakeConnection(cut_at=100), grace_s=60.0)
        await first.over.wait()
        await settled()
        assert session.lifecycle.reader is ReaderState.HELD
        draining = asyncio.create_task(opened.streams.drain())
        await asyncio.sleep(50)
        assert not draining.done()
        page = Page()
        page.take(first.received)
        await opened.resume("st_1", "c", second := FakeConnection(page.last_id))
        await draining
        page.take(second.received)
        assert page.text == "".join(f"{n} " for n in range(500))
        assert "done" in page.last


@jumping
async def test_a_drain_ends_a_held_stream_too_when_its_time_is_over() -> None:
    async with streams_under_test(drain_s=10.0) as opened:
        session, source = opened.start(ENDLESS, first := FakeConnection(cut_at=100), grace_s=600.0)
        await first.over.wait()
        await settled()
        assert session.lifecycle.reader is ReaderState.HELD
        began = loop().time()
        await opened.streams.drain()
        await settled()
        assert loop().time() - began == pytest.approx(10.0)
        assert source.closed
        assert opened.settled() == {"shutdown": 1}
        (page := Page()).take(first.received)
        again = FakeConnection(page.last_id)
        assert await opened.resume("st_1", "c", again) is None
        page.take(again.received)
        assert page.last["type"] == "shutdown"


@jumping
async def test_a_drain_is_over_with_the_grace_period_of_the_last_held_stream() -> None:
    async with streams_under_test(drain_s=1000.0) as opened:
        opened.start(ENDLESS, first := FakeConnection(cut_at=100), grace_s=60.0)
        await first.over.wait()
        await settled()
        began = loop().time()
        await opened.streams.drain()
        assert loop().time() - began == pytest.approx(60.0)
    assert opened.settled() == {"expired": 1}


@jumping
async def test_a_drain_waits_for_a_reader_of_an_ended_stream_and_cuts_it_off_at_its_end() -> None:
    async with streams_under_test(drain_s=10.0) as opened:
        await whole(opened)
        stalled = FakeConnection(stalls_at=0)
        reading = asyncio.create_task(opened.resume("st_1", "c", stalled))
        await settled()
        began = loop().time()
        await opened.streams.drain()
        assert loop().time() - began == pytest.approx(10.0)
        assert stalled.aborted
        await reading


@jumping
async def test_leaving_the_store_ends_and_settles_all() -> None:
    async with streams_under_test() as opened:
        for place in range(20):
            opened.start(ENDLESS, FakeConnection(stalls_at=place * 20), stream_id=f"st_{place}")
        await asyncio.sleep(1)
    assert opened.settled() == {Outcome.SHUTDOWN.value: 20}


def test_stop_tokens_are_long_and_differ() -> None:
    tokens = {new_stop_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 24
