"""What a load test plans: who comes, when, and what each does."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tools.load.plan import Kind, Phase, Plan, PlanError, parse_mix

WEIGHTS = st.dictionaries(st.sampled_from(Kind), st.floats(0, 100), min_size=1).filter(
    lambda mix: sum(mix.values()) > 1e-6
)


@given(streams=st.integers(1, 500), mix=WEIGHTS, seed=st.integers())
def test_every_kind_gets_its_share_to_within_one_reader(streams: int, mix: dict[Kind, float], seed: int) -> None:
    counts = Counter(Plan(streams=streams, mix=mix, seed=seed).kinds())
    assert counts.total() == streams
    for kind, weight in mix.items():
        assert abs(counts[kind] - streams * weight / sum(mix.values())) < 1 + 1e-6


@given(seed=st.integers(), reader=st.integers(0, 1000), visit=st.integers(0, 10))
def test_the_same_seed_makes_the_same_readers(seed: int, reader: int, visit: int) -> None:
    one, other = Plan(seed=seed, turn_s=(1, 3)), Plan(seed=seed, turn_s=(1, 3))
    assert one.kinds() == other.kinds()
    assert one.conduct(reader, visit) == other.conduct(reader, visit)
    assert 1 <= one.conduct(reader, visit).turn_s <= 3


def test_another_seed_or_visit_makes_other_readers() -> None:
    plan = Plan()
    assert len({plan.conduct(0, visit).turn_s for visit in range(10)}) == 10
    assert plan.conduct(0, 0) != Plan(seed=1).conduct(0, 0)


def test_leaving_readers_leave_in_every_phase_and_in_both_ways() -> None:
    conducts = [Plan().conduct(reader, 0) for reader in range(200)]
    assert {one.phase for one in conducts} == set(Phase)
    assert {one.resets for one in conducts} == {True, False}


@given(streams=st.integers(1, 300), ramp_s=st.floats(0, 100))
def test_readers_come_in_order_and_within_the_ramp(streams: int, ramp_s: float) -> None:
    plan = Plan(streams=streams, ramp_s=ramp_s)
    starts = [plan.starts_at_s(reader) for reader in range(streams)]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] <= ramp_s


def test_a_mix_is_read_with_weights_and_without() -> None:
    assert parse_mix("fast=5, slow=0.5,stalling") == {Kind.FAST: 5, Kind.SLOW: 0.5, Kind.STALLING: 1}


@pytest.mark.parametrize("text", ["", "fats", "fast,fast", "fast=x", "fast=-1", "fast=nan", "fast=inf", "fast,,slow"])
def test_a_bad_mix_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="mix"):
        parse_mix(text)


@pytest.mark.parametrize(
    "change",
    [
        {"streams": 0},
        {"ramp_s": -1.0},
        {"duration_s": -1.0},
        {"slow_bytes_per_s": 0},
        {"turn_s": (2.0, 1.0)},
        {"turn_s": (-1.0, 1.0)},
        {"mix": {}},
        {"mix": {Kind.FAST: 0.0}},
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        Plan(**change)  # type: ignore[arg-type]
