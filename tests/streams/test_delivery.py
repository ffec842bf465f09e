"""The way of the frames to whichever reader is there."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from app.answer.events import DeltaKind
from app.streams.credits import Credits
from app.streams.delivery import SLICE_BYTES, Delivery, Frames
from app.streams.lifecycle import Lifecycle, ReaderState
from app.streams.replay import Replay, ReplayBudget
from app.wire.plain import PlainFormat
from tests.support.clock import jumping, loop, settled
from tests.support.connections import FakeConnection, Page
from tests.support.fakes import text


class Told:
    """A page in the books that remembers."""

    def __init__(self) -> None:
        self.chars: dict[str, int] = {}
        self.batches: list[int] = []

    def delivered(self, chars: dict[DeltaKind, int]) -> None:
        for kind, count in chars.items():
            self.chars[kind] = self.chars.get(kind, 0) + count

    def batch(self, size_bytes: int) -> None:
        self.batches.append(size_bytes)


class Scene:
    """A delivery, and the session's part around it: readers take over, and who is lost is waited for."""

    def __init__(self, max_bytes: int = 10**6, total_bytes: int = 10**7) -> None:
        self.told = Told()
        self.replay = Replay(max_bytes, ReplayBudget(total_bytes))
        self.frames = Frames(PlainFormat(thinking=False), self.replay)
        self.lifecycle = Lifecycle()
        self.delivery = Delivery(self.frames, self.lifecycle, self.told, 10.0, lambda: None)

    def attach(self, connection: FakeConnection) -> FakeConnection:
        connection.handled = lambda: self.lose(connection)
        self.delivery.hand_over()
        self.lifecycle.reader = ReaderState.ATTACHED
        self.delivery.attach(connection)
        return connection

    def lose(self, connection: FakeConnection) -> None:
        if self.delivery.connection is connection:
            self.lifecycle.reader = ReaderState.HELD
            self.delivery.detach(connection)


def read(*connections: FakeConnection) -> Page:
    page = Page()
    for connection in connections:
        page.take(connection.received)
    return page


@jumping
async def test_a_send_waits_for_a_reader_to_come_and_counts_once_as_delivered() -> None:
    scene = Scene()
    delivery, told = scene.delivery, scene.told
    first = scene.attach(FakeConnection(cut_at=0))
    sending = asyncio.create_task(delivery.send([text("héllo")]))
    await asyncio.sleep(1000)
    assert not sending.done()
    assert told.chars == {}
    second = scene.attach(FakeConnection())
    await sending
    assert told.chars == {"text": 5}
    assert read(second).text == "héllo"
    assert first.received == b""


@jumping
async def test_a_late_reader_gets_what_it_lacks_in_slices_each_drained() -> None:
    scene = Scene()
    delivery, told = scene.delivery, scene.told
    scene.attach(FakeConnection())
    for _ in range(100):
        await delivery.send([text("x" * 1000)])
    late = FakeConnection(drain_s=1.0)
    scene.attach(late)
    await delivery.keep_alive()
    assert len(late.writes) >= 6
    assert max(len(data) for _, data in late.writes) <= SLICE_BYTES
    assert read(late).text == "x" * 100_000
    assert max(told.batches) <= SLICE_BYTES


@jumping
async def test_a_sign_of_life_commits_the_status_and_is_one() -> None:
    scene = Scene()
    delivery = scene.delivery
    connection = scene.attach(FakeConnection())
    await delivery.keep_alive()
    assert connection.received == b": keep-alive\n"


@jumping
async def test_while_the_page_shows_nothing_only_signs_of_life_are_sent() -> None:
    scene = Scene()
    delivery = scene.delivery
    connection = FakeConnection(credits=Credits(100, 0))
    scene.attach(connection)
    await delivery.send([text("x" * 200)])
    sending = asyncio.create_task(delivery.send([text("y")]))
    began = loop().time()
    await asyncio.sleep(35)
    assert [round(at - began) for at, data in connection.writes if data == b": keep-alive\n"] == [10, 20, 30]
    assert not sending.done()
    delivery.shown(1)
    await settled()
    assert sending.done()


@jumping
async def test_a_page_may_say_how_far_it_is_within_a_replay() -> None:
    """Its words come every few frames: were the slice one item of what is out, it would stay out until the next word."""
    scene = Scene()
    for _ in range(12):
        await scene.delivery.send([text("x" * 100)])
    size_bytes = len(scene.replay.after(0, 1)[0])
    scene.attach(FakeConnection(credits=(credits := Credits(8 * size_bytes, 0))))
    replaying = asyncio.create_task(scene.delivery.keep_alive())
    await settled()
    assert credits.exhausted
    assert credits.out_bytes <= 8 * size_bytes
    scene.delivery.shown(6)
    await settled()
    assert replaying.done()
    assert credits.out_bytes == sum(map(len, scene.replay.after(6, math.inf)))


@jumping
async def test_who_comes_back_is_held_to_no_word_of_the_connection_before() -> None:
    scene = Scene()
    scene.attach(FakeConnection(credits=(first := Credits(100, 0))))
    scene.delivery.shown(0, again_s=9.0)
    scene.attach(FakeConnection(credits=(second := Credits(100, 0))))
    assert (first.next_word_by - loop().time(), second.next_word_by) == (9.0, math.inf)


@jumping
async def test_credits_used_up_do_not_hold_up_a_takeover() -> None:
    scene = Scene()
    delivery = scene.delivery
    first = scene.attach(FakeConnection(credits=Credits(1, 0)))
    await delivery.send([text("a")])
    sending = asyncio.create_task(delivery.send([text("b")]))
    await settled()
    second = scene.attach(FakeConnection())
    await sending
    assert read(second).text == "ab"
    assert read(first).last["type"] == "taken_over"


@jumping
async def test_a_batch_of_several_frames_is_whole_however_full_the_budget_is() -> None:
    scene = Scene(total_bytes=10)
    delivery, replay = scene.delivery, scene.replay
    connection = scene.attach(FakeConnection())
    for _ in range(5):
        await delivery.send([text("a" * 100, 0), text("b" * 100, 1), text("c" * 100, 2)])
    assert read(connection).text == ("a" * 100 + "b" * 100 + "c" * 100) * 5
    assert replay.first_id == 13


@jumping
async def test_a_reader_that_lacks_what_is_gone_is_told_and_the_stream_goes_on() -> None:
    scene = Scene(max_bytes=300)
    delivery = scene.delivery
    scene.attach(FakeConnection())
    await delivery.send([text("1" * 100)])
    late = scene.attach(FakeConnection())  # all is there yet, but not once the next one has come
    sending = asyncio.create_task(delivery.send([text("2" * 250)]))
    await settled()
    assert not sending.done()
    assert late.released
    assert late.error is not None
    assert late.error.status == 410
    good = scene.attach(FakeConnection(1))
    await sending
    assert b"2222" in good.received


@jumping
async def test_nothing_follows_the_answers_last_event_not_even_being_taken_over() -> None:
    scene = Scene()
    delivery = scene.delivery
    first = scene.attach(FakeConnection(stalls_at=0))
    finishing = asyncio.create_task(delivery.finish(None))
    await settled()
    second = scene.attach(FakeConnection())
    await finishing
    assert "done" in read(first).last
    assert first.released
    assert "done" in read(second).last


@jumping
async def test_readers_that_were_not_told_yet_are_let_go_too() -> None:
    scene = Scene()
    delivery = scene.delivery
    first = scene.attach(FakeConnection())
    await delivery.keep_alive()
    second = scene.attach(FakeConnection())
    scene.lose(second)
    assert delivery.committed, "the first one knows the stream's id"
    delivery.release(None)
    assert first.released


@jumping
async def test_a_finished_stream_whose_frames_are_freed_while_they_are_read_says_so() -> None:
    scene = Scene()
    delivery, replay = scene.delivery, scene.replay
    scene.attach(FakeConnection())
    for _ in range(40):
        await delivery.send([text("x" * 1000)])
    await delivery.finish(None)
    reader = FakeConnection(drain_s=1.0)
    reading: asyncio.Task[Any] = asyncio.create_task(scene.frames.write_all(reader))
    await asyncio.sleep(0.5)
    replay.clear()
    await reading
    assert read(reader).last["type"] == "expired"
