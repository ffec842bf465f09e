"""How a load test's subject is judged: from what the readers met, and what the service says."""

from __future__ import annotations

from collections import Counter

import pytest

from app.tools.load.figures import Figures, Stream, StreamEnd
from app.tools.load.plan import Kind, Plan
from app.tools.load.service import Sample
from app.tools.load.subject import Shown, Subject, shown, subjects_of

PLAN = Plan(streams=10, ramp_s=1.0)


def met(kind: Kind, *streams: tuple[StreamEnd, Stream]) -> Figures:
    figures = Figures()
    for end, stream in streams:
        figures.asked(kind)
        figures.ended(kind, end, stream)
    return figures


def told(subject: Subject, figures: Figures, service: Sample | None = None) -> Shown:
    return shown(subject, PLAN, figures, service)


def slow(*held_s: float | None) -> Figures:
    return met(Kind.SLOW, *((StreamEnd.RUN_OVER, Stream(answered=True, held_s=one)) for one in held_s))


@pytest.mark.parametrize(
    ("held_s", "happened", "words"),
    [
        ((5.0, 0.0, 0.0), True, "held in 1 of 3 slow readers' streams (33%), 5 s"),
        ((5.0, 0.0, 0.0, 0.0), False, "NOT held: in 1 of 4 slow readers' streams (25%)"),
        ((0.9, 0.9), False, "NOT held: in 0 of 2"),  # a batch's turn, no hold
        ((5.0, None), True, "held in 1 of 2"),  # what the service did not tell of counts as not held
        ((None, None), None, "could not be told"),
        ((), False, "no slow reader was answered"),
    ],
)
def test_producers_were_held_where_the_service_says_so_of_three_in_ten(
    held_s: tuple[float | None, ...], happened: bool | None, words: str
) -> None:
    found = told(Subject.HELD, slow(*held_s))
    assert found.happened is happened
    assert words in found.sentence


def test_a_stalling_reader_is_a_slow_one_and_a_refused_one_is_none() -> None:
    figures = met(
        Kind.STALLING,
        (StreamEnd.STALLED, Stream(answered=True, held_s=60.0)),
        (StreamEnd.REFUSED, Stream(refusal="503")),
    )
    assert "held in 1 of 1 slow readers' streams" in told(Subject.HELD, figures).sentence


@pytest.mark.parametrize(("left", "happened"), [(8, True), (7, False)])
def test_readers_left_where_most_of_them_did_before_the_end(left: int, happened: bool) -> None:
    streams = [(StreamEnd.LEFT, Stream(answered=True))] * (left - 1) + [(StreamEnd.LEFT, Stream())]
    streams += [(StreamEnd.FINISHED, Stream(answered=True))] * (10 - left) + [(StreamEnd.REFUSED, Stream())] * 5
    found = told(Subject.LEFT, met(Kind.LEAVING, *streams), Sample(upstreams=1, outcomes=Counter(disconnected=7)))
    assert found.happened is happened
    assert (
        f"{left} of 10 leaving readers left before their answer was over, 1 of them before it began" in found.sentence
    )
    assert ("stopped 7 answers for that, and 1 still run" in found.sentence) is happened


@pytest.mark.parametrize(("given_up", "happened"), [(4, True), (3, False)])
def test_stalled_readers_were_given_up_where_most_of_them_were(given_up: int, happened: bool) -> None:
    streams = [(StreamEnd.STALLED, Stream(answered=True))] * given_up + [
        (StreamEnd.FINISHED, Stream(answered=True))
    ] * (5 - given_up)
    found = told(Subject.STALLED, met(Kind.STALLING, *streams))
    assert found.happened is happened
    assert f"{given_up} of 5" in found.sentence


@pytest.mark.parametrize(
    ("service", "happened"),
    [(Sample(outcomes=Counter(vanished=4)), True), (Sample(outcomes=Counter(stalled=5)), False), (None, None)],
)
def test_only_the_service_can_say_that_it_found_out_who_vanished(service: Sample | None, happened: bool | None) -> None:
    figures = met(Kind.VANISHING, *[(StreamEnd.VANISHED, Stream(answered=True))] * 5)
    assert told(Subject.VANISHED, figures, service).happened is happened


@pytest.mark.parametrize(
    ("streams", "happened"),
    [
        ([(StreamEnd.FINISHED, Stream(was_away=True)), (StreamEnd.FINISHED, Stream())], True),
        ([(StreamEnd.FINISHED, Stream(was_away=True)), (StreamEnd.GARBLED, Stream(was_away=True))], False),
        ([(StreamEnd.FINISHED, Stream())], False),  # nobody was away
    ],
)
def test_who_was_away_came_back_where_the_rest_was_whole(
    streams: list[tuple[StreamEnd, Stream]], happened: bool
) -> None:
    assert told(Subject.RESUMED, met(Kind.RESUMING, *streams)).happened is happened


@pytest.mark.parametrize(("arrived_s", "happened"), [(1.1, True), (4.0, False)])
def test_a_crowd_is_one_only_if_it_came_at_once(arrived_s: float, happened: bool) -> None:
    figures = met(Kind.FAST, (StreamEnd.FINISHED, Stream(answered=True)), (StreamEnd.REFUSED, Stream()))
    figures.first(Kind.FAST, 0.05)
    figures.arrived_s = arrived_s
    found = told(Subject.CROWD, figures)
    assert found.happened is happened
    assert "1 were answered, the first token after 50 ms" in found.sentence
    assert "1 were refused" in found.sentence


def test_a_report_tells_of_the_presets_subject_first_and_of_what_else_there_is() -> None:
    storm = Plan(mix={Kind.LEAVING: 7, Kind.VANISHING: 1, Kind.SLOW: 1})
    assert subjects_of(storm, Subject.LEFT) == [Subject.LEFT, Subject.HELD, Subject.VANISHED]
    assert subjects_of(storm, None) == [Subject.HELD, Subject.LEFT, Subject.VANISHED]
    assert subjects_of(Plan(), None) == []
