"""The contract of names, and what each entry adds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.answer.outcome import Outcome
from app.answer.tally import Phase
from app.errors import Refusal
from app.money.entry import Avoided, Entry
from app.money.prices import SHIPPED, Cost, load_prices
from app.telemetry.prometheus import ERROR_TYPES, LEFT, Metrics

MODELS = ["claude-sonnet-5-5", "claude-haiku-5-5"]

# Names and labels, as dashboards and alerts rely on them.
CONTRACT = {
    "sluiceway_streams_total": {"model", "outcome", "phase"},
    "sluiceway_output_tokens_total": {"model", "basis"},
    "sluiceway_aborted_tokens_total": {"model", "reason"},
    "sluiceway_wasted_tokens_total": {"model"},
    "sluiceway_avoided_tokens_total": {"model"},
    "sluiceway_avoided_tokens_upper_total": {"model"},
    "sluiceway_avoided_tokens_variance_total": {"model"},
    "sluiceway_avoided_unestimated_streams_total": {"model"},
    "sluiceway_spent_usd_total": {"model", "type", "basis", "outcome"},
    "sluiceway_refused_total": {"reason"},
    "sluiceway_simulated": set(),
    "sluiceway_left_usd_total": {"outcome", "phase"},
    "sluiceway_wasted_usd_total": {"model"},
    "sluiceway_saved_usd_total": {"model"},
    "sluiceway_saved_usd_upper_total": {"model"},
    "sluiceway_unpriced_streams_total": {"model"},
    "sluiceway_unpriced_tokens_total": {"model"},
    "sluiceway_usage_unreadable_total": set(),
    "sluiceway_hidden_thinking_streams_total": {"model"},
    "sluiceway_time_to_first_token_seconds_bucket": {"le"},
    "sluiceway_disconnect_to_upstream_close_seconds_bucket": {"le"},
    "sluiceway_batch_gap_seconds_bucket": {"le"},
    "sluiceway_batch_bytes_bucket": {"le"},
    "sluiceway_stall_seconds_bucket": {"le"},
    "sluiceway_stream_duration_seconds_bucket": {"le"},
    "sluiceway_queue_peak_bytes_bucket": {"le"},
    "sluiceway_event_loop_lag_seconds_bucket": {"le"},
    "sluiceway_producer_paused_seconds_total": set(),
    "sluiceway_producer_pauses_total": set(),
    "sluiceway_streams_active": set(),
    "sluiceway_upstreams_active": set(),
    "sluiceway_readers_stalled": set(),
    "sluiceway_saturation": set(),
    "sluiceway_upstream_errors_total": {"type"},
    "sluiceway_upstream_retries_total": set(),
    "sluiceway_price_usd_per_mtok": {"model", "type"},
    "sluiceway_build_info": {"version", "python"},
}


UNPRICED: dict[str, object] = {
    "priced": False, "spent_usd": Cost(), "wasted_usd": 0.0, "saved_usd": 0.0, "saved_upper_usd": 0.0,
}  # fmt: skip


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry, MODELS)


def entry(**given: object) -> Entry:
    fields: dict[str, object] = {
        "model": MODELS[0], "served_model": None, "upstream": "anthropic", "outcome": Outcome.DISCONNECTED,
        "phase": Phase.TEXT, "aborted": True, "finished": False, "stop_reason": None, "opened_at": 1.0, "settled_at": 4.0,
        "generated": 100, "basis": "estimated", "delivered": 60, "wasted": 40, "priced": True,
        "avoided": Avoided(expected=300.0, upper=900.0, low=10.0, high=800.0, variance=50.0),
        "spent_usd": Cost(input=0.5, output=2.0), "wasted_usd": 0.8, "saved_usd": 6.0, "saved_upper_usd": 18.0,
    }  # fmt: skip
    return Entry(**(fields | given))  # type: ignore[arg-type]


def samples(registry: CollectorRegistry) -> dict[str, set[str]]:
    return {
        sample.name: set(sample.labels)
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith(("_sum", "_count"))
    }


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"sluiceway_{name}", labels)


def changed(registry: CollectorRegistry, before: dict[str, float]) -> dict[str, float]:
    return {key: now - before[key] for key, now in flat(registry).items() if now != before[key]}


def flat(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_every_series_of_the_contract_is_there_from_the_start_and_no_other(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.show_prices(load_prices(SHIPPED))
    assert samples(registry) == CONTRACT


def test_what_an_alert_or_a_sum_counts_is_at_zero_before_it_happens(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    """Otherwise `rate()` and `increase()` miss the first event: a series is born with it."""
    metrics.began("new")
    before = flat(registry)
    metrics.settled(entry(model="new", outcome=Outcome.COMPLETED, phase=Phase.DONE, basis="exact", aborted=False))
    for outcome in LEFT:
        for phase in Phase:
            metrics.settled(entry(model="new", outcome=outcome, phase=phase))
    for outcome in (Outcome.UPSTREAM_ERROR, Outcome.INTERNAL_ERROR):
        for phase in Phase:
            metrics.settled(entry(model="new", outcome=outcome, phase=phase, aborted=False, **UNPRICED))
    metrics.settled(
        entry(model="new", outcome=Outcome.REJECTED, phase=Phase.BEFORE_FIRST_EVENT, aborted=False, **UNPRICED)
    )
    for kind in ERROR_TYPES:
        metrics.upstream_error(kind)
    for refusal in Refusal:
        metrics.refused(refusal)
    assert set(flat(registry)) == set(before)


def test_a_model_has_series_from_the_first_stream_that_asks_for_it_and_the_default_from_the_start(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    def models() -> set[str]:
        return {
            sample.labels["model"] for one in registry.collect() for sample in one.samples if "model" in sample.labels
        }

    metrics.show_prices(load_prices(SHIPPED))
    assert models() == {MODELS[0]}
    metrics.began(MODELS[1])
    assert models() == set(MODELS)
    assert value(registry, "price_usd_per_mtok", model=MODELS[1], type="output") == 0.5
    lines = len(flat(registry))
    metrics.began(f"{MODELS[1]}-20261001")
    assert len(flat(registry)) == lines


def test_a_worker_that_has_served_one_model_exposes_few_lines(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.show_prices(load_prices(SHIPPED))
    assert len(flat(registry)) < 350


def test_money_is_told_by_how_the_stream_ended(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.settled(entry())
    metrics.settled(entry(outcome=Outcome.COMPLETED, phase=Phase.DONE, basis="exact", aborted=False))
    spent = {
        (sample.labels["outcome"], sample.labels["type"], sample.labels["basis"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "sluiceway_spent_usd_total" and sample.value
    }
    assert spent == {
        ("disconnected", "input", "exact"): 0.5,
        ("disconnected", "output", "estimated"): 2.0,
        ("completed", "input", "exact"): 0.5,
        ("completed", "output", "exact"): 2.0,
    }


def test_each_refusal_has_a_series_of_its_own(registry: CollectorRegistry, metrics: Metrics) -> None:
    for refusal in Refusal:
        metrics.refused(refusal)
    assert [value(registry, "refused_total", reason=refusal.value) for refusal in Refusal] == [1] * len(Refusal)


def test_simulated_money_is_marked() -> None:
    for simulated in (False, True):
        registry = CollectorRegistry()
        Metrics(registry, MODELS, simulated=simulated)
        assert value(registry, "simulated") == simulated


@pytest.mark.real
def test_promtool_finds_nothing_to_say(registry: CollectorRegistry, metrics: Metrics) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: it is in Debian's package prometheus"
    metrics.settled(entry())
    metrics.show_prices(load_prices(SHIPPED))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_no_created_series_and_every_name_is_ours(registry: CollectorRegistry, metrics: Metrics) -> None:
    names = {re.split(r"[{ ]", key)[0] for key in flat(registry)}
    assert all(name.startswith("sluiceway_") for name in names)
    assert not any(name.endswith("_created") for name in names)


def test_an_aborted_stream_adds_to_each_counter_once(registry: CollectorRegistry, metrics: Metrics) -> None:
    before = flat(registry)
    metrics.settled(entry())
    model = 'model="claude-sonnet-5-5"'
    difference = {key: count for key, count in changed(registry, before).items() if "duration" not in key}
    assert difference == pytest.approx(
        {
            f'sluiceway_streams_total{{{model},outcome="disconnected",phase="text"}}': 1,
            f'sluiceway_output_tokens_total{{basis="estimated",{model}}}': 100,
            f'sluiceway_aborted_tokens_total{{{model},reason="disconnected"}}': 100,
            f"sluiceway_wasted_tokens_total{{{model}}}": 40,
            f"sluiceway_avoided_tokens_total{{{model}}}": 300,
            f"sluiceway_avoided_tokens_upper_total{{{model}}}": 900,
            f"sluiceway_avoided_tokens_variance_total{{{model}}}": 50,
            f'sluiceway_spent_usd_total{{basis="exact",{model},outcome="disconnected",type="input"}}': 0.5,
            f'sluiceway_spent_usd_total{{basis="estimated",{model},outcome="disconnected",type="output"}}': 2.0,
            'sluiceway_left_usd_total{outcome="disconnected",phase="text"}': 2.5,
            f"sluiceway_wasted_usd_total{{{model}}}": 0.8,
            f"sluiceway_saved_usd_total{{{model}}}": 6.0,
            f"sluiceway_saved_usd_upper_total{{{model}}}": 18.0,
        }
    )
    assert value(registry, "stream_duration_seconds_sum") == 3.0


def test_a_drained_stream_counts_as_neither_aborted_nor_avoided(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.settled(entry(aborted=False, finished=True, basis="exact", avoided=Avoided()))
    assert value(registry, "aborted_tokens_total", model=MODELS[0], reason="disconnected") == 0
    assert value(registry, "avoided_tokens_upper_total", model=MODELS[0]) == 0
    assert value(registry, "output_tokens_total", model=MODELS[0], basis="exact") == 100


def test_an_unpriced_stream_counts_in_tokens_only(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.settled(entry(unpriced_beside=7, **UNPRICED))
    assert value(registry, "unpriced_streams_total", model=MODELS[0]) == 1
    assert value(registry, "unpriced_tokens_total", model=MODELS[0]) == 107
    assert value(registry, "output_tokens_total", model=MODELS[0], basis="estimated") == 100
    assert value(registry, "saved_usd_total", model=MODELS[0]) == 0


def test_a_request_that_failed_before_anything_came_has_nothing_to_price(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    """A misspelt model, which Claude rejects, is no model without a price."""
    metrics.settled(entry(outcome=Outcome.REJECTED, phase=Phase.BEFORE_FIRST_EVENT, aborted=False, **UNPRICED))
    assert value(registry, "unpriced_streams_total", model=MODELS[0]) == 0
    metrics.settled(entry(phase=Phase.BEFORE_FIRST_EVENT, **UNPRICED))
    assert value(registry, "unpriced_streams_total", model=MODELS[0]) == 1


def test_fees_and_what_is_billed_on_top_are_spent_and_exact(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.settled(entry(spent_usd=Cost(output=2.0, fee=0.05), on_top_usd=0.5, unpriced_beside=3, unreadable=2))
    spent = {"model": MODELS[0], "type": "output", "outcome": "disconnected"}
    assert value(registry, "spent_usd_total", basis="estimated", **spent) == 1.5
    assert value(registry, "spent_usd_total", basis="exact", **spent) == 0.5
    assert value(registry, "spent_usd_total", basis="exact", **(spent | {"type": "fee"})) == 0.05
    assert value(registry, "unpriced_tokens_total", model=MODELS[0]) == 3
    assert value(registry, "usage_unreadable_total") == 2


def test_unknowns_are_counted(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.settled(entry(hidden_thinking=True, avoided=Avoided(upper=900.0, high=900.0, enough=False)))
    assert value(registry, "hidden_thinking_streams_total", model=MODELS[0]) == 1
    assert value(registry, "avoided_unestimated_streams_total", model=MODELS[0]) == 1


def test_models_outside_the_configured_ones_are_other(registry: CollectorRegistry, metrics: Metrics) -> None:
    for model in ("claude-sonnet-5-5-20261001", "x" * 5000, "other", ""):
        metrics.settled(entry(model=model))
    assert metrics.models == (*MODELS, "other")
    assert value(registry, "wasted_tokens_total", model=MODELS[0]) == 40
    assert value(registry, "wasted_tokens_total", model="other") == 120


def test_measurements_land_in_their_histograms(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.batch(None, 100)
    metrics.batch(0.1, 300)
    metrics.first_token(0.4)
    metrics.upstream_closed(0.09)
    metrics.stalled(3.0)
    metrics.started()
    metrics.ended(2000)
    metrics.loop_lag(0.002)
    metrics.paused(1.5)
    metrics.upstream_error("overloaded_error")
    metrics.upstream_error("made_up_by_a_proxy")
    metrics.upstream_retry()
    assert (value(registry, "batch_gap_seconds_count"), value(registry, "batch_bytes_sum")) == (1, 400)
    assert value(registry, "batch_gap_seconds_bucket", le="0.1") == 1
    assert value(registry, "time_to_first_token_seconds_sum") == 0.4
    assert value(registry, "disconnect_to_upstream_close_seconds_bucket", le="0.1") == 1
    assert value(registry, "stall_seconds_sum") == 3
    assert value(registry, "queue_peak_bytes_sum") == 2000
    assert value(registry, "event_loop_lag_seconds_sum") == 0.002
    assert (value(registry, "producer_paused_seconds_total"), value(registry, "producer_pauses_total")) == (1.5, 1)
    assert value(registry, "upstream_errors_total", type="overloaded_error") == 1
    assert value(registry, "upstream_errors_total", type="other") == 1
    assert value(registry, "upstream_retries_total") == 1


def test_bounds_on_which_a_promise_stands_are_buckets(registry: CollectorRegistry, metrics: Metrics) -> None:
    assert value(registry, "time_to_first_token_seconds_bucket", le="2.5") == 0
    assert value(registry, "disconnect_to_upstream_close_seconds_bucket", le="0.1") == 0


def test_gauges_go_up_and_down(registry: CollectorRegistry, metrics: Metrics) -> None:
    for gauge in (metrics.streams_active, metrics.upstreams_active, metrics.readers_stalled):
        gauge.inc()
        gauge.inc()
        gauge.dec()
    for name in ("streams_active", "upstreams_active", "readers_stalled"):
        assert value(registry, name) == 1


def test_prices_are_shown_with_their_tiers(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.show_prices(load_prices(SHIPPED))
    metrics.began(MODELS[1])
    shown = [value(registry, "price_usd_per_mtok", model=MODELS[1], type=t) for t in ("output", "output_above_100000")]
    assert shown == [0.5, 2.5]
    assert value(registry, "price_usd_per_mtok", model="other", type="output") is None


def test_prices_that_are_read_again_take_the_place_of_the_old_ones(
    registry: CollectorRegistry, metrics: Metrics, tmp_path: Path
) -> None:
    metrics.began(MODELS[1])
    metrics.show_prices(load_prices(SHIPPED))
    table = SHIPPED.read_text("utf-8").partition("[[model.tiers]]")[0]
    (tmp_path / "prices.toml").write_text(table.replace("output = 0.5,", "output = 0.7,"))
    metrics.show_prices(load_prices(tmp_path / "prices.toml"))
    shown = [value(registry, "price_usd_per_mtok", model=MODELS[1], type=t) for t in ("output", "output_above_100000")]
    assert shown == [0.7, None]
