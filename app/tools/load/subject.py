"""What a load test is to show, and whether it did: the first line of every report. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .figures import Figures, KindFigures, StreamEnd
from .plan import Kind, Plan
from .service import Sample

# A subject counts as shown if this share of the readers that stand for it met it.
_LEAST_HELD = 0.3
_LEAST = 0.8


class Subject(enum.Enum):
    """What can be shown; the value is its name in JSON."""

    HELD = "held"  # producers are held while their readers are slow
    LEFT = "left"  # readers leave, and their answers are stopped
    STALLED = "stalled"  # readers that take nothing are given up
    VANISHED = "vanished"  # readers that are gone without a word are found out
    RESUMED = "resumed"  # readers that lost their connection come back and miss nothing
    CROWD = "crowd"  # everybody comes at once

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The readers that stand for it."""
        return _KINDS[self]

    @property
    def readers(self) -> str:
        return " or ".join(kind.value for kind in self.kinds)

    def is_in(self, plan: Plan) -> bool:
        """Whether the plan has such readers."""
        return any(plan.mix.get(kind) for kind in self.kinds)


_KINDS = {
    Subject.HELD: (Kind.SLOW, Kind.STALLING),
    Subject.LEFT: (Kind.LEAVING,),
    Subject.STALLED: (Kind.STALLING,),
    Subject.VANISHED: (Kind.VANISHING,),
    Subject.RESUMED: (Kind.RESUMING,),
    Subject.CROWD: tuple(Kind),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """How a subject fared.

    Attributes:
        happened: None: it could not be told.
        sentence: with the figures; where it did not happen, it says so, and what to change.
    """

    subject: Subject
    happened: bool | None
    sentence: str


def subjects_of(plan: Plan, preset: Subject | None) -> list[Subject]:
    """What a report tells of: the preset's subject, then what else the plan's readers can show."""
    others = (Subject.HELD, Subject.LEFT, Subject.VANISHED, Subject.RESUMED)
    first = [] if preset is None else [preset]
    return first + [one for one in others if one is not preset and one.is_in(plan)]


def shown(subject: Subject, plan: Plan, figures: Figures, service: Sample | None) -> Shown:
    """How the subject fared.

    Args:
        plan: what was done.
        figures: what the readers met.
        service: what the service counted over the test; None: it was not looked at.
    """
    happened, sentence = _JUDGES[subject](plan, figures, service)
    return Shown(subject, happened, sentence)


_Judged = tuple[bool | None, str]


def _held(plan: Plan, figures: Figures, _service: Sample | None) -> _Judged:
    slow = [figures.of(kind) for kind in Subject.HELD.kinds]
    held, streams = sum(one.held for one in slow), sum(one.answered for one in slow)
    fast = figures.of(Kind.FAST)
    if not streams:
        return False, "Producers were NOT held: no slow reader was answered."
    if not any(one.watched for one in slow):
        return None, (
            f"Whether producers were held in {streams:,} slow readers' streams could not be told: "
            "the service told nothing of them (GET /api/stream/{id}/gauges)."
        )
    share = held / streams
    told = f"in {held:,} of {streams:,} slow readers' streams ({share:.0%})"
    if share < _LEAST_HELD:
        return False, (
            f"Producers were NOT held: {told}, where {_LEAST_HELD:.0%} would show it. The answers fit into what lies between "
            "Claude and a reader, or did not fill it in time: ask for longer ones (--max-tokens), read more slowly (--slow), "
            "or go on for longer (--duration)."
        )
    beside = f", and in {fast.held:,} of {fast.watched:,} fast ones'" if fast.watched else ""
    return True, f"Producers were held {told}, {sum(one.held_s for one in slow):,.0f} s and more together{beside}."


def _left(plan: Plan, figures: Figures, service: Sample | None) -> _Judged:
    leaving = figures.of(Kind.LEAVING)
    left, readers = leaving.ends[StreamEnd.LEFT], _let_in(leaving)
    told = (
        f"{left:,} of {readers:,} leaving readers left before their answer was over, "
        f"{readers - leaving.answered:,} of them before it began"
    )
    if not _most(left, readers):
        return (
            False,
            f"Readers did NOT leave: {told}. Ask for longer answers (--max-tokens), or leave earlier (--turn).",
        )
    if service is None:
        return True, f"{told}."
    stopped, running = service.outcomes["disconnected"], service.upstreams
    return True, f"{told}. The service stopped {stopped:,} answers for that, and {running:,.0f} still run."


def _stalled(plan: Plan, figures: Figures, service: Sample | None) -> _Judged:
    stalling = figures.of(Kind.STALLING)
    given_up, readers = stalling.ends[StreamEnd.STALLED], _let_in(stalling)
    counted = "" if service is None else f"; it counted {service.outcomes['stalled']:,} as stalled"
    told = f"{given_up:,} of {readers:,} readers that took nothing{counted}"
    if not _most(given_up, readers):
        return False, (
            f"Stalled readers were NOT given up: {told}. They took nothing for {plan.stall_s:g} s (--stall); the service's "
            "stall_timeout_s must be shorter, and the answer longer than what fits into the buffers (--max-tokens)."
        )
    return True, f"The service gave up {told}."


def _vanished(plan: Plan, figures: Figures, service: Sample | None) -> _Judged:
    vanished = figures.of(Kind.VANISHING).ends[StreamEnd.VANISHED]
    if service is None:
        return None, (
            f"Whether the service noticed {vanished:,} vanished readers could not be told: "
            "its admin port was not read (--admin)."
        )
    found = service.outcomes["vanished"]
    told = f"{min(found, vanished):,} of {vanished:,} vanished readers"
    if not _most(found, vanished):
        return False, (
            f"Vanished readers were NOT noticed: {told}. They stayed silent for {plan.vanish_s:g} s (--vanish); "
            "behind a proxy, or on a unix socket, the service cannot tell them from stalled ones."
        )
    return True, f"The service noticed {told}."


def _resumed(plan: Plan, figures: Figures, _service: Sample | None) -> _Judged:
    resuming = figures.of(Kind.RESUMING)
    told = f"{resuming.back:,} of {resuming.away:,} readers that lost their connection came back and missed nothing"
    if not _most(resuming.back, resuming.away):
        return False, f"Lost readers did NOT come back: {told}."
    return True, f"{told}."


def _crowd(plan: Plan, figures: Figures, _service: Sample | None) -> _Judged:
    ttft = figures.of(Kind.FAST).ttft
    median, p99 = ttft.at(0.5), ttft.at(0.99)
    answered = sum(one.answered for one in figures.kinds.values())
    told = f"{plan.streams:,} readers came within {figures.arrived_s:.1f} s: {answered:,} were answered"
    if median is not None and p99 is not None:
        told += f", the first token after {median * 1000:,.0f} ms (half of them) and {p99 * 1000:,.0f} ms (99 %)"
    told += f"; {figures.count(StreamEnd.REFUSED):,} were refused"
    if figures.arrived_s > 1.5 * plan.ramp_s + 1:
        return False, f"The crowd was NOT at once: {told}. The load tester was too slow for {plan.ramp_s:g} s (--ramp)."
    return True, f"{told}."


_JUDGES = {
    Subject.HELD: _held,
    Subject.LEFT: _left,
    Subject.STALLED: _stalled,
    Subject.VANISHED: _vanished,
    Subject.RESUMED: _resumed,
    Subject.CROWD: _crowd,
}


def _let_in(figures: KindFigures) -> int:
    return sum(count for end, count in figures.ends.items() if not end.is_turned_away)


def _most(part: int, whole: int) -> bool:
    return whole > 0 and part >= _LEAST * whole
