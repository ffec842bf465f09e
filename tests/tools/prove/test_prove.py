"""The experiment on a simulated account: it tells the providers apart or says that it could not, and keeps its cap."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from app.money.prices import SHIPPED, ModelPrice, PriceFile, Prices, Rate, load_prices
from app.tools.prove import UPSTREAM, command, examine
from app.tools.prove.design import CannotPlan, CapReached, MeasuredPace, SpendingCap, plan
from app.tools.prove.experiment import Experiment, Findings, Options
from app.tools.prove.inference import ALPHA, Share, Verdict, share, student_quantile, trustworthy
from app.tools.prove.report import as_json, rest_by_report, words
from app.tools.prove.usage_report import ReportError, fetch
from app.tools.simulator.account import Account, AccountPlan
from app.tools.simulator.scenario import Scenario
from app.tools.simulator.server import Simulator
from app.upstream.claude import Claude
from tests.support import loopback

MODEL = "claude-haiku-5-5"
# 10 kB of an event for 60 tokens: buffers on the way hold as many tokens as they do of Claude's own small events.
TALKATIVE = Scenario(tokens=100_000, rate=1300, ttft_s=0.3, tokens_per_delta=(60, 60), padding_bytes=10_000, late_s=2.0)
# Output tokens a minute, as of a workspace made for the purpose; a ninth of its refill goes to others, in lumps.
ACCOUNT = AccountPlan(output_limit=20_000, noise=37.0, noise_tokens=400.0)
RIGHT = {"stops": Verdict.AT_ONCE, "late": Verdict.A_WHILE, "never": Verdict.WHOLE}


class Provider:
    """A simulated provider and the way to it."""

    def __init__(self, simulator: Simulator, claude: Claude) -> None:
        self.simulator, self.claude = simulator, claude
        self.prices = load_prices(SHIPPED)

    async def examined(self, account: AccountPlan = ACCOUNT, *, cap_usd: float = 5.0, **options: Any) -> Findings:
        """A fresh account's experiment, held against the books for its cap."""
        self.simulator.reset()
        self.simulator.account = Account(account)
        chosen = replace(Options(MODEL, cap_usd), **options)
        found = await Experiment(self.claude, self.prices, chosen, epoch=self.simulator.epoch).run()
        self.simulator.account.advance(self.simulator.epoch() + 60)
        assert self.spent_usd() <= found.worst_usd <= cap_usd
        return found

    def spent_usd(self) -> float:
        """What the provider truly generated, priced."""
        rate = self.prices.rate(MODEL, {})
        assert rate is not None
        return sum(rate.cost(book.usage, book.consumed).total for book in self.simulator.books)


@asynccontextmanager
async def provider(**knobs: Any) -> AsyncIterator[Provider]:
    async with Simulator(TALKATIVE.with_knobs(knobs), sndbuf_bytes=8192) as simulator:
        claude = Claude(UPSTREAM, 0.0, "k", simulator.url)
        try:
            yield Provider(simulator, claude)
        finally:
            await claude.close()


def verdicts(found: Findings) -> tuple[Verdict, Verdict]:
    return found.abort_verdict, found.pause_verdict


# --- the whole of it -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
@pytest.mark.parametrize("accounts", [2, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("manner", ["stops", "late", "never"])
def test_accounts_are_never_judged_wrongly_and_seldom_not_at_all(manner: str, accounts: int) -> None:
    async def scene() -> None:
        seen: Counter[tuple[Verdict, Verdict]] = Counter()
        async with provider(on_abort=manner, on_pause=manner) as one:
            for seed in range(accounts):
                account = replace(ACCOUNT, seed=seed)
                seen[verdicts(await one.examined(account, seed=seed))] += 1
        right, unclear = RIGHT[manner], Verdict.UNCLEAR
        assert all({abort, pause} <= {right, unclear} for abort, pause in seen), seen
        assert sum(count for pair, count in seen.items() if unclear in pair) <= accounts // 5, seen

    loopback.run(scene())


@pytest.mark.parametrize(
    ("on_abort", "on_pause", "reserve", "expected"),
    [
        ("stops", "never", False, (Verdict.AT_ONCE, Verdict.WHOLE)),
        ("never", "stops", False, (Verdict.WHOLE, Verdict.AT_ONCE)),
        ("stops", "never", True, (Verdict.AT_ONCE, Verdict.WHOLE)),
        # Taken in advance and never given back: whether the pause held generation cannot be seen.
        ("never", "stops", True, (Verdict.WHOLE, Verdict.UNCLEAR)),
    ],
)
def test_abort_and_pause_are_told_apart_also_where_tokens_are_charged_in_advance(
    on_abort: str, on_pause: str, reserve: bool, expected: tuple[Verdict, Verdict]
) -> None:
    async def scene() -> None:
        async with provider(on_abort=on_abort, on_pause=on_pause) as one:
            quiet = AccountPlan(output_limit=40_000, noise=20.0, reserve=reserve)
            found = await one.examined(quiet, blocks_max=6)
            assert (verdicts(found), found.charged_in_advance) == (expected, reserve)

    loopback.run(scene())


@pytest.mark.parametrize("manner", ["stops", "late", "never"])
def test_traffic_that_drowns_the_experiment_leaves_it_open(manner: str) -> None:
    async def scene() -> None:
        async with provider(on_abort=manner, on_pause=manner) as one:
            loud = AccountPlan(output_limit=20_000, noise=150.0, noise_tokens=3000.0, seed=5)
            found = await one.examined(loud, blocks_max=4)
            assert set(verdicts(found)) <= {RIGHT[manner], Verdict.UNCLEAR}
            assert Verdict.UNCLEAR in verdicts(found)
            assert found.why

    loopback.run(scene())


def test_a_cap_that_pays_for_no_answer_is_not_spent_on_half_of_one() -> None:
    async def scene() -> None:
        async with provider() as one:
            found = await one.examined(cap_usd=0.01)
            assert verdicts(found) == (Verdict.UNCLEAR, Verdict.UNCLEAR)
            assert "does not pay" in found.why[0]
            assert len(one.simulator.books) == 3, "one probe and the calibration"

    loopback.run(scene())


def test_a_cap_that_is_reached_on_the_way_ends_the_experiment() -> None:
    async def scene() -> None:
        # Four fifths of the rest: the border between two verdicts, where no amount of data decides.
        async with provider(on_abort="late", on_pause="late", late_s=3.0) as one:
            found = await one.examined(cap_usd=0.1)
            assert verdicts(found) == (Verdict.UNCLEAR, Verdict.UNCLEAR)
            assert found.blocks >= 3
            assert "does not pay for another trial" in found.why[0]

    loopback.run(scene())


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"tokens": 300}, "ends the answer by itself"),
        ({"fault": "http_403"}, "told to answer 403"),
        ({"fault": "overloaded", "after": 200}, "Overloaded"),
        ({"rate": 2, "tokens_per_delta": 1}, "it would take"),
    ],
)
def test_what_cannot_be_measured_is_said_and_costs_next_to_nothing(knobs: dict[str, Any], why: str) -> None:
    async def scene() -> None:
        async with provider(**knobs) as one:
            found = await one.examined()
            assert verdicts(found) == (Verdict.UNCLEAR, Verdict.UNCLEAR)
            assert found.worst_usd < 0.001
            assert why in found.why[0]

    loopback.run(scene())


def test_the_usage_report_shows_the_rest_where_an_admin_key_is_given() -> None:
    async def scene() -> None:
        async with provider(on_abort="never", on_pause="never") as one:
            found = await one.examined(AccountPlan(output_limit=40_000), blocks_max=3)
            await asyncio.sleep(120)
            reported = await fetch("admin", MODEL, found.began_at, found.ended_at, base_url=one.simulator.url)
            rest = rest_by_report(found, reported)
            assert rest == pytest.approx(1.0, abs=0.02)
            assert reported.output_tokens == sum(book.consumed for book in one.simulator.books)
            text, data = words(found, reported), as_json(found, reported)
            assert "Abort: the whole answer is charged." in text
            assert "It is not the invoice" in text
            assert json.loads(json.dumps(data, allow_nan=False))["abort_verdict"] == "whole"
            with pytest.raises(ReportError, match="404"):
                await fetch("admin", MODEL, 0.0, 60.0, base_url=f"{one.simulator.url}/nowhere")

    loopback.run(scene())


@pytest.mark.parametrize(("way", "admin"), [("", True), ("/nowhere", True), ("", False)])
def test_the_report_is_read_with_an_admin_key_and_its_absence_costs_only_the_report(way: str, admin: bool) -> None:
    async def scene() -> None:
        async with provider() as one:
            one.simulator.account = Account(AccountPlan(output_limit=40_000))
            found, reported = await examine(
                Options(MODEL, 1.0, blocks_max=3),
                one.claude,
                one.prices,
                admin_key="admin" if admin else None,
                base_url=one.simulator.url + way,
                report_delay_s=120.0,
                epoch=one.simulator.epoch,
            )
            assert found.abort_verdict is Verdict.AT_ONCE
            assert (reported is not None) == (admin and not way)
            assert any("usage report" in why for why in found.why) == bool(way)
            if reported is not None:
                assert rest_by_report(found, reported) == pytest.approx(0.0, abs=0.05)

    loopback.run(scene())


def test_findings_of_nothing_are_told_without_a_verdict() -> None:
    nothing = Findings(MODEL, why=["The key was refused."], cap_usd=1.0)

    text, data = words(nothing, None), as_json(nothing, None)
    assert text.startswith("Abort: could not tell.\nPause: could not tell.\n")
    assert "The key was refused." in text
    assert json.loads(json.dumps(data, allow_nan=False))["abort"] == {"estimate": None, "low": None, "high": None}


# --- statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 5, 2.571),
        (0.995, 10, 3.169),
        (0.9995, 6, 5.959),
        (0.95, 30, 1.697),
    ],
)
def test_students_quantiles_are_those_of_the_tables(probability: float, freedom: int, quantile: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("truth", [0.0, 0.19, 0.5, 0.81, 1.0])
def test_the_interval_holds_over_all_looks_at_the_growing_data(truth: float) -> None:
    rng, missed, wrong = random.Random(7), 0, 0
    at = {"short": 5000.0, "long": 15_000.0, "aborted": 5000 + truth * 10_000, "paused": 9000.0}
    for _ in range(400):
        readings: dict[str, list[float]] = {arm: [] for arm in at}
        outside = False
        for block in range(8):
            drift = rng.gauss(0, 2000)
            for arm, mean in at.items():
                readings[arm].append(round((mean + drift + rng.gauss(0, 700)) / 1000) * 1000)
            if block >= 2:
                one = share(readings, "aborted", overshoot=0.0, looks=6)
                outside = outside or not one.low <= truth <= one.high
        missed += outside
        wrong += one.verdict not in (Verdict.UNCLEAR, Share(truth, truth, truth).verdict)
    assert missed <= 400 * ALPHA * 1.5
    assert wrong <= 400 * ALPHA * 1.5


@given(st.floats(-0.5, 1.5), st.floats(0, 0.7), st.floats(0, 0.7))
def test_an_interval_across_a_border_decides_nothing(middle: float, below: float, above: float) -> None:
    one = Share(middle, middle - below, middle + above)
    expected = {
        Verdict.AT_ONCE: one.high <= 0.2,
        Verdict.A_WHILE: one.low >= 0.2 and one.high <= 0.8,
        Verdict.WHOLE: one.low >= 0.8,
    }
    assert expected.get(one.verdict, True)
    assert (one.verdict is Verdict.UNCLEAR) == (not any(expected.values()))


def test_readings_without_a_difference_between_the_known_arms_bound_nothing() -> None:
    flat = {arm: [1000.0, 2000.0, 1500.0] for arm in ("short", "long", "aborted", "paused")}
    assert share(flat, "aborted", overshoot=0.0, looks=1).verdict is Verdict.UNCLEAR
    few = {arm: [1.0] for arm in ("short", "long", "aborted", "paused")}
    assert share(few, "aborted", overshoot=0.0, looks=1).verdict is Verdict.UNCLEAR
    assert not trustworthy(0.5)


# --- plan and cap ------------------------------------------------------------------------------------------------


@given(st.integers(4_000, 400_000), st.floats(20, 2000), st.floats(0, 3))
def test_a_plan_neither_empties_the_bucket_nor_lets_it_fill_up_again(limit: int, rate: float, ttft_s: float) -> None:
    planned = plan(limit, MeasuredPace(ttft_s, rate, 0.25), streams_max=10_000, slack=1.3)

    refill = limit / 60
    assert planned.most_output_tokens("long") <= limit * 0.9
    last_reading_s = planned.read_at_s + 2.5
    drawn_by_short = planned.streams * planned.short_tokens
    if limit >= 8_000 and ttft_s <= 1:
        assert drawn_by_short > refill * (last_reading_s - ttft_s) * 0.97


RATE = Rate(input=1.0, output=10.0, cache_read=0.1, cache_write_5m=1.25, cache_write_1h=2.0)
TABLE = Prices(PriceFile(model=(ModelPrice(ids=("m",), usd_per_mtok=RATE, source="", date=date.min),)))


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 100_000), st.floats(0, 1), st.booleans())))
def test_a_purse_never_lets_the_cap_be_passed(requests: list[tuple[int, int, float, bool]]) -> None:
    cap, truly = SpendingCap(TABLE, "m", 2.0), 0.0
    for input_tokens, most, share_drawn, finishes in requests:
        try:
            promised = cap.promise(input_tokens, most)
        except CapReached:
            continue
        drawn = round(most * share_drawn)
        truly += cap.cost(input_tokens, drawn)
        if finishes:
            cap.settle(promised, {"input_tokens": input_tokens, "output_tokens": drawn})
        assert truly <= cap.worst_usd + 1e-9 <= 2.0 + 2e-9


def test_a_model_without_a_price_is_refused() -> None:
    with pytest.raises(CannotPlan, match="price table"):
        SpendingCap(TABLE, "unheard-of", 1.0)


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {"ANTHROPIC_API_KEY": "k"}, "--cap-usd"),
        (["--cap-usd", "0"], {"ANTHROPIC_API_KEY": "k"}, "cap-usd"),
        (["--cap-usd", "1"], {}, "ANTHROPIC_API_KEY is not set"),
        (["--cap-usd", "1", "--model", "unheard-of"], {"ANTHROPIC_API_KEY": "k"}, "not in the price table"),
    ],
)
def test_the_command_refuses_before_it_spends(
    arguments: list[str], environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(command(), arguments, env=environment)
    assert result.exit_code != 0
    assert said in result.output
