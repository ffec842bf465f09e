"""Whatever ends a stream, at whichever await of its two tasks: it is settled once, and its source is closed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from app.answer.outcome import Outcome
from app.errors import Stopped, UpstreamCut
from app.streams.session import Session
from app.streams.terms import Policy
from tests.support.clock import run
from tests.support.connections import FakeConnection, Page, StreamsUnderTest, streams_under_test
from tests.support.fakes import ScriptedSource, Step, event, text

# Four turns in every fiftieth of a second, to beyond a stream's end.
TURNS = 80


def _stopped(session: Session, _connection: FakeConnection) -> None:
    session.stop(Outcome.STOPPED, Stopped("stopped"))


def _left(session: Session, connection: FakeConnection) -> None:
    session.lost(connection)


def _stalled(session: Session, connection: FakeConnection) -> None:
    session.lost(connection, Outcome.STALLED)
    connection.abort()


def _cancelled(session: Session, _connection: FakeConnection) -> None:
    session._cancel()


def _left_and_stopped(session: Session, connection: FakeConnection) -> None:
    _left(session, connection)
    _stopped(session, connection)


def _stopped_and_left(session: Session, connection: FakeConnection) -> None:
    _stopped(session, connection)
    _left(session, connection)


def _left_and_stopped_a_little_later(session: Session, connection: FakeConnection) -> None:
    _left(session, connection)
    asyncio.get_running_loop().call_later(0.03, _stopped, session, connection)


def _everything(session: Session, connection: FakeConnection) -> None:
    for end in (_stopped, _left, _cancelled, _stopped):
        end(session, connection)


_WITH_A_REASON = [_left_and_stopped, _stopped_and_left, _left_and_stopped_a_little_later]


def _script(whole: bool) -> list[Step]:
    words: list[Step] = [[text(f"word{place} ")] for place in range(6)]
    last: list[Step] = [[event("message_stop")]] if whole else [UpstreamCut("cut")]
    return [[event("message_start")], 0.2, *words[:3], 0.05, *words[3:], *last]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "failing"])
@pytest.mark.parametrize("policy", list(Policy), ids=lambda policy: policy.value)
@pytest.mark.parametrize("end", [_stopped, _left, _stalled, _cancelled, _everything, *_WITH_A_REASON])
def test_a_stream_that_ends_at_any_turn_of_the_loop_is_settled_once(
    end: Callable[[Session, FakeConnection], None], policy: Policy, whole: bool
) -> None:
    async def ended_at(opened: StreamsUnderTest, turn: int) -> None:
        connection = FakeConnection()
        session, source = opened.start(_script(whole), connection, policy=policy, grace_s=1.0, stream_id=f"st_{turn}")
        ended[turn] = session, source
        for _ in range(turn // 4):
            await asyncio.sleep(0.02)  # of the jumping clock
        for _ in range(turn % 4):
            await asyncio.sleep(0)  # and the single turns after it
        end(session, connection)
        if end in _WITH_A_REASON and policy is not Policy.ABORT and connection.committed:
            await asyncio.sleep(0.6)  # beyond the farewell
            check_kept(opened, turn, connection)

    def check_kept(opened: StreamsUnderTest, turn: int, connection: FakeConnection) -> None:
        """What a page had, and then all that was kept, to one last event."""
        kept = opened.archive.after(f"st_{turn}")
        assert kept is not None
        assert not kept.expired, turn
        (page := Page()).take(b"".join(kept.frames.replay.after(0, math.inf)))
        assert "".join(f"word{place} " for place in range(6)).startswith(page.text), turn
        assert page.last, turn
        (had := Page()).take(connection.received)
        assert page.text.startswith(had.text), turn

    async def scene() -> None:
        # All side by side in one set of streams, which makes sure that nothing is left, and that each one's books were closed once.
        async with streams_under_test(replay_s=1.0) as opened, asyncio.TaskGroup() as tasks:
            for turn in range(TURNS):
                tasks.create_task(ended_at(opened, turn))

    ended: dict[int, tuple[Session, ScriptedSource]] = {}
    run(scene())
    for turn, (session, source) in ended.items():
        assert session.outcome is not None, turn
        assert source.closed or not source.opened, turn
    assert len({session.outcome for session, _ in ended.values()}) >= 2, "ended in mid-stream, and at its own end"
