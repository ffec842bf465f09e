"""The price table as shipped, and the sums it gives."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from app.money.prices import SHIPPED, TOKEN_TYPES, Prices, Rate, input_tokens_by_type, load_prices, prompt_tokens

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "prices.toml"


@pytest.fixture(scope="module")
def prices() -> Prices:
    return load_prices(SHIPPED)


def write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_shipped_price_has_a_source_and_a_date(prices: Prices) -> None:
    for price in prices.models.values():
        assert price.source
        assert price.date >= datetime.date(2026, 1, 1)
        assert price.usd_per_mtok.input < price.usd_per_mtok.output


def test_shipped_cache_writes_are_five_fourths_and_twice_the_input(prices: Prices) -> None:
    for price in prices.models.values():
        for rate in (price.usd_per_mtok, *(tier.usd_per_mtok for tier in price.tiers)):
            assert rate.cache_write_5m == pytest.approx(1.25 * rate.input)
            assert rate.cache_write_1h == pytest.approx(2 * rate.input)


def test_doubtful_prices_are_marked_and_missing_ones_left_out(prices: Prices) -> None:
    doubtful = {name for name, price in prices.models.items() if price.doubtful}
    assert doubtful == {"claude-fable-5-2", "claude-mythos-preview"}
    assert prices.find("claude-mythos-5-2") is None


def test_cost_adds_up_by_type(prices: Prices) -> None:
    usage = {
        "input_tokens": 1000,
        "cache_read_input_tokens": 10_000,
        "cache_creation_input_tokens": 3000,
        "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
        "output_tokens": 4,
    }
    rate = prices.rate("claude-sonnet-5-5", usage)
    assert rate is not None
    cost = rate.cost(usage, 500)
    expected = {"input": 0.002, "output": 0.005, "cache_read": 0.001, "cache_write_5m": 0.0025, "cache_write_1h": 0.008}
    assert dict(cost.items()) == pytest.approx(expected | {"fee": 0})
    assert cost.total == pytest.approx(sum(expected.values()))


def test_cache_writes_without_a_breakdown_are_five_minute_ones() -> None:
    assert input_tokens_by_type({"cache_creation_input_tokens": 7})["cache_write_5m"] == 7


def test_breakdown_never_exceeds_the_total() -> None:
    usage = {"cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 9}}
    assert prompt_tokens(usage) == 5


def test_a_breakdown_without_a_total_is_the_total() -> None:
    split = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 9}
    tokens = input_tokens_by_type({"cache_creation": split})
    assert (tokens["cache_write_5m"], tokens["cache_write_1h"]) == (3, 9)


def test_what_was_never_cleansed_counts_as_nothing() -> None:
    usage = {
        "input_tokens": "ten",
        "cache_read_input_tokens": -5,
        "cache_creation": 7,
        "cache_creation_input_tokens": {},
    }
    assert prompt_tokens(usage) == 0


@pytest.mark.parametrize(("cached", "output"), [(99_000, 0.50), (99_001, 2.50)])
def test_tier_is_chosen_by_the_whole_prompt_and_holds_for_output(prices: Prices, cached: int, output: float) -> None:
    rate = prices.rate("claude-haiku-5-5", {"input_tokens": 1000, "cache_read_input_tokens": cached})
    assert rate is not None
    assert rate.output == output


def test_a_snapshots_date_may_be_left_off_the_table(prices: Prices) -> None:
    assert prices.find("claude-haiku-4-5-20251001") is prices.find("claude-haiku-4-5") is not None


def rate_of(prices: Prices, model: str, **usage: str) -> Rate:
    rate = prices.rate(model, usage)
    assert rate is not None
    return rate


def test_modifiers_multiply_and_hold_only_for_their_models(prices: Prices) -> None:
    assert rate_of(prices, "claude-opus-5-5", inference_geo="us", speed="fast").input == pytest.approx(4 * 1.1 * 2)
    assert rate_of(prices, "claude-opus-5-5-20260922", inference_geo="us").cache_read == pytest.approx(0.2 * 1.1)
    assert rate_of(prices, "claude-sonnet-4-5", inference_geo="us").input == 3
    assert rate_of(prices, "claude-opus-4-6", speed="fast").output == 25
    assert rate_of(prices, "claude-sonnet-4-5", service_tier="batch").input == 1.5


def test_the_usual_words_of_a_usage_change_no_price(prices: Prices) -> None:
    for model, price in prices.models.items():
        for geo in ("global", "not_available"):
            usual = {"inference_geo": geo, "speed": "standard", "service_tier": "standard"}
            assert rate_of(prices, model, **usual) == price.usd_per_mtok


@pytest.mark.parametrize(
    ("model", "usage", "what"),
    [
        ("claude-sonnet-4-5", {"speed": "fast"}, "speed 'fast' of 'claude-sonnet-4-5'"),
        ("claude-opus-5-5", {"service_tier": "flex"}, "service_tier 'flex' of 'claude-opus-5-5'"),
        ("claude-opus-5-5", {"service_tier": "priority"}, "service_tier 'priority' of 'claude-opus-5-5'"),
        ("claude-opus-5-5", {"inference_geo": "moon" * 99}, "inference_geo 'moonmoon"),
        ("claude-of-tomorrow", {"service_tier": "flex"}, "the model 'claude-of-tomorrow'"),
    ],
)
def test_what_the_table_does_not_state_has_no_price_and_is_named(
    prices: Prices, model: str, usage: dict[str, str], what: str
) -> None:
    assert prices.rate(model, usage) is None
    told = prices.unstated(model, usage)
    assert told is not None
    assert told.startswith(what)
    assert len(told) < 200


def test_each_fee_has_a_source_and_a_search_costs_a_cent(prices: Prices) -> None:
    assert all(fee.source for fee in prices.fees.values())
    assert {use: fee.usd_each for use, fee in prices.fees.items()} == {
        "web_search_requests": 0.01,
        "web_fetch_requests": 0.0,
        "code_execution_requests": None,  # by the hour, which no usage tells
    }


def test_unknown_model_has_no_price(prices: Prices) -> None:
    assert prices.rate("claude-of-tomorrow", {}) is None


def test_upstreams_bill_as_the_file_says_and_unknown_ones_the_whole(prices: Prices) -> None:
    assert prices.bills("anthropic") == "until_abort"
    assert prices.bills("bedrock") == "whole_answer"
    assert prices.bills("unheard-of") == "whole_answer"


def test_a_second_file_overrides_only_what_it_names(tmp_path: Path) -> None:
    own = write(
        tmp_path,
        """
        [[model]]
        ids = ["claude-opus-5-5"]
        usd_per_mtok = { input = 3, output = 15, cache_read = 0.1, cache_write_5m = 4, cache_write_1h = 6 }
        source = "our contract"
        date = 2026-11-01
        [upstream.anthropic]
        bills = "whole_answer"
        source = "measured"
        date = 2026-11-01
        [[modifier]]
        field = "service_tier"
        value = "priority"
        factor = 0.8
        source = "our contract"
        date = 2026-11-01
        [[fee]]
        use = "web_search_requests"
        usd_each = 0.004
        source = "our contract"
        date = 2026-11-01
        """,
    )
    prices = load_prices(SHIPPED, own)
    opus, sonnet = prices.find("claude-opus-5-5"), prices.find("claude-sonnet-5-5")
    assert opus is not None
    assert sonnet is not None
    assert (opus.usd_per_mtok.output, sonnet.usd_per_mtok.output) == (15, 10)
    assert prices.bills("anthropic") == "whole_answer"
    assert prices.bills("bedrock") == "whole_answer"
    assert rate_of(prices, "claude-sonnet-5-5", service_tier="priority", inference_geo="us").input == pytest.approx(
        2 * 0.8 * 1.1
    )
    assert (prices.fees["web_search_requests"].usd_each, prices.fees["web_fetch_requests"].usd_each) == (0.004, 0)


def test_a_byte_order_mark_before_a_price_file_is_no_part_of_it(prices: Prices, tmp_path: Path) -> None:
    marked = tmp_path / "p.toml"
    marked.write_text(EXAMPLE.read_text("utf-8"), "utf-8-sig")
    assert load_prices(SHIPPED, marked).models == prices.models


def test_the_example_sets_nothing_as_it_is(prices: Prices) -> None:
    assert load_prices(SHIPPED, EXAMPLE).models == prices.models


def test_the_example_wins_over_the_shipped_table_once_its_signs_are_taken_away(tmp_path: Path, prices: Prices) -> None:
    own = load_prices(
        SHIPPED, write(tmp_path, re.sub(r"^#(?! |$)", "", EXAMPLE.read_text("utf-8"), flags=re.MULTILINE))
    )
    assert own.models.keys() == prices.models.keys() | {"our-name-for-opus"}
    short, long = own.rate("claude-opus-4-8", {}), own.rate("our-name-for-opus", {"input_tokens": 200_001})
    assert short is not None
    assert long is not None
    assert (short.input, long.input) == (4.5, 9.0)
    urgent = own.rate("claude-haiku-4-5", {"service_tier": "priority"})
    assert urgent is not None
    assert urgent.output == 5.0 * 1.25
    assert own.bills("our-gateway") == "whole_answer"


RATE = "input = 1, output = 5, cache_read = 0.1, cache_write_5m = 1.25, cache_write_1h = 2"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[model]]\nids = ['x']\nusd_per_mtok = { input = 1 }\nsource = ''\ndate = 2026-01-01", "output"),
        (f"[[model]]\nids = ['x']\nusd_per_mtok = {{ {RATE} }}\nsurce = ''\ndate = 2026-01-01", "surce"),
        (f"[[model]]\nids = []\nusd_per_mtok = {{ {RATE} }}\nsource = ''\ndate = 2026-01-01", "id"),
        (f"[[model]]\nids = ['x']\nusd_per_mtok = {{ {RATE.replace('output = 5', 'output = -5')} }}\nsource = ''\ndate = 2026-01-01", "negative"),
        (f"[[model]]\nids = ['x']\nusd_per_mtok = {{ {RATE.replace('output = 5', 'output = nan')} }}\nsource = ''\ndate = 2026-01-01", "number"),
        (f"[[model]]\nids = ['x']\nusd_per_mtok = {{ {RATE.replace('output = 5', 'output = inf')} }}\nsource = ''\ndate = 2026-01-01", "number"),
        ("[[modifier]]\nfield = 'speed'\nvalue = 'x'\nfactor = -1.0\nsource = ''\ndate = 2026-01-01", "negative"),
        ("[[fee]]\nuse = 'x'\nusd_each = nan\nsource = ''\ndate = 2026-01-01", "number"),
        ("[upstream.x]\nbills = 'sometimes'\nsource = ''\ndate = 2026-01-01", "sometimes"),
        ("[[model", "own.toml"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_and_the_message_says_where(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        load_prices(write(tmp_path, text))
    assert "own.toml" in str(caught.value)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.toml"):
        load_prices(tmp_path / "none.toml")


def test_scaled_rate_scales_every_type() -> None:
    rate = Rate(input=1, output=2, cache_read=3, cache_write_5m=4, cache_write_1h=5)
    assert [getattr(rate.times(2), kind) for kind in TOKEN_TYPES] == [2, 4, 6, 8, 10]


def test_a_table_becomes_another_one_all_at_once(prices: Prices) -> None:
    running = Prices()
    running.replace(prices)
    assert running.models == prices.models
    assert running.upstreams == prices.upstreams
    assert running.fees == prices.fees
