"""The life of a stream as a table: what is legal, what it leads to, and that the README shows it."""

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
    Happening,
    IllegalEvent,
    Lifecycle,
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


def legal(life: Lifecycle, happening: Happening) -> bool:
    reader_event, upstream_event = happening.value
    return (reader_event is None or (life.reader, reader_event) in READER) and (
        upstream_event is None or (life.upstream, upstream_event) in UPSTREAM
    )


@pytest.mark.parametrize(("reader", "upstream"), EVERY_STATE)
@pytest.mark.parametrize("happening", list(Happening))
def test_an_illegal_event_raises_and_changes_nothing(
    reader: ReaderState, upstream: UpstreamState, happening: Happening
) -> None:
    life = at(reader, upstream)
    if legal(life, happening):
        life.happen(happening)
        return
    with pytest.raises(IllegalEvent, match=happening.name):
        life.happen(happening)
    assert state_of(life) == (reader, upstream), "not even the side that could have moved"


def test_every_state_of_both_sides_is_reached_from_the_start_by_legal_events() -> None:
    reached, new = set[tuple[ReaderState, UpstreamState]](), {state_of(Lifecycle())}
    while new:
        reached |= new
        found = set()
        for state, happening in itertools.product(new, Happening):
            life = at(*state)
            if legal(life, happening):
                life.happen(happening)
                found.add(state_of(life))
        new = found - reached
    assert {reader for reader, _ in reached} == set(ReaderState)
    assert {upstream for _, upstream in reached} == set(UpstreamState)


@given(st.lists(st.sampled_from(Happening), max_size=30))
def test_what_is_over_stays_over_and_an_ended_answer_is_never_aborted(happenings: list[Happening]) -> None:
    life, closed = Lifecycle(), 0
    for happening in happenings:
        before = state_of(life)
        over = life.over
        try:
            closed += life.happen(happening).count(Action.CLOSE_UPSTREAM)
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
    ("happenings", "actions"),
    [
        ([Happening.LOST], [Action.START_GRACE]),
        ([Happening.LOST, Happening.CAME], [Action.STOP_TIMER]),
        ([Happening.LEFT_ALONE], []),
        ([Happening.LEFT_ALONE, Happening.CAME], []),
        ([Happening.LEFT_ALONE, Happening.ENDED], [Action.CLOSE_UPSTREAM, Action.CANCEL]),
        ([Happening.CAME], [Action.TAKE_OVER]),
        ([Happening.LEFT], [Action.CLOSE_UPSTREAM, Action.CANCEL]),
        ([Happening.BEGAN, Happening.LOST, Happening.EXPIRED], [Action.CLOSE_UPSTREAM, Action.CANCEL]),
        ([Happening.LOST, Happening.ENDED], [Action.CLOSE_UPSTREAM, Action.STOP_TIMER, Action.CANCEL]),
        ([Happening.ENDED], [Action.CLOSE_UPSTREAM, Action.TELL_END]),
        ([Happening.ENDED, Happening.CAME], [Action.TAKE_OVER]),
        ([Happening.ENDED, Happening.LEFT], [Action.STOP_TIMER, Action.CANCEL]),
        ([Happening.ENDED, Happening.EXPIRED], [Action.CUT_OFF, Action.CANCEL]),
        ([Happening.ENDED, Happening.SERVED], [Action.STOP_TIMER]),
        ([Happening.ANSWERED, Happening.LOST, Happening.SERVED], [Action.STOP_TIMER]),
        ([Happening.ANSWERED, Happening.LEFT], [Action.CANCEL]),
    ],
)
def test_what_is_to_be_done(happenings: list[Happening], actions: list[Action]) -> None:
    life = Lifecycle()
    *before, last = happenings
    for happening in before:
        life.happen(happening)
    assert list(life.happen(last)) == actions


def test_every_action_is_of_use() -> None:
    used = {action for table in (READER, UPSTREAM) for _, actions in table.values() for action in actions}
    assert used == set(Action)


def test_it_says_where_it_stands() -> None:
    assert repr(Lifecycle()) == "<Lifecycle reader attached, upstream asking>"


@pytest.mark.real
def test_the_readme_shows_the_diagram_that_the_table_makes() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "app.streams.lifecycle"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = readme.partition("<!-- lifecycle -->")[2].partition("<!-- /lifecycle -->")[0]
    assert shown.strip() == f"```mermaid\n{printed.strip()}\n```"
    assert printed.strip() == diagram()
