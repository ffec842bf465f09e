"""The presets: each brings readers and answers that can show its subject."""

from __future__ import annotations

from collections import Counter

import pytest

from app.tools.load.plan import Kind, PlanError
from app.tools.load.presets import PRESETS, WantedAnswer, planned
from app.tools.load.subject import Subject
from app.tools.simulator.scenario import Scenario, find_directive, parse_directive


def test_every_subject_has_a_preset_with_readers_that_stand_for_it() -> None:
    assert {preset.subject for preset in PRESETS.values()} == set(Subject)
    for preset in PRESETS.values():
        kinds = preset.plan.kinds()
        assert sum(kind in preset.subject.kinds for kind in kinds) >= 0.3 * len(kinds)


def test_half_of_the_slow_readers_preset_is_slow() -> None:
    kinds = Counter(PRESETS["slow-readers"].plan.kinds())
    assert kinds[Kind.FAST] == kinds[Kind.SLOW] + kinds[Kind.STALLING]


@pytest.mark.parametrize("name", PRESETS)
def test_a_simulated_claude_understands_what_it_is_asked(name: str) -> None:
    answer = PRESETS[name].answer
    prompt = answer.prompt(simulated=True)
    directive = find_directive([{"role": "user", "content": prompt}])
    assert directive is not None
    scenario = Scenario().with_knobs(parse_directive(directive))
    assert scenario.tokens == answer.tokens
    assert scenario.rate > 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_real_claude_is_asked_in_words(name: str) -> None:
    prompt = PRESETS[name].answer.prompt(simulated=False)
    assert "{" not in prompt
    assert f"{PRESETS[name].answer.tokens:,} words" in prompt


def test_without_a_preset_the_simulated_claude_goes_as_it_was_told() -> None:
    assert "{" not in WantedAnswer().prompt(simulated=True)


def test_a_preset_can_be_changed_and_none_changes_nothing() -> None:
    crowd = PRESETS["flash-crowd"]
    plan = planned(crowd, {"streams": 10, "ramp_s": None})
    assert (plan.streams, plan.ramp_s) == (10, crowd.plan.ramp_s)


def test_a_preset_without_its_readers_is_refused() -> None:
    with pytest.raises(PlanError, match="slow or stalling"):
        planned(PRESETS["slow-readers"], {"mix": {Kind.FAST: 1.0}})
