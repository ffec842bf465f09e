"""The way of the frames to whichever reader is there."""

from __future__ import annotations

import asyncio
from typing import Any

from app.answer.events import DeltaKind
from app.streams.credits import Credits
from app.streams.delivery import SLICE_BYTES, Connection, Delivery
from app.streams.replay import Replay, ReplayBudget
from app.wire.plain import PlainFormat
from tests.support.clock import jumping, loop, settled
from tests.support.connections import FakeConnection, Page
from tests.support.fakes import text


class Told:
    """An observer that remembers, and detaches who is lost, as a session does."""

    def __init__(self) -> None:
        self.chars: dict[str, int] = {}
        self.batches: list[int] = []
        self.delivery: Delivery

    def lost(self, connection: Connection) -> None:
        self.delivery.detach(connection)

    def delivered(self, chars: dict[DeltaKind, int]) -> None:
        for kind, count in chars.items():
            self.chars[kind] = self.chars.get(kind, 0) + count

    def batch(self, size_bytes: int) -> None:
        self.batches.append(size_bytes)


def made(max_bytes: int = 10**6, total_bytes: int = 10**7) -> tuple[Delivery, Told, Replay]:
    told, replay = Told(), Replay(max_bytes, ReplayBudget(total_bytes))
    delivery = Delivery(PlainFormat(thinking=False), replay, told, 10.0, lambda: None)
    told.delivery = delivery
    return delivery, told, replay


def read(*connections: FakeConnection) -> Page:
    page = Page()
    for connection in connections:
        page.take(connection.received)
    return page


@jumping
async def test_a_send_waits_for_a_reader_to_come_and_counts_once_as_delivered() -> None:
    delivery, told, _ = made()
    delivery.attach(first := FakeConnection(cut_at=0))
    sending = asyncio.create_task(delivery.send([text("héllo")]))
    await asyncio.sleep(1000)
    assert not sending.done()
    assert told.chars == {}
    delivery.attach(second := FakeConnection())
    await sending
    assert told.chars == {"text": 5}
    assert read(second).text == "héllo"
    assert first.received == b""


@jumping
async def test_a_late_reader_gets_what_it_lacks_in_slices_each_drained() -> None:
    delivery, told, _ = made()
    delivery.attach(FakeConnection())
    for _ in range(100):
        await delivery.send([text("x" * 1000)])
    late = FakeConnection(drain_s=1.0)
    delivery.attach(late)
    await delivery.keep_alive()
    assert len(late.writes) >= 6
    assert max(len(data) for _, data in late.writes) <= SLICE_BYTES
    assert read(late).text == "x" * 100_000
    assert max(told.batches) <= SLICE_BYTES


@jumping
async def test_a_sign_of_life_commits_the_status_and_is_one() -> None:
    delivery, _, _ = made()
    delivery.attach(connection := FakeConnection())
    await delivery.keep_alive()
    assert connection.received == b": keep-alive\n\n"


@jumping
async def test_while_the_page_shows_nothing_only_signs_of_life_are_sent() -> None:
    delivery, _, _ = made()
    connection = FakeConnection(credits=Credits(100, 0))
    delivery.attach(connection)
    await delivery.send([text("x" * 200)])
    sending = asyncio.create_task(delivery.send([text("y")]))
    began = loop().time()
    await asyncio.sleep(35)
    assert [round(at - began) for at, data in connection.writes if data == b": keep-alive\n\n"] == [10, 20, 30]
    assert not sending.done()
    delivery.shown(1)
    await settled()
    assert sending.done()


@jumping
async def test_credits_used_up_do_not_hold_up_a_takeover() -> None:
    delivery, _, _ = made()
    delivery.attach(first := FakeConnection(credits=Credits(1, 0)))
    await delivery.send([text("a")])
    sending = asyncio.create_task(delivery.send([text("b")]))
    await settled()
    delivery.attach(second := FakeConnection())
    await sending
    assert read(second).text == "ab"
    assert read(first).last["type"] == "taken_over"


@jumping
async def test_a_batch_of_several_frames_is_whole_however_full_the_budget_is() -> None:
    delivery, _, replay = made(total_bytes=10)
    delivery.attach(connection := FakeConnection())
    for _ in range(5):
        await delivery.send([text("a" * 100, 0), text("b" * 100, 1), text("c" * 100, 2)])
    assert read(connection).text == ("a" * 100 + "b" * 100 + "c" * 100) * 5
    assert replay.first_id == 13


@jumping
async def test_a_reader_that_lacks_what_is_gone_is_told_and_the_stream_goes_on() -> None:
    delivery, _, _ = made(max_bytes=300)
    delivery.attach(FakeConnection())
    await delivery.send([text("1" * 100)])
    delivery.attach(late := FakeConnection())  # all is there yet, but not once the next one has come
    sending = asyncio.create_task(delivery.send([text("2" * 250)]))
    await settled()
    assert not sending.done()
    assert late.released
    assert late.error is not None
    assert late.error.status == 410
    delivery.attach(good := FakeConnection(1))
    await sending
    assert b"2222" in good.received


@jumping
async def test_nothing_follows_the_answers_last_event_not_even_being_taken_over() -> None:
    delivery, _, _ = made()
    delivery.attach(first := FakeConnection(stalls_at=0))
    finishing = asyncio.create_task(delivery.finish(None))
    await settled()
    delivery.attach(second := FakeConnection())
    await finishing
    assert "done" in read(first).last
    assert first.released
    assert "done" in read(second).last


@jumping
async def test_readers_that_were_not_told_yet_are_let_go_too() -> None:
    delivery, _, _ = made()
    delivery.attach(first := FakeConnection())
    await delivery.keep_alive()
    delivery.attach(second := FakeConnection())
    delivery.detach(second)
    assert delivery.committed, "the first one knows the stream's id"
    delivery.release(None)
    assert first.released


@jumping
async def test_a_finished_stream_whose_frames_are_freed_while_they_are_read_says_so() -> None:
    delivery, _, replay = made()
    delivery.attach(FakeConnection())
    for _ in range(40):
        await delivery.send([text("x" * 1000)])
    await delivery.finish(None)
    reader = FakeConnection(drain_s=1.0)
    reading: asyncio.Task[Any] = asyncio.create_task(delivery.replay_to(reader))
    await asyncio.sleep(0.5)
    replay.clear()
    await reading
    assert read(reader).last["type"] == "expired"
