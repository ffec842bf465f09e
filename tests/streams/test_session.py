"""A session, cut and resumed in every way: the text is whole, the end is told once, the books are closed once."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref

import pytest

from app.access.callers import Caller
from app.answer.events import ClaudeEvent, Delta
from app.answer.outcome import Outcome
from app.errors import Expired, ShuttingDown, SluicewayError, Stopped, UpstreamCut, UpstreamTimeout
from app.fleet.errors import OwnerLost
from app.streams.lifecycle import ReaderState, UpstreamState
from app.streams.liveness import Finding
from app.streams.terms import Policy, new_stream_id
from app.wire.plain import PlainFormat
from tests.support.clock import jumping, loop, run, settled
from tests.support.connections import FakeConnection, Page, StreamsUnderTest, credits_of, streams_under_test
from tests.support.fakes import ScriptedSource, Step, event, text
from tests.support.tickets import admitted

START, STOP = event("message_start"), event("message_stop")
ENDLESS: list[Step] = [[text("x" * 10)] for _ in range(1000)]
PACED: list[Step] = [[text("x" * 10)], 1.0] * 1000


def answer(rng: random.Random) -> tuple[list[Step], str]:
    """A script of reads and silences, and the text that it says."""
    whole, steps = "", list[Step]([[START]])
    for _ in range(rng.randrange(1, 16)):
        said = ["".join(rng.choices("ab é😀\n", k=rng.randrange(1, 60))) for _ in range(rng.randrange(1, 6))]
        whole += "".join(said)
        steps.append([text(part, index=rng.randrange(2)) for part in said])
        if rng.random() < 0.5:
            steps.append(rng.choice([0.01, 0.05, 0.3, 3.0, 15.0]))
    return [*steps, [STOP]], whole


class Visitor:
    """A page that reads one stream to its end over as many connections as chance gives it.

    Args:
        under_test: where the stream lives.
        rng: chance.
        stream_id: the stream's.
        grace_s: its grace period, which this page never uses up.
    """

    def __init__(self, under_test: StreamsUnderTest, rng: random.Random, stream_id: str, grace_s: float) -> None:
        self.under_test = under_test
        self.rng = rng
        self.stream_id = stream_id
        self.grace_s = grace_s
        self.page = Page()
        self.connections = 0

    def connection(self) -> FakeConnection:
        rng = self.rng
        self.connections += 1
        calm = self.connections > 6  # at some time it must get through
        return FakeConnection(
            self.page.last_id,
            cut_at=rng.randrange(0, 1500) if not calm and rng.random() < 0.7 else None,
            stalls_at=rng.randrange(0, 800) if not calm and rng.random() < 0.3 else None,
            drain_s=rng.choice([0.0, 0.0, 0.02, 0.5]),
            credits=credits_of(rng, self.page),
        )

    async def read(self) -> None:
        rng, streams = self.rng, self.under_test.streams
        steps, whole = answer(rng)
        connection, coming = self.connection(), None
        self.under_test.start(steps, connection, stream_id=self.stream_id, grace_s=self.grace_s)
        while True:
            await self.stay(connection)
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            if self.page.last or not connection.committed:
                break
            if rng.random() < 0.9:
                await asyncio.sleep(rng.choice([0.0, 0.001, 0.2, self.grace_s * 0.9]))
            connection = self.connection()
            coming = asyncio.create_task(streams.resume(self.stream_id, Caller(name="c"), connection, admitted))
        if connection.committed:
            assert self.page.text == whole
            assert "done" in self.page.last
            again = Page()
            await streams.resume(self.stream_id, Caller(name="c"), (second := FakeConnection()), admitted)
            await second.over.wait()
            again.take(second.received)
            assert again == self.page, "a finished stream is read again, the same"

    async def stay(self, connection: FakeConnection) -> None:
        """Reads on one connection until that ends, showing what came; may be taken over, or lose patience."""
        rng = self.rng
        calm = self.connections > 6
        patience = asyncio.create_task(self.act(connection, 1e6 if calm else rng.choice([0.0, 0.05, 0.4, 4.0, 40.0])))
        showing = asyncio.create_task(self.show(connection)) if connection.credits is not None else None
        await connection.over.wait()
        for task in (patience, showing):
            if task is not None:
                task.cancel()
        session = self.under_test.streams.live.get(self.stream_id)
        if session is not None:
            session.lost(connection)  # as the handler does whenever its connection ends
        tried, before = Page(self.page.text, self.page.last_id), len(connection.received)
        if connection.broken and before:  # what was on its way when it broke arrives in part
            connection.received = connection.received[: rng.randrange(before + 1)]
        tried.take(connection.received)
        if tried.last.get("type") == "taken_over":
            tried.last = {}
        self.page = tried

    async def act(self, connection: FakeConnection, after_s: float) -> None:
        await asyncio.sleep(after_s)
        session = self.under_test.streams.live.get(self.stream_id)
        mine = session is not None and session.delivery.connection is connection and not session.lifecycle.over
        match self.rng.randrange(4) if connection.committed and mine else 0:
            case 0:
                connection.break_off()
            case 1:
                connection.finding = self.rng.choice(list(Finding))  # the next look finds it
            case _ if session is not None:  # a second tab, which is closed after a while
                other = FakeConnection(self.rng.randrange(session.replay.last_id + 1))
                await self.under_test.streams.resume(self.stream_id, Caller(name="c"), other, admitted)
                await asyncio.sleep(self.rng.choice([0.0, 0.1]))
                session.lost(other)
                other.break_off()

    async def show(self, connection: FakeConnection) -> None:
        while True:
            await asyncio.sleep(self.rng.choice([0.05, 1.0, 20.0]))
            session = self.under_test.streams.live.get(self.stream_id)
            if session is not None and session.delivery.connection is connection:
                session.delivery.shown(connection.sent_id)


def cut_and_resumed(seed: int, hundreds: int) -> None:
    """So many hundred streams, a hundred at a time; `streams_under_test` holds that each is settled once."""

    async def scene(hundred: int) -> int:
        async with streams_under_test() as opened, asyncio.TaskGroup() as tasks:
            visitors = [
                Visitor(opened, random.Random(f"{seed} {hundred} {place}"), f"st_{place}", 30.0) for place in range(100)
            ]
            for visitor in visitors:
                tasks.create_task(visitor.read())
        return sum(visitor.connections for visitor in visitors)

    connections = sum(run(scene(hundred)) for hundred in range(hundreds))
    assert connections > 250 * hundreds, "the streams were hardly cut"


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))])
def test_cut_anywhere_and_resumed_anywhere_the_text_is_the_uncut_one(seed: int) -> None:
    cut_and_resumed(seed, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_cut_anywhere_and_resumed_anywhere_a_thousand_times_the_text_is_the_uncut_one(seed: int) -> None:
    cut_and_resumed(seed, 10)


@jumping
async def test_it_is_listed_as_it_stands() -> None:
    async with streams_under_test() as opened:
        connection = FakeConnection(cut_at=100)
        session, _ = opened.start(ENDLESS, connection, grace_s=12.0)
        await connection.over.wait()
        await settled()
        await asyncio.sleep(0.12345)
        listed = session.as_dict()
        assert (listed["id"], listed["reader"], listed["paused"]) == ("st_1", "held", True)
        assert listed["pauses"] == session.channel.statistics().pauses > 0
        assert listed["age_s"] == listed["paused_s"] == 0.123
        assert listed["queue_peak_bytes"] >= listed["queue_bytes"] > 0


@jumping
async def test_a_lost_reader_holds_claude_still_and_the_grace_periods_end_aborts() -> None:
    async with streams_under_test() as opened:
        connection = FakeConnection(cut_at=100)
        session, source = opened.start(ENDLESS, connection, grace_s=12.0)
        await connection.over.wait()
        await settled()
        assert session.lifecycle.reader is ReaderState.HELD
        assert session.channel.paused
        lost_at, held = loop().time(), source.reads
        await asyncio.sleep(11.9)
        assert (source.reads, source.closed) == (held, 0)
        assert held * 10 < 100 + 1000 + 400  # what was sent, the queue, a batch
        await asyncio.sleep(lost_at + 11.999 - loop().time())
        await settled()
        assert source.closed == 0
        await asyncio.sleep(0.002)
        await settled()
        assert source.closed == 1
        assert session.outcome is Outcome.EXPIRED
        assert loop().timers() <= 3  # the store's own, not the stream's


@pytest.mark.parametrize("policy", [Policy.ABORT, Policy.GRACE])
def test_without_a_grace_period_the_end_of_the_reader_is_the_end_of_the_stream(policy: Policy) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            connection = FakeConnection(cut_at=100)
            session, source = opened.start(ENDLESS, connection, policy=policy, grace_s=0.0)
            await connection.over.wait()
            await asyncio.sleep(0)
            await settled()
            assert source.closed == 1
            assert session.outcome in (Outcome.DISCONNECTED, Outcome.EXPIRED)

    run(scene())


@jumping
async def test_who_leaves_before_the_status_was_sent_cannot_come_back_so_nothing_is_held() -> None:
    async with streams_under_test() as opened:
        connection = FakeConnection()
        session, source = opened.start([5.0, [START]], connection)
        await settled()
        session.lost(connection)
        await settled()
        assert source.closed == 1
        assert opened.settled() == {"disconnected": 1}


@pytest.mark.parametrize(
    ("steps", "connection", "after_s"),
    [
        pytest.param([5.0, [START]], {}, 1.0, id="before the first token"),
        pytest.param(PACED, {}, 2.5, id="between two tokens"),
        pytest.param(ENDLESS, {"stalls_at": 20}, 5.0, id="while the reader takes nothing"),
        pytest.param(PACED, {"drain_s": 10.0}, 5.0, id="while a batch drains"),
        pytest.param([[START], 60.0], {}, 15.0, id="after a sign of life"),
    ],
)
def test_claude_is_let_go_in_the_moment_in_which_the_readers_end_is_known(
    steps: list[Step], connection: dict[str, float], after_s: float
) -> None:
    """The mark of what is promised within 0.1 s: not a moment of the clock passes in between."""

    async def scene() -> None:
        async with streams_under_test() as opened:
            reader = FakeConnection(**connection)  # type: ignore[arg-type]
            session, source = opened.start(steps, reader, policy=Policy.ABORT)
            await asyncio.sleep(after_s)
            left_at = loop().time()
            session.lost(reader)
            await settled()
            assert (source.closed, loop().time()) == (1, left_at)
            assert opened.settled() == {"disconnected": 1}

    run(scene())


@jumping
async def test_until_when_a_lost_reader_is_waited_for_is_known() -> None:
    async with streams_under_test() as opened:
        session, _ = opened.start(PACED, reader := FakeConnection(), grace_s=5.0)
        await asyncio.sleep(1.5)
        assert session.held_until is None
        session.lost(reader)
        assert session.held_until == loop().time() + 5.0


@jumping
async def test_drain_goes_on_without_a_reader_and_stays_readable() -> None:
    async with streams_under_test() as opened:
        connection = FakeConnection(cut_at=50)
        steps: list[Step] = [[START]]
        for n in range(200):
            steps += [[text(f"{n} ")], 0.1]
        session, _ = opened.start(steps, connection, policy=Policy.DRAIN, grace_s=0.0)
        await asyncio.sleep(60)
        assert session.page.account.settled
        assert opened.settled() == {"disconnected": 1}
        page = Page()
        page.take(connection.received)
        late = FakeConnection(page.last_id)
        assert await opened.resume("st_1", "c", late) is None
        page.take(late.received)
        assert page.text == "".join(f"{n} " for n in range(200))
        assert "done" in page.last


@jumping
async def test_who_comes_back_to_a_draining_stream_holds_it_again() -> None:
    async with streams_under_test() as opened:
        first = FakeConnection(cut_at=50)
        session, source = opened.start(PACED, first, policy=Policy.DRAIN)
        await first.over.wait()
        await settled()
        second = FakeConnection(stalls_at=0)
        await opened.resume("st_1", "c", second)
        await asyncio.sleep(100)
        held = source.reads
        await asyncio.sleep(100)
        assert source.reads == held
        assert session.channel.paused
        session.lost(second)
        await asyncio.sleep(100)
        assert source.reads > held + 90


@jumping
async def test_a_second_reader_gets_all_and_the_first_is_told_that_it_was_taken_over() -> None:
    async with streams_under_test() as opened:
        first, second = FakeConnection(), FakeConnection()
        opened.start([[START], [text("one ")], 5.0, [text("two")], [STOP]], first)
        await asyncio.sleep(1)
        await opened.resume("st_1", "c", second)
        await asyncio.sleep(0.001)
        assert second.received == first.received.partition(b'data: {"error"')[0], "at once, not with the next event"
        await second.over.wait()
        told, whole = Page(), Page()
        told.take(first.received)
        whole.take(second.received)
        assert (told.text, told.last["type"], told.last["retryable"]) == ("one ", "taken_over", False)
        assert whole.text == "one two"
        assert "done" in whole.last


@jumping
async def test_a_stalled_reader_is_taken_over_too_even_in_a_sign_of_life() -> None:
    async with streams_under_test() as opened:
        first = FakeConnection(stalls_at=60)
        session, _ = opened.start([[START], [text("one ")], 100.0, [text("two")], [STOP]], first)
        await asyncio.sleep(50)
        assert len(first.writes) == 4, "it stalls in a sign of life"
        second = FakeConnection()
        await opened.resume("st_1", "c", second)
        await asyncio.sleep(0.001)
        page = Page()
        page.take(second.received)
        assert page.text == "one "
        assert first.released
        assert session.lifecycle.reader is ReaderState.ATTACHED


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.5, 3.5])
def test_a_stop_is_the_readers_last_event_and_closes_claude_at_once(after_s: float) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            connection = FakeConnection()
            session, source = opened.start([3.0, [START], *ENDLESS[:5], 100.0], connection)
            await asyncio.sleep(after_s)
            session.stop(Outcome.STOPPED, Stopped("enough"))
            session.stop(Outcome.SHUTDOWN, ShuttingDown("the first one stands"))
            await settled()
            assert source.closed == (1 if after_s else 0)  # not yet asked
            if connection.committed:
                page = Page()
                page.take(connection.received)
                assert page.last["type"] == "stopped"
            else:
                assert isinstance(connection.error, Stopped)
            assert opened.settled() == {"stopped": 1}

    run(scene())


@jumping
async def test_a_stalled_reader_cannot_put_off_a_stop() -> None:
    async with streams_under_test() as opened:
        connection = FakeConnection(stalls_at=20)
        session, source = opened.start(ENDLESS, connection)
        await asyncio.sleep(5)
        session.stop(Outcome.STOPPED, Stopped("enough"))
        await settled()
        assert source.closed == 1, "Claude is not kept waiting for the farewell"
        await asyncio.sleep(0.51)
        assert connection.aborted
        assert opened.settled() == {"stopped": 1}


@jumping
async def test_a_stop_of_a_stream_without_a_reader_ends_its_grace_period() -> None:
    async with streams_under_test() as opened:
        connection = FakeConnection(cut_at=50)
        session, source = opened.start(ENDLESS, connection)
        await asyncio.sleep(5)
        session.stop(Outcome.STOPPED, Stopped("enough"))
        await settled()
        assert source.closed == 1
        assert opened.settled() == {"stopped": 1}
        await asyncio.sleep(100)


async def read_again(opened: StreamsUnderTest) -> Page:
    """What a page has that comes to the stream with nothing."""
    await opened.resume("st_1", "c", reader := FakeConnection())
    await reader.over.wait()
    page = Page()
    page.take(reader.received)
    return page


WORDS: list[Step] = [[START], [text("one ")], 1.0, [text("two ")], 0.01, *([text(f"{n} ")] for n in range(3, 6))]


@pytest.mark.parametrize("policy", [Policy.GRACE, Policy.DRAIN])
@pytest.mark.parametrize("rest", [[1000.0], [[STOP]], [UpstreamCut("cut")]], ids=["runs", "whole", "failed"])
def test_what_ends_without_a_reader_keeps_all_that_came_and_one_last_event(policy: Policy, rest: list[Step]) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            session, source = opened.start([*WORDS, *rest], reader := FakeConnection(), policy=policy)
            await asyncio.sleep(0.5)
            session.lost(reader)
            await asyncio.sleep(5)
            ended_at = loop().time()
            session.stop(Outcome.SHUTDOWN, ShuttingDown("the service is shutting down"))
            session.stop(Outcome.STOPPED, Stopped("the first one stands"))
            await settled()
            assert (source.closed, loop().time()) == (1, ended_at), "nobody is waited for"
            assert sum(opened.settled().values()) == 1
            page = await read_again(opened)
            assert page.text == "one two 3 4 5 "
            assert page.last.get("type") == {"runs": "shutdown", "whole": None, "failed": "upstream_cut"}[_kind(rest)]
            assert ("done" in page.last) == (_kind(rest) == "whole")

    run(scene())


def _kind(rest: list[Step]) -> str:
    return "runs" if rest == [1000.0] else "failed" if isinstance(rest[0], SluicewayError) else "whole"


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("policy", [Policy.GRACE, Policy.DRAIN])
def test_of_what_others_have_ended_nothing_is_kept_that_they_do_not_tell(policy: Policy, leaves: bool) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            session, source = opened.start([*WORDS, 1000.0], reader := FakeConnection(), policy=policy)
            await asyncio.sleep(0.5)
            if leaves:
                session.lost(reader)
            session.fenced(OwnerLost(session.replay.last_id))
            session.fenced(OwnerLost(session.replay.last_id))
            await settled()
            assert source.closed == 1
            assert opened.settled() == {"fenced": 1}
            if leaves:
                with pytest.raises(Expired):
                    await read_again(opened)
            else:
                assert (await read_again(opened)).last["type"] == "worker_lost"

    run(scene())


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "takes nothing"])
@pytest.mark.parametrize("policy", [Policy.GRACE, Policy.DRAIN])
def test_a_reader_who_does_not_take_the_last_event_finds_it_when_it_comes_back(policy: Policy, leaves: bool) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            session, _ = opened.start(ENDLESS, reader := FakeConnection(stalls_at=20), policy=policy)
            await asyncio.sleep(5)
            session.stop(Outcome.BUDGET, Stopped("enough"))
            if leaves:
                session.lost(reader)
            await asyncio.sleep(0.51)
            assert opened.settled() == {"budget": 1}
            page = await read_again(opened)
            assert page.text.startswith("x" * 20)
            assert page.last["type"] == "stopped"

    run(scene())


@jumping
async def test_who_comes_back_while_the_end_is_on_its_way_reads_all_of_it() -> None:
    async with streams_under_test() as opened:
        session, _ = opened.start([*WORDS, 1000.0], reader := FakeConnection())
        await asyncio.sleep(0.5)
        session.lost(reader)
        await asyncio.sleep(5)
        session.stop(Outcome.STOPPED, Stopped("enough"))
        page = await read_again(opened)
        assert (page.text, page.last["type"]) == ("one two 3 4 5 ", "stopped")


@pytest.mark.parametrize("stopped", [True, False])
def test_a_chat_that_ended_before_it_began_with_nobody_there_tells_why(stopped: bool) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            steps: list[Step] = [0.5, UpstreamCut("cut")]
            session, _ = opened.start(steps, reader := FakeConnection(), name="a chat")
            await asyncio.sleep(0.1)
            session.lost(reader)
            if stopped:
                session.stop(Outcome.STOPPED, Stopped("enough"))
            await asyncio.sleep(1)
            page = await read_again(opened)
            assert (page.text, page.last["type"]) == ("", "stopped" if stopped else "upstream_cut")

    run(scene())


@pytest.mark.parametrize("error", [UpstreamCut("cut"), UpstreamTimeout("late")])
@pytest.mark.parametrize("attached", [True, False])
def test_a_failure_of_claudes_side_is_the_last_event_and_the_text_so_far_stays(
    error: SluicewayError, attached: bool
) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            first = FakeConnection(cut_at=None if attached else 40)
            session, source = opened.start([[START], [text("so far")], 0.5, [text("."), text("!", 1)], error], first)
            await asyncio.sleep(5)
            assert source.closed == 1
            assert session.lifecycle.upstream in (UpstreamState.ENDED, UpstreamState.ANSWERING)
            page = Page()
            again = FakeConnection()
            await opened.resume("st_1", "c", again)
            await again.over.wait()
            page.take(again.received)
            assert page.text == "so far.!"
            assert page.last == error.as_dict()
            await settled()
            assert opened.settled() == {"upstream_error": 1}

    run(scene())


@pytest.mark.parametrize("finding", list(Finding))
@pytest.mark.parametrize("policy", [Policy.ABORT, Policy.GRACE])
def test_a_stalled_or_vanished_reader_is_lost_by_the_policy(finding: Finding, policy: Policy) -> None:
    async def scene() -> None:
        async with streams_under_test() as opened:
            connection = FakeConnection(stalls_at=200)
            session, source = opened.start(ENDLESS, connection, policy=policy)
            await asyncio.sleep(5.5)
            assert connection.looks >= 5
            connection.finding = finding
            await asyncio.sleep(1)
            assert connection.aborted
            if policy is Policy.ABORT:
                assert opened.settled() == {finding.value: 1}
            else:
                assert session.lifecycle.reader is ReaderState.HELD
                assert source.closed == 0

    run(scene())


def test_ids_are_long_and_differ() -> None:
    ids = {new_stream_id() for _ in range(100)}
    assert len(ids) == 100
    assert min(map(len, ids)) >= 24


async def test_a_session_shows_where_it_stands() -> None:
    async with streams_under_test() as opened:
        session, source = opened.start([[START], 60.0], FakeConnection())
        assert isinstance(source, ScriptedSource)
        shown = session.as_dict()
        assert (shown["reader"], shown["upstream"], shown["id"]) == ("attached", "asking", "st_1")
        assert "reader attached" in repr(session)


class BrokenFormat(PlainFormat):
    """A format with a defect: it cannot say what has a `!` in it, or not even how it ends."""

    def __init__(self, *, ends: bool) -> None:
        super().__init__(thinking=False)
        self._ends = ends

    def encode(self, events: list[ClaudeEvent]) -> list[bytes]:
        if any(isinstance(event, Delta) and "!" in event.text for event in events):
            raise ZeroDivisionError
        return super().encode(events)

    def end(self, error: SluicewayError | None) -> list[bytes]:
        if not self._ends:
            raise ZeroDivisionError
        return super().end(error)


@pytest.mark.parametrize("ends", [True, False], ids=["can tell", "cannot even tell"])
@pytest.mark.parametrize("policy", list(Policy), ids=lambda policy: policy.value)
def test_a_defect_of_our_own_is_the_readers_last_event_and_ends_this_stream_alone(policy: Policy, ends: bool) -> None:
    async def scene() -> None:
        async with streams_under_test(replay_s=1.0) as opened:
            other, _ = opened.start([[START], [text("fine")], 9.0, [STOP]], FakeConnection(), stream_id="st_2")
            connection = FakeConnection()
            steps: list[Step] = [[START], [text("so far")], 1.0, [text("!")], *PACED]
            session, source = opened.start(steps, connection, policy=policy, wire=BrokenFormat(ends=ends))
            await connection.over.wait()
            await settled()
            assert source.closed
            assert session.outcome is Outcome.INTERNAL_ERROR
            page = Page()
            page.take(connection.received)
            assert page.text == "so far"
            assert page.last.get("type") == ("api_error" if ends else None)
            assert other.outcome is None

    run(scene())


@pytest.mark.parametrize("way", ["whole", "failed", "left", "expired", "stopped"])
def test_a_stream_that_ended_is_freed_without_the_collector(way: str) -> None:
    """Or it stays until the collector comes, for which everybody has to wait."""

    def steps() -> list[Step]:
        if way in ("whole", "failed"):
            return [[START], [text("x")], [STOP] if way == "whole" else UpstreamCut("cut")]
        return PACED

    async def scene() -> None:
        async with streams_under_test() as opened:
            connection = FakeConnection()
            policy = Policy.ABORT if way == "left" else Policy.GRACE
            session, _ = opened.start(steps(), connection, policy=policy, grace_s=1.0)
            stream = weakref.ref(session)
            await asyncio.sleep(3)
            if way in ("left", "expired"):
                connection.break_off()
                session.lost(connection)
                connection.release(None)  # its handler has ended
            elif way == "stopped":
                session.stop(Outcome.STOPPED, Stopped("enough"))
            del session
            await asyncio.sleep(3)
            assert stream() is None

    gc.disable()
    try:
        run(scene())
    finally:
        gc.enable()
