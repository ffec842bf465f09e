"""Load tests with a name: each brings the readers and the answers that show its subject. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .plan import Kind, Plan, PlanError
from .subject import Subject

_PROMPT = "Tell me how a sluice works, at length."
_LONG_PROMPT = "Write a chapter on how sluices work, of at least {tokens:,} words, without a pause or a question."


@dataclass(frozen=True, slots=True)
class WantedAnswer:
    """The answer that every reader asks for.

    Attributes:
        tokens: how long it is at most; the request's `max_tokens`.
        knobs: how a simulated Claude is told to give it, beside its length; empty leaves both to it.
    """

    tokens: int = 1024
    knobs: str = ""

    def prompt(self, *, simulated: bool) -> str:
        """The question that brings such an answer."""
        if not self.knobs:
            return _PROMPT
        if simulated:
            return f"{_PROMPT} {{{{tokens={self.tokens} {self.knobs}}}}}"
        return _LONG_PROMPT.format(tokens=self.tokens)


@dataclass(frozen=True, slots=True)
class Preset:
    """A load test with a name.

    Attributes:
        subject: what it is to show.
        plan: what its readers do.
        answer: what they ask for.
        about: one line for `--help`.
    """

    subject: Subject
    plan: Plan
    answer: WantedAnswer
    about: str


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # What lies between Claude and a reader takes in some 8,000 characters before the producer is held, behind the
        # shipped nginx three times as much: at 400 tokens (1,800 bytes) a second that is five, or fifteen, seconds.
        "slow-readers": Preset(
            Subject.HELD,
            Plan(
                streams=200,
                ramp_s=4,
                duration_s=40,
                mix={Kind.FAST: 5, Kind.SLOW: 4, Kind.STALLING: 1},
                slow_bytes_per_s=100,
                stall_s=15,
            ),
            WantedAnswer(8000, "rate=400 tokens_per_delta=8-24"),
            "200 readers, half of them slow or stalling, 40 s: are producers held, do the fast ones notice?",
        ),
        "stalling-readers": Preset(
            Subject.STALLED,
            Plan(streams=60, ramp_s=1, mix={Kind.FAST: 1, Kind.STALLING: 1}, turn_s=(0.5, 2), stall_s=100),
            WantedAnswer(8000, "rate=400 tokens_per_delta=8-24"),
            "60 readers, half of whom stop reading, some 70 s: does the service give them up (after 60 s)?",
        ),
        "vanishing-readers": Preset(
            Subject.VANISHED,
            Plan(streams=100, ramp_s=1, mix={Kind.FAST: 1, Kind.VANISHING: 1}, turn_s=(0.5, 3), vanish_s=15),
            WantedAnswer(1500, "rate=100 tokens_per_delta=1-4"),
            "100 readers, half of whom fall silent without a word, 20 s: does the service find out (after 8 s)?",
        ),
        "resuming-readers": Preset(
            Subject.RESUMED,
            Plan(streams=100, ramp_s=1, mix={Kind.FAST: 1, Kind.RESUMING: 4}, turn_s=(0.5, 5)),
            WantedAnswer(600, "rate=60 tokens_per_delta=1-4"),
            "100 readers, of whom 80 lose their connection and come back, 12 s: is every frame there, once?",
        ),
        # The first token is late enough for some to leave before it, and the answer long enough for nobody to miss its end.
        "abandon-storm": Preset(
            Subject.LEFT,
            Plan(
                streams=300,
                ramp_s=2,
                mix={Kind.FAST: 2, Kind.LEAVING: 7, Kind.VANISHING: 1},
                turn_s=(3, 4),
                vanish_s=15,
            ),
            WantedAnswer(1200, "rate=60 ttft_s=0.5 tokens_per_delta=1-4"),
            "300 readers, of whom 240 are gone within a second, 25 s: is every answer stopped, what was wasted?",
        ),
        "flash-crowd": Preset(
            Subject.CROWD,
            Plan(streams=1000, ramp_s=1, mix={Kind.FAST: 9, Kind.RESUMING: 1}),
            WantedAnswer(600, "rate=60 ttft_s=0.3 tokens_per_delta=1-4"),
            "1,000 readers within a second, 15 s: how late is the first token, who is refused?",
        ),
    }
)


def planned(preset: Preset | None, given: Mapping[str, Any]) -> Plan:
    """A preset's plan, or the default one, with what is given changed; None changes nothing.

    Raises:
        PlanError: the plan cannot be carried out, or has none of the readers that the preset is about.
    """
    base = preset.plan if preset is not None else Plan()
    told = {name: value for name, value in given.items() if value is not None}
    readers_per_s = told.pop("arrivals_per_s", None)
    plan = replace(base, **told)
    if readers_per_s is not None:
        if told.keys() & {"streams", "ramp_s"}:
            raise PlanError("arrivals: they say how many readers come and when, as --streams and --ramp do")
        plan = plan.arriving(readers_per_s)
    if preset is not None and not preset.subject.is_in(plan):
        raise PlanError(f"mix: without {preset.subject.readers} readers this preset has nothing to show")
    return plan
