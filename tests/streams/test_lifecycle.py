"""The life of a stream as a table: what is legal, what it leads to, and that `tests/README.md` shows it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streams.lifecycle import (
    READER,
    UPSTREAM,
    Action,
    IllegalEvent,
    Lifecycle,
    LifecycleEvent,
    ReaderState,
    UpstreamState,
    diagram,
)
from tests.conftest import ROOT

EVERY_STATE = list(itertools.product(ReaderState, UpstreamState))


def at(reader: ReaderState, upstream: UpstreamState) -> Lifecycle:
    life = Lifecycle()
    life.reader, life.upstream = reader, upstream
    return life


def state_of(life: Lifecycle) -> tuple[ReaderState, UpstreamState]:
    return life.reader, life.upstream


def legal(life: Lifecycle, event: LifecycleEvent) -> bool:
    reader_event, upstream_event = event.value
    return (reader_event is None or (life.reader, reader_event) in READER) and (
        upstream_event is None or (life.upstream, upstream_event) in UPSTREAM
    )


@pytest.mark.parametrize(("reader", "upstream"), EVERY_STATE)
@pytest.mark.parametrize("event", list(LifecycleEvent))
def test_an_illegal_event_raises_and_changes_nothing(
    reader: ReaderState, upstream: UpstreamState, event: LifecycleEvent
) -> None:
    life = at(reader, upstream)
    if legal(life, event):
        life.process(event)
        return
    with pytest.raises(IllegalEvent, match=event.name):
        life.process(event)
    assert state_of(life) == (reader, upstream), "not even the side that could have moved"


def test_every_state_of_both_sides_is_reached_from_the_start_by_legal_events() -> None:
    reached, new = set[tuple[ReaderState, UpstreamState]](), {state_of(Lifecycle())}
    while new:
        reached |= new
        found = set()
        for state, event in itertools.product(new, LifecycleEvent):
            life = at(*state)
            if legal(life, event):
                life.process(event)
                found.add(state_of(life))
        new = found - reached
    assert {reader for reader, _ in reached} == set(ReaderState)
    assert {upstream for _, upstream in reached} == set(UpstreamState)


@given(st.lists(st.sampled_from(LifecycleEvent), max_size=30))
def test_what_is_over_stays_over_and_an_ended_answer_is_never_aborted(events: list[LifecycleEvent]) -> None:
    life, closed = Lifecycle(), 0
    for event in events:
        before = state_of(life)
        over = life.over
        try:
            closed += life.process(event).count(Action.CLOSE_UPSTREAM)
        except IllegalEvent:
            assert state_of(life) == before
        if over:
            assert life.over
            assert life.reader is before[0]
        if before[1] in (UpstreamState.ENDED, UpstreamState.ABORTED):
            assert life.upstream is before[1]
    assert closed <= 1
    assert (closed == 1) == (life.upstream is UpstreamState.ABORTED)


@pytest.mark.parametrize(
    ("events", "actions"),
    [
        ([LifecycleEvent.LOST], [Action.START_GRACE]),
        ([LifecycleEvent.LOST, LifecycleEvent.CAME], [Action.STOP_TIMER]),
        ([LifecycleEvent.LEFT_ALONE], []),
        ([LifecycleEvent.LEFT_ALONE, LifecycleEvent.CAME], []),
        ([LifecycleEvent.LEFT_ALONE, LifecycleEvent.ENDED], [Action.CLOSE_UPSTREAM, Action.KEEP_END]),
        ([LifecycleEvent.CAME], [Action.TAKE_OVER]),
        ([LifecycleEvent.LEFT], [Action.CLOSE_UPSTREAM, Action.CANCEL]),
        ([LifecycleEvent.LOST, LifecycleEvent.EXPIRED], [Action.CLOSE_UPSTREAM, Action.STOP_TIMER, Action.CANCEL]),
        ([LifecycleEvent.LEFT_ALONE, LifecycleEvent.EXPIRED], [Action.CLOSE_UPSTREAM, Action.CANCEL]),
        ([LifecycleEvent.LOST, LifecycleEvent.ENDED], [Action.CLOSE_UPSTREAM, Action.STOP_TIMER, Action.KEEP_END]),
        ([LifecycleEvent.LOST, LifecycleEvent.ENDED, LifecycleEvent.CAME], [Action.TAKE_OVER]),
        ([LifecycleEvent.ENDED, LifecycleEvent.LOST], []),
        ([LifecycleEvent.ENDED, LifecycleEvent.LEFT_ALONE], []),
        ([LifecycleEvent.ENDED], [Action.CLOSE_UPSTREAM, Action.TELL_END]),
        ([LifecycleEvent.ENDED, LifecycleEvent.CAME], [Action.TAKE_OVER]),
        ([LifecycleEvent.ENDED, LifecycleEvent.LEFT], [Action.STOP_TIMER, Action.CANCEL]),
        ([LifecycleEvent.ENDED, LifecycleEvent.EXPIRED], [Action.CUT_OFF, Action.CANCEL]),
        ([LifecycleEvent.ENDED, LifecycleEvent.SERVED], [Action.STOP_TIMER]),
        ([LifecycleEvent.ANSWERED, LifecycleEvent.LOST, LifecycleEvent.SERVED], [Action.STOP_TIMER]),
        ([LifecycleEvent.ANSWERED, LifecycleEvent.LEFT], [Action.CANCEL]),
    ],
)
def test_what_is_to_be_done(events: list[LifecycleEvent], actions: list[Action]) -> None:
    life = Lifecycle()
    *before, last = events
    for event in before:
        life.process(event)
    assert list(life.process(last)) == actions


@pytest.mark.parametrize(("reader", "upstream"), EVERY_STATE)
def test_what_ends_for_a_reason_tells_it_once_or_keeps_it_for_who_comes_back(
    reader: ReaderState, upstream: UpstreamState
) -> None:
    life = at(reader, upstream)
    if not legal(life, LifecycleEvent.ENDED):
        return
    actions = life.process(LifecycleEvent.ENDED)
    connected = reader is ReaderState.ATTACHED
    assert [one for one in actions if one in (Action.TELL_END, Action.KEEP_END)] == [
        Action.TELL_END if connected else Action.KEEP_END
    ]
    assert Action.CANCEL not in actions, "the tasks come to that last event by themselves"
    assert not life.over
    for lost in (LifecycleEvent.LOST, LifecycleEvent.LEFT_ALONE):
        life.process(lost)
        assert life.reader is ReaderState.ENDING, "who goes then is not waited for, and costs nobody else that event"


def test_every_action_is_of_use() -> None:
    used = {action for table in (READER, UPSTREAM) for _, actions in table.values() for action in actions}
    assert used == set(Action)


def test_it_says_where_it_stands() -> None:
    assert repr(Lifecycle()) == "<Lifecycle reader attached, upstream asking>"


def test_the_readme_shows_the_diagram_that_the_table_makes() -> None:
    readme = (ROOT / "tests" / "README.md").read_text("utf-8")
    shown = readme.partition("<!-- lifecycle -->")[2].partition("<!-- /lifecycle -->")[0]
    assert shown.strip() == f"```mermaid\n{diagram()}\n```"


@pytest.mark.real
def test_run_as_a_program_it_prints_the_diagram() -> None:
    command = [sys.executable, "-m", "app.streams.lifecycle"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == diagram()
