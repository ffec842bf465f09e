"""Streams that are found again by the names that their callers gave them: the newest of a name has it."""

from __future__ import annotations

import asyncio

from app.access.callers import Caller
from app.answer.outcome import Outcome
from app.streams.session import Session
from tests.support.clock import jumping, settled
from tests.support.connections import FakeConnection, StreamsUnderTest, streams_under_test
from tests.support.fakes import Step, event, text

SHORT: list[Step] = [[event("message_start")], [text("all of it")], [event("message_stop")]]
PACED: list[Step] = [[text("x" * 10)], 1.0] * 1000


def named(
    opened: StreamsUnderTest, stream_id: str, caller: str = "c", name: str = "chat", steps: list[Step] = PACED
) -> tuple[Session, FakeConnection]:
    connection = FakeConnection()
    return opened.start(steps, connection, stream_id=stream_id, caller=caller, name=name)[0], connection


@jumping
async def test_a_newer_stream_of_a_name_ends_the_older_one_and_has_the_name() -> None:
    async with streams_under_test() as opened:
        older, reader = named(opened, "st_1")
        await settled()
        newer, _ = named(opened, "st_2")
        await settled()
        assert older.outcome is Outcome.TAKEN_OVER
        assert b"a newer question has taken this one's place" in reader.received
        assert newer.outcome is None
        found = opened.streams.named(Caller(name="c"), "chat")
        assert found is not None
        assert found.stream_id == "st_2"


@jumping
async def test_a_name_is_its_callers_own_and_none_is_none() -> None:
    async with streams_under_test() as opened:
        sessions = [
            named(opened, stream_id, caller, name)[0]
            for stream_id, caller, name in (("st_1", "c", "chat"), ("st_2", "d", "chat"), ("st_3", "c", "other"),
                                            ("st_4", "c", ""), ("st_5", "c", ""))
        ]  # fmt: skip
        await settled()
        assert [session.outcome for session in sessions] == [None] * 5
        found = [
            opened.streams.named(Caller(name=caller), name)
            for caller, name in (("c", "chat"), ("d", "chat"), ("c", "other"))
        ]
        assert [terms.stream_id for terms in found if terms is not None] == ["st_1", "st_2", "st_3"]
        assert opened.streams.named(Caller(name="c"), "") is None
        assert opened.streams.named(Caller(name="d"), "other") is None


@jumping
async def test_a_newer_question_elsewhere_ends_the_one_here_and_its_name_is_gone() -> None:
    async with streams_under_test() as opened:
        session, _ = named(opened, "st_1")
        await settled()
        assert opened.streams.overtake("d", "", "chat") is False
        assert opened.streams.named(Caller(name="c"), "chat") is session.terms
        assert opened.streams.overtake("c", "", "chat") is True
        await settled()
        assert session.outcome is Outcome.TAKEN_OVER
        assert opened.streams.named(Caller(name="c"), "chat") is None
        assert opened.streams.overtake("c", "", "chat") is False


@jumping
async def test_an_ended_stream_has_its_name_for_as_long_as_it_can_be_read_again() -> None:
    async with streams_under_test(replay_s=60.0) as opened:
        _, connection = named(opened, "st_1", steps=SHORT)
        await connection.over.wait()
        await asyncio.sleep(59.0)
        found = opened.streams.named(Caller(name="c"), "chat")
        assert found is not None
        assert found.stream_id == "st_1"
        await asyncio.sleep(2.0)
        assert opened.streams.named(Caller(name="c"), "chat") is None


@jumping
async def test_a_name_that_a_newer_stream_has_is_not_taken_from_it_when_the_older_is_forgotten() -> None:
    async with streams_under_test(replay_s=60.0) as opened:
        _, connection = named(opened, "st_1", steps=SHORT)
        await connection.over.wait()
        await asyncio.sleep(59.0)
        named(opened, "st_2")
        await asyncio.sleep(2.0)
        found = opened.streams.named(Caller(name="c"), "chat")
        assert found is not None
        assert found.stream_id == "st_2"
