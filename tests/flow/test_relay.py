"""The heart: it waits where it is full, loses nothing, ends once, and leaves nothing behind wherever it is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.events import ClaudeEvent, Delta, End, Item
from app.errors import InternalError, SluicewayError, UpstreamCut, UpstreamTimeout
from app.flow.batching import Window
from app.flow.channel import Channel
from app.flow.relay import consume, produce
from app.settings.sections import Pace
from tests.support.clock import Cancelling, jumping, loop, run, settled
from tests.support.fakes import ScriptedReader, ScriptedSource, Step, event, joined, text

PACE = Pace(batch_bytes=1000, commit_s=1.0, heartbeat_s=15.0)
NO_SLACK_S = 0.1 * (1 - Window.SLACK)
START, STOP = event("content_block_start"), event("message_stop")


def ignore(_event: ClaudeEvent) -> None:
    pass


def spaced(events: Sequence[ClaudeEvent], apart_s: float) -> list[Step]:
    """A script that says one event after another, with a wait after each."""
    script: list[Step] = []
    for said in events:
        script += [[said], apart_s]
    return script


def drained(channel: Channel) -> list[Item]:
    return [channel.get_nowait() for _ in range(channel.qsize())]


async def with_producer(source: ScriptedSource, channel: Channel, reader: ScriptedReader, pace: Pace = PACE, window_s: float = 0.1) -> SluicewayError | None:  # fmt: skip
    """Relays a whole answer; what `consume` returned."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(produce(source, channel, ignore))
        return await consume(channel, Window(window_s, 1.0), reader, pace)


# produce


@jumping
async def test_the_producer_puts_every_event_in_order_and_then_one_end() -> None:
    events: list[ClaudeEvent] = [START, text("a"), text("b"), STOP]
    source, channel, seen = ScriptedSource([events[:2], 0.5, events[2:]]), Channel(10, 1000), list[ClaudeEvent]()
    await produce(source, channel, seen.append)
    assert drained(channel) == [*events, End()]
    assert seen == events
    assert source.closed


@jumping
async def test_the_producer_waits_while_the_channel_is_full_and_reads_no_further() -> None:
    source = ScriptedSource([[text("a")], [text("b")], [text("c")], [text("d")]])
    channel = Channel(2, 1000)
    producing = asyncio.create_task(produce(source, channel, ignore))
    await settled()
    assert channel.paused  # it has started, and waits in put
    assert (channel.qsize(), source.reads) == (2, 3)
    await asyncio.sleep(3600)
    assert (channel.qsize(), source.reads) == (2, 3)
    for reads in (4, 5):
        channel.get_nowait()
        await settled()
        assert source.reads == reads
    assert not producing.done()
    channel.get_nowait()
    await producing
    assert source.reads == 5  # four with an event, and the one that found the end
    assert [type(item) for item in drained(channel)] == [Delta, End]


@jumping
async def test_what_has_arrived_is_seen_before_there_is_room_for_it() -> None:
    """The account must be true of a stream that ends while it is held."""
    source, channel, seen = ScriptedSource([[text("a"), text("b"), text("c")]]), Channel(1, 1000), list[ClaudeEvent]()
    producing = asyncio.create_task(produce(source, channel, seen.append))
    await settled()
    assert channel.paused
    assert seen == [text("a"), text("b"), text("c")]
    producing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await producing
    assert seen == [text("a"), text("b"), text("c")]


@pytest.mark.parametrize("opening", [True, False])
def test_an_error_of_claudes_side_comes_after_the_events_before_it(opening: bool) -> None:
    async def scene() -> None:
        error = UpstreamCut("cut")
        source = ScriptedSource([[text("a")], error], opening=[error] if opening else [])
        channel = Channel(10, 1000)
        await produce(source, channel, ignore)
        assert drained(channel) == ([End(error)] if opening else [text("a"), End(error)])
        assert source.closed

    run(scene())


def test_a_defect_ends_the_stream_as_one_and_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> list[Item]:
        source, channel = ScriptedSource([[text("a")], ValueError("prompt: secret")]), Channel(10, 1000)
        await produce(source, channel, ignore)
        assert source.closed
        return drained(channel)

    with caplog.at_level(logging.ERROR, "app.relay"):
        *events, end = run(scene())
    assert events == [text("a")]
    assert isinstance(end, End)
    assert isinstance(end.error, InternalError)
    assert "secret" not in str(end.error)
    assert [record.getMessage() for record in caplog.records] == ["the producer failed"]


@jumping
async def test_what_the_source_hands_over_as_it_closes_is_seen_too() -> None:
    source = ScriptedSource([[text("a")], asyncio.Event()], unread=[text("b"), STOP])
    seen = list[ClaudeEvent]()
    producing = asyncio.create_task(produce(source, Channel(10, 1000), seen.append))
    await settled()
    producing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await producing
    assert seen == [text("a"), text("b"), STOP]


@jumping
async def test_a_failed_answer_is_closed_before_its_end_finds_room() -> None:
    source = ScriptedSource([[text("a")], UpstreamCut("cut")])
    channel = Channel(1, 1000)
    producing = asyncio.create_task(produce(source, channel, ignore))
    await settled()
    assert not producing.done()
    assert source.closed
    drained(channel)
    await producing


# consume


@jumping
async def test_the_first_batch_goes_at_once_and_the_next_ones_a_window_apart() -> None:
    began = loop().time()
    reader = ScriptedReader()
    tokens = spaced([text(f"{place} ") for place in range(50)], 0.02)
    assert await with_producer(ScriptedSource([0.5, *tokens, [STOP]]), Channel(64, 4096), reader) is None
    times = [at - began for at, _ in reader.batches]
    assert times[0] == pytest.approx(0.5)
    apart = [second - first for first, second in zip(times, times[1:], strict=False)]  # noqa: RUF007
    assert apart[:-1] == pytest.approx([NO_SLACK_S] * len(apart[:-1]))  # the last goes with the answer's end
    assert joined(reader.events) == [(0, "text", "".join(f"{place} " for place in range(50))), STOP.raw]
    assert reader.finished == [None]
    assert reader.signs == []


@jumping
async def test_what_is_there_already_goes_in_one_batch_with_the_first() -> None:
    reader, channel = ScriptedReader(), Channel(10, 1000)
    for item in (START, text("a"), text("b"), STOP, End()):
        channel.put_nowait(item)
    assert await consume(channel, Window(0.1, 1), reader, PACE) is None
    assert [batch for _, batch in reader.batches] == [[START, text("ab", count=2), STOP]]


@jumping
async def test_the_messages_start_does_not_hold_the_first_word_back() -> None:
    began, reader = loop().time(), ScriptedReader()
    await with_producer(ScriptedSource([[START], 0.01, [text("a")], 0.01, [text("b")], 5.0]), Channel(10, 1000), reader)
    assert [at - began for at, _ in reader.batches] == pytest.approx([0, 0.01, 0.01 + NO_SLACK_S])


@jumping
async def test_an_event_after_a_pause_longer_than_the_window_goes_at_once() -> None:
    began, reader = loop().time(), ScriptedReader()
    await with_producer(ScriptedSource([[text("a")], 5.0, [text("b")], 0.5]), Channel(10, 1000), reader)
    assert [at - began for at, _ in reader.batches] == pytest.approx([0, 5])


@jumping
async def test_a_batch_of_the_largest_size_does_not_wait_for_its_window() -> None:
    began, reader = loop().time(), ScriptedReader()
    pace = Pace(batch_bytes=100, commit_s=1, heartbeat_s=15)
    tokens = spaced([text("x" * 30)] * 10, 0.001)
    await with_producer(ScriptedSource(tokens), Channel(64, 4096), reader, pace, window_s=5.0)
    sizes = [sum(len(item.text) for item in batch if isinstance(item, Delta)) for _, batch in reader.batches]
    assert sizes == [30, 120, 120, 30]
    assert reader.batches[-1][0] - began < 0.1


@jumping
async def test_a_batch_of_the_largest_size_is_counted_in_bytes() -> None:
    """Thirty characters of three bytes each: two deltas are above a hundred bytes, where of ASCII it takes four."""
    reader = ScriptedReader()
    pace = Pace(batch_bytes=100, commit_s=1, heartbeat_s=15)
    tokens = spaced([text("漢" * 30)] * 5, 0.001)
    await with_producer(ScriptedSource(tokens), Channel(64, 4096), reader, pace, window_s=5.0)
    sizes = [sum(len(item.text) for item in batch if isinstance(item, Delta)) for _, batch in reader.batches]
    assert sizes == [30, 60, 60]


@jumping
async def test_a_batch_is_drained_before_more_is_taken() -> None:
    source = ScriptedSource([[text("x" * 100)] for _ in range(20)])
    channel, reader = Channel(2, 4096), ScriptedReader(stalls_at=150)
    pace = Pace(batch_bytes=100, commit_s=1, heartbeat_s=15)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(produce(source, channel, ignore))
        consuming = tasks.create_task(consume(channel, Window(0.1, 1), reader, pace))
        await reader.stalled.wait()
        await settled()
        before = (reader.taken_bytes, channel.qsize(), source.reads)
        assert before[:2] == (150, 2)
        assert channel.paused
        await asyncio.sleep(3600)
        assert (reader.taken_bytes, channel.qsize(), source.reads) == before
        assert reader.signs == []  # one writer: a heartbeat cannot overtake a write that waits
        reader.resume()
        assert await consuming is None
    assert joined(reader.events) == [(0, "text", "x" * 2000)]
    assert channel.statistics().peak_items == 2


@jumping
async def test_a_reader_that_lags_gets_fewer_and_larger_batches() -> None:
    reader = ScriptedReader(drain_s=0.3)
    tokens = spaced([text("x")] * 100, 0.02)
    await with_producer(ScriptedSource(tokens), Channel(64, 8192), reader)
    sizes = [sum(len(item.text) for item in batch if isinstance(item, Delta)) for _, batch in reader.batches]
    assert sum(sizes) == 100
    assert max(sizes[2:]) >= 15  # a window of 0.4 s, not the 5 tokens of one of 0.1 s


class Unclosable(ScriptedSource):
    """One that fails when it is told to close."""

    async def close(self) -> list[ClaudeEvent]:
        await super().close()
        raise RuntimeError("broken")


@jumping
@pytest.mark.parametrize("failure", [None, UpstreamCut("cut")])
async def test_a_failure_in_closing_does_not_take_the_last_event_from_the_reader(failure: UpstreamCut | None) -> None:
    reader, source = ScriptedReader(), Unclosable([[text("a")], *([failure] if failure else [])])
    await with_producer(source, Channel(10, 1000), reader)
    assert reader.finished == [failure]
    assert source.closed


@jumping
async def test_signs_of_life_come_after_commit_s_and_then_every_heartbeat_s() -> None:
    began, reader = loop().time(), ScriptedReader()
    await with_producer(ScriptedSource([40.0, [text("a")], 20.0, [STOP]]), Channel(10, 1000), reader)
    assert [at - began for at in reader.signs] == pytest.approx([1, 16, 31, 55])
    assert [at - began for at, _ in reader.batches] == pytest.approx([40, 60])


@jumping
async def test_no_sign_of_life_comes_while_batches_do() -> None:
    reader = ScriptedReader()
    tokens = spaced([text("x")] * 20, 0.9)
    await with_producer(ScriptedSource(tokens), Channel(10, 1000), reader)
    assert reader.signs == []


@pytest.mark.parametrize("silence_s", [0.0, 0.5])
def test_an_error_before_the_first_byte_is_the_callers_to_tell(silence_s: float) -> None:
    async def scene() -> None:
        reader, error = ScriptedReader(), UpstreamTimeout("late")
        with pytest.raises(BaseExceptionGroup) as failed:
            await with_producer(ScriptedSource([silence_s, error]), Channel(10, 1000), reader)
        assert failed.value.exceptions == (error,)
        assert (reader.committed, reader.finished, reader.batches) == (False, [], [])

    run(scene())


@pytest.mark.parametrize("steps", [[[text("a")]], [1.5], [[text("a")], 0.5]])
def test_an_error_after_the_first_byte_is_the_last_event(steps: list[Step]) -> None:
    async def scene() -> None:
        reader, error = ScriptedReader(), UpstreamCut("cut")
        assert await with_producer(ScriptedSource([*steps, error]), Channel(10, 1000), reader) is error
        assert reader.finished == [error]
        assert joined(reader.events) == ([(0, "text", "a")] if [text("a")] in steps else [])

    run(scene())


@jumping
async def test_half_a_code_point_is_kept_for_its_other_half_and_not_sent_alone() -> None:
    reader = ScriptedReader()
    source = ScriptedSource([[text("a\ud83d")], 0.5, [text("\ude00")], 0.5, [text("\ud83d")], 0.5])
    assert await with_producer(source, Channel(10, 1000), reader) is None
    assert [batch for _, batch in reader.batches] == [[text("a")], [text("😀", count=1)], [text("\ud83d")]]


@jumping
async def test_an_answer_without_an_event_is_finished_without_a_batch() -> None:
    reader = ScriptedReader()
    assert await with_producer(ScriptedSource([]), Channel(10, 1000), reader) is None
    assert (reader.batches, reader.finished) == ([], [None])


@pytest.mark.parametrize("breaks_at", [0, 1, 5])
def test_a_reader_that_is_gone_is_told_of_by_the_connections_own_error(breaks_at: int) -> None:
    async def scene() -> None:
        reader, channel = ScriptedReader(breaks_at=breaks_at), Channel(10, 1000)
        for item in (text("a"), text("bcdefgh"), End()):
            channel.put_nowait(item)
        with pytest.raises(ConnectionResetError):
            await consume(channel, Window(0.1, 1), reader, PACE)
        assert reader.finished == []

    run(scene())


@jumping
async def test_a_reader_that_breaks_during_a_sign_of_life_is_noticed() -> None:
    with pytest.raises(ConnectionResetError):
        await consume(Channel(10, 1000), Window(0.1, 1), ScriptedReader(breaks_at=1), PACE)


# Both


steps = st.lists(
    st.lists(
        st.builds(text, st.text("aé😀\ud83d\ude00", max_size=30), st.integers(0, 1)) | st.sampled_from([START, event("x", 200)]),
        min_size=1,
        max_size=5,
    )
    | st.sampled_from([0.01, 0.1, 2.0]),
    max_size=15,
)  # fmt: skip


@given(steps, st.integers(1, 6), st.integers(64, 400), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.0, 0.05, 3.0]), st.sampled_from([1, 50, 1000]))  # fmt: skip
def test_whatever_the_clocks_do_the_reader_gets_what_claude_said(
    script: list[Step], max_items: int, max_bytes: int, window_s: float, drain_s: float, batch_bytes: int
) -> None:
    async def scene() -> None:
        source, reader = ScriptedSource(script), ScriptedReader(drain_s=drain_s)
        channel = Channel(max_items, max_bytes)
        pace = Pace(batch_bytes=batch_bytes, commit_s=1, heartbeat_s=15)
        assert await with_producer(source, channel, reader, pace, window_s) is None
        assert joined(reader.events) == joined(source.given)
        assert reader.finished == [None]
        assert channel.statistics().peak_items <= max_items
        assert channel.empty()
        channel.close()
        assert loop().timers() == 0

    run(scene())


class Scene:
    """A relay with all that can be waited for: Claude, room in the channel, a window, a heartbeat, a stalled reader.

    Args:
        ending: what ends the answer early, if anything does.
    """

    def __init__(self, ending: Sequence[Step]) -> None:
        script: list[Step] = [[START, text("a")], 0.05, [text("b"), text("c"), text("d")], 20.0, [text("e" * 100)]]
        script += [[text("f", 1)], 0.3, [text("g", 1), STOP], *ending]
        self.source = ScriptedSource(script, opening=[1.5], unread=[text("unread", 1), STOP])
        self.channel = Channel(2, 300)
        self.reader = ScriptedReader(drain_s=0.01, stalls_at=60)
        self.seen: list[ClaudeEvent] = []

    async def play(self, producer: Cancelling, consumer: Cancelling) -> None:
        """Both tasks as a session owns them: the end of the reader, or a cancellation, ends both."""

        async def resume() -> None:
            await self.reader.stalled.wait()
            await asyncio.sleep(30)
            self.reader.resume()

        resuming = asyncio.create_task(resume())
        producing = asyncio.create_task(producer.run(produce(self.source, self.channel, self.seen.append)))
        consuming = asyncio.create_task(consumer.run(consume(self.channel, Window(0.1, 1), self.reader, PACE)))
        producing.add_done_callback(lambda task: consuming.cancel() if task.cancelled() else None)
        consuming.add_done_callback(lambda _task: producing.cancel())
        await asyncio.gather(producing, consuming, return_exceptions=True)
        resuming.cancel()
        await asyncio.gather(resuming, return_exceptions=True)

    def check(self) -> None:
        """What holds wherever it was cancelled."""
        assert self.source.closed
        assert self.seen == self.source.given, "each event that arrived is accounted for once, in order"
        assert STOP in self.seen[-1:], "also what had arrived unread"
        assert not self.channel.paused
        held = drained(self.channel)
        assert all(not isinstance(item, End) for item in held[:-1])
        assert all(item in self.source.given for item in held if not isinstance(item, End))
        assert len(self.reader.finished) <= 1
        assert not (self.reader.finished and held), "the last event is the last"
        *whole, last = joined(self.reader.events) or [b""]
        given = joined(self.source.given)
        assert given[: len(whole)] == whole
        if isinstance(last, tuple):
            of = given[len(whole)]
            assert last[:2] == of[:2]
            assert str(of[2]).startswith(last[2])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.channel.close()
        assert loop().timers() == 0


@pytest.mark.parametrize("ending", [[], [UpstreamCut("cut")], [0.5, UpstreamCut("cut")]])
@pytest.mark.parametrize("cancelled", ["producer", "consumer"])
def test_a_cancellation_at_any_await_leaves_nothing_behind(cancelled: str, ending: list[Step]) -> None:
    async def scene(at: int) -> Cancelling:
        played = Scene(ending)
        cancelling, other = Cancelling(at), Cancelling(0)
        both = (cancelling, other) if cancelled == "producer" else (other, cancelling)
        await played.play(*both)
        played.check()
        if at == 0:
            assert played.reader.finished == [ending[-1] if ending else None], "the scene is played to its end"
            assert played.reader.signs, "with a heartbeat"
            assert played.channel.statistics().pauses, "and with a producer that waited for room"
        else:
            assert cancelling.awaits >= at, "it came to the await at which it was to be cancelled"
        return cancelling

    count = run(scene(0)).awaits
    assert count >= 6
    for at in range(1, count + 1):
        run(scene(at))
