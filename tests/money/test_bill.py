"""Sums of an answer's usage, each worked out from the published rule beside it."""

from __future__ import annotations

from typing import Any

import pytest

from app.answer.events import ClaudeEvent, Event
from app.answer.outcome import Outcome
from app.money.bill import Bill, bill, cost_usd
from app.money.entry import Entry
from app.money.ledger import Ledger
from tests.support.books import PRICES, STOP, block, block_stop, end, settled, start, text

MTOK = 1_000_000


def iteration(kind: str, input_tokens: int, output_tokens: int, **more: Any) -> dict[str, Any]:
    return {"type": kind, "input_tokens": input_tokens, "output_tokens": output_tokens} | more


def whole(*events: ClaudeEvent, model: str) -> Entry:
    return settled(Ledger(PRICES), Outcome.COMPLETED, *events, STOP, model=model)


# A compaction, as the documentation's own example has it: 23,000 and 1,000 tokens at the top, 180,000 and 3,500 on top.

COMPACTED = [iteration("compaction", 180_000, 3_500), iteration("message", 23_000, 1_000)]


def test_a_compaction_is_billed_on_top_of_the_answer() -> None:
    entry = whole(
        start("claude-opus-4-6", input_tokens=23_000),
        text(4000),
        end(1_000, iterations=COMPACTED),
        model="claude-opus-4-6",
    )
    # Opus 4.6: 5 dollars a million in, 25 out.
    assert entry.spent_usd.input == pytest.approx((23_000 + 180_000) * 5 / MTOK)
    assert entry.spent_usd.output == pytest.approx((1_000 + 3_500) * 25 / MTOK)
    assert entry.spent_usd.total == pytest.approx(1.1275)
    assert (entry.generated, entry.wasted) == (1_000, 1_000)
    assert entry.wasted_usd == pytest.approx(0.025)  # the answer's own output


def test_a_compaction_on_demand_is_all_there_is() -> None:
    entry = whole(
        start("claude-opus-5-5", input_tokens=0),
        end(0, "compaction", input_tokens=0, iterations=[iteration("compaction", 144, 276)]),
        model="claude-opus-5-5",
    )
    assert entry.spent_usd.total == pytest.approx((144 * 4 + 276 * 20) / MTOK)
    assert (entry.generated, entry.basis) == (0, "exact")


def test_a_compaction_has_the_caches_of_its_own_and_the_terms_of_the_request() -> None:
    cached = iteration(
        "compaction", 1_000, 300, cache_read_input_tokens=40_000, cache_creation_input_tokens=2_000,
        cache_creation={"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1_500},
    )  # fmt: skip
    usage = {"input_tokens": 0, "iterations": [cached], "service_tier": "batch", "inference_geo": "us"}
    cost = bill(PRICES, "claude-opus-4-8", usage).cost
    half = 0.5 * 1.1 / MTOK  # a batch, in the United States
    assert dict(cost.items()) == pytest.approx({
        "input": 1_000 * 5 * half, "output": 300 * 25 * half, "cache_read": 40_000 * 0.5 * half,
        "cache_write_5m": 500 * 6.25 * half, "cache_write_1h": 1_500 * 10 * half, "fee": 0,
    })  # fmt: skip


# An advisor: its own model's price, in no field of the top level.


def test_an_advisor_is_billed_at_its_own_models_price() -> None:
    asked = [
        iteration("message", 400, 90),
        iteration("advisor_message", 820, 1_600, model="claude-opus-5"),
        iteration("message", 1_350, 440),
    ]
    entry = whole(
        start("claude-sonnet-4-6", input_tokens=400), text(2000), end(530, input_tokens=1_750, iterations=asked),
        model="claude-sonnet-4-6",
    )  # fmt: skip
    # Sonnet 4.6: 3 and 15; Opus 5: 5 and 25.
    assert entry.spent_usd.input == pytest.approx((1_750 * 3 + 820 * 5) / MTOK)
    assert entry.spent_usd.output == pytest.approx((530 * 15 + 1_600 * 25) / MTOK)
    assert entry.spent_usd.total == pytest.approx(0.0573)


def test_an_advisor_without_a_model_is_the_served_models() -> None:
    usage = {"iterations": [iteration("advisor_message", 1_000, 0, model=None)]}
    assert bill(PRICES, "claude-haiku-4-5", usage).cost.total == pytest.approx(1_000 * 1 / MTOK)


def test_an_advisor_is_as_fast_as_itself_and_not_as_the_asked_model() -> None:
    usage = {
        "input_tokens": 1_000,
        "speed": "fast",
        "iterations": [iteration("advisor_message", 1_000, 0, model="claude-fable-5")],
    }
    told = bill(PRICES, "claude-opus-5", usage)
    assert told.unpriced == ()
    assert told.cost.total == pytest.approx((1_000 * 5 * 2 + 1_000 * 10) / MTOK)


def test_an_advisor_without_a_price_is_counted_in_tokens_and_named() -> None:
    advised = iteration("advisor_message", 800, 1_600, model="claude-of-tomorrow", cache_read_input_tokens=10)
    entry = whole(
        start("claude-sonnet-4-6", input_tokens=10), text(40), end(10, iterations=[advised]), model="claude-sonnet-4-6"
    )
    assert (entry.priced, entry.unpriced, entry.unpriced_tokens) == (True, ("the model 'claude-of-tomorrow'",), 2_410)
    assert entry.spent_usd.total == pytest.approx((10 * 3 + 10 * 15) / MTOK)
    assert "'claude-of-tomorrow' has no known price" in entry.remarks[0]


# A fallback: the model that served, and nothing of the one that declined.

FELL_BACK = [
    iteration("message", 535, 0, model="claude-fable-5"),
    iteration("fallback_message", 412, 264, model="claude-opus-4-8"),
]
# Opus 4.8: 5 and 25.
FALLBACK_USD = (412 * 5 + 264 * 25) / MTOK
HANDED_OVER = block("fallback", **{"from": {"model": "claude-fable-5"}, "to": {"model": "claude-opus-4-8"}})


def test_a_fallback_before_any_output_has_the_price_of_the_model_that_served() -> None:
    entry = whole(
        start("claude-opus-4-8", input_tokens=412), HANDED_OVER, block_stop(), block("text"), text(900),
        end(264, iterations=FELL_BACK), model="claude-fable-5",
    )  # fmt: skip
    assert entry.served_model == "claude-opus-4-8"
    assert entry.spent_usd.total == pytest.approx(FALLBACK_USD)


def test_a_fallback_in_mid_answer_is_known_by_its_block_or_its_iteration() -> None:
    """`message_start` named the model that then declined."""
    ways: list[list[ClaudeEvent]] = [
        [HANDED_OVER, text(900), end(264, input_tokens=412)],
        [text(900), end(264, input_tokens=412, iterations=FELL_BACK)],
    ]
    for events in ways:
        entry = whole(start("claude-fable-5", input_tokens=535), text(300), *events, model="claude-fable-5")
        assert entry.served_model == "claude-opus-4-8"
        assert entry.spent_usd.total == pytest.approx(FALLBACK_USD)


def test_a_declined_attempt_with_output_is_not_added() -> None:
    declined = [iteration("message", 535, 70, model="claude-fable-5"), FELL_BACK[1]]
    entry = whole(
        start("claude-fable-5", input_tokens=535), text(300), HANDED_OVER, text(900),
        end(264, input_tokens=412, iterations=declined), model="claude-fable-5",
    )  # fmt: skip
    assert (entry.generated, entry.unpriced_tokens) == (264, 0)
    assert entry.spent_usd.total == pytest.approx(FALLBACK_USD)


def test_a_fallback_to_a_model_without_a_price_is_not_given_the_asked_ones() -> None:
    served = [iteration("fallback_message", 412, 264, model="claude-of-tomorrow")]
    entry = whole(
        start("claude-opus-4-8", input_tokens=412), text(9), end(264, iterations=served), model="claude-opus-4-8"
    )
    assert (entry.priced, entry.spent_usd.total, entry.unpriced_tokens) == (False, 0, 412 + 264)


def test_a_compaction_without_a_model_is_that_of_the_model_that_served() -> None:
    entry = whole(
        start("claude-fable-5", input_tokens=0), text(900),
        end(264, input_tokens=412, iterations=[iteration("compaction", 1_000, 100), *FELL_BACK]), model="claude-fable-5",
    )  # fmt: skip
    assert entry.spent_usd.total == pytest.approx(FALLBACK_USD + (1_000 * 5 + 100 * 25) / MTOK)


def test_an_abort_after_a_fallback_estimates_the_part_of_the_model_that_went_on() -> None:
    entry = settled(
        Ledger(PRICES), Outcome.STOPPED, start("claude-fable-5", input_tokens=412), text(4000), HANDED_OVER, text(1000),
        model="claude-fable-5",
    )  # fmt: skip
    assert (entry.generated, entry.basis) == (270, "estimated")
    assert entry.spent_usd.output == pytest.approx(270 * 25 / MTOK)


def test_a_fallback_teaches_no_rate_of_the_model_that_was_asked() -> None:
    ledger = Ledger(PRICES)
    before = ledger.tokens_each("claude-fable-5")
    settled(
        ledger, Outcome.COMPLETED, start("claude-fable-5"), text(4000), HANDED_OVER, text(100), end(900), STOP,
        model="claude-fable-5",
    )  # fmt: skip
    assert ledger.tokens_each("claude-fable-5") == before


# Refusals.


def test_a_refusal_before_any_output_is_not_billed() -> None:
    refused = whole(
        start("claude-fable-5", input_tokens=900), end(0, "refusal", input_tokens=900), model="claude-fable-5"
    )
    late = whole(
        start("claude-fable-5", input_tokens=900),
        text(40),
        end(12, "refusal", input_tokens=900),
        model="claude-fable-5",
    )
    assert (refused.priced, refused.spent_usd.total) == (True, 0)
    assert late.spent_usd.total == pytest.approx((900 * 10 + 12 * 50) / MTOK)


# Fees.


def test_each_web_search_costs_a_cent_beside_its_tokens() -> None:
    usage = {"web_search_requests": 5, "web_fetch_requests": 3}
    entry = whole(
        start("claude-opus-4-8", input_tokens=10), text(11), end(100, input_tokens=1_000, server_tool_use=usage),
        model="claude-opus-4-8",
    )  # fmt: skip
    assert entry.spent_usd.fee == pytest.approx(5 * 10 / 1_000)
    assert entry.spent_usd.total == pytest.approx(0.05 + (1_000 * 5 + 100 * 25) / MTOK)
    assert entry.unpriced == ()


def test_a_fee_holds_for_a_batch_and_for_a_model_without_a_price() -> None:
    usage = {"server_tool_use": {"web_search_requests": 2}}
    for told in (bill(PRICES, "claude-opus-4-8", usage | {"service_tier": "batch"}), bill(PRICES, "unknown", usage)):
        assert told.cost.fee == pytest.approx(0.02)


def test_uses_that_no_usage_can_price_are_named() -> None:
    usage = {"server_tool_use": {"code_execution_requests": 1, "of_tomorrow_requests": 2, "web_fetch_requests": 0}}
    told = bill(PRICES, "claude-opus-4-8", usage)
    assert told.unpriced == ("server_tool_use.code_execution_requests", "server_tool_use.of_tomorrow_requests")
    assert (told.priced, told.cost.total) == (True, 0)


def found(content: object) -> ClaudeEvent:
    return block("web_search_tool_result", tool_use_id="srvtoolu_1", content=content)


FAILED = {"type": "web_search_tool_result_error", "error_code": "unavailable"}


def test_searches_of_an_answer_that_was_cut_short_are_paid_as_they_were_seen() -> None:
    entry = settled(
        Ledger(PRICES), Outcome.STOPPED, start("claude-opus-4-8", input_tokens=1_000), found([]), found([]), found(FAILED),
        text(1000), model="claude-opus-4-8",
    )  # fmt: skip
    assert entry.spent_usd.fee == pytest.approx(0.02)


def test_of_a_whole_answer_the_usage_says_what_searches_are_paid() -> None:
    told = end(100, server_tool_use={"web_search_requests": 1})
    entry = whole(start("claude-opus-4-8"), found([]), found([]), text(40), told, model="claude-opus-4-8")
    assert entry.spent_usd.fee == pytest.approx(0.01)


@pytest.mark.parametrize(("kind", "what"), [("compaction", "compaction"), ("advisor_tool_result", "advisor_message")])
def test_what_ran_beside_an_answer_that_was_cut_short_is_named_where_no_usage_tells_it(kind: str, what: str) -> None:
    cut: list[ClaudeEvent] = [start("claude-opus-4-8"), block(kind), text(40)]
    entry = settled(Ledger(PRICES), Outcome.STOPPED, *cut, model="claude-opus-4-8")
    assert entry.unpriced == (f"{what} of an answer that was cut short",)
    assert entry.priced
    assert whole(*cut, end(10), model="claude-opus-4-8").unpriced == ()


# What nobody has stated.


def test_an_iteration_of_an_unknown_kind_is_counted_in_tokens_and_named() -> None:
    usage = {
        "input_tokens": 100,
        "iterations": [
            iteration("of_tomorrow", 70, 7, model="claude-opus-4-8"),
            {"input_tokens": 5},
            iteration("x", 0, 0),
        ],
    }
    told = bill(PRICES, "claude-opus-4-8", usage)
    assert told.cost.total == pytest.approx(100 * 5 / MTOK)
    assert (told.unpriced_tokens, told.unpriced) == (
        82, ("an iteration of type 'of_tomorrow'", "an iteration without a type"),
    )  # fmt: skip


def test_an_unknown_tier_of_service_leaves_the_whole_answer_in_tokens() -> None:
    entry = whole(
        start("claude-opus-4-8", input_tokens=100, service_tier="flex", cache_read_input_tokens=20), text(40), end(10),
        model="claude-opus-4-8",
    )  # fmt: skip
    assert (entry.priced, entry.spent_usd.total, entry.unpriced_tokens) == (False, 0, 130)
    assert entry.unpriced == ("service_tier 'flex' of 'claude-opus-4-8'",)


def test_before_claude_began_a_callers_word_for_a_model_is_not_remarked_on() -> None:
    assert settled(Ledger(PRICES), Outcome.REJECTED, model="invented").remarks == []


# Tiers by length: the top level's prompt, and each iteration's own.


def test_a_long_prompt_is_dearer_on_every_token_and_an_iteration_has_its_own_length() -> None:
    usage = {
        "input_tokens": 60_000,
        "cache_read_input_tokens": 40_001,
        "iterations": [iteration("compaction", 100_000, 10)],
    }
    told = bill(PRICES, "claude-haiku-5-5", usage)
    # Above 100,000 tokens 0.50, 0.05 and 2.50; up to there 0.10 and 0.50.
    assert told.cost.total == pytest.approx((60_000 * 0.5 + 40_001 * 0.05 + 100_000 * 0.1 + 10 * 0.5) / MTOK)
    assert told.output_usd_per_token == pytest.approx(2.5 / MTOK)


# Streams, and what they say when.


def test_iterations_are_cumulative_and_the_last_list_stands() -> None:
    first = [iteration("compaction", 180_000, 3_500)]
    entry = whole(
        start("claude-opus-4-6", input_tokens=23_000, iterations=first), text(400), end(10, None, iterations=first),
        text(400), end(1_000, iterations=COMPACTED), Event("message_delta", b"", {"usage": {"iterations": None}}),
        model="claude-opus-4-6",
    )  # fmt: skip
    assert entry.spent_usd.total == pytest.approx(1.1275)


def test_an_abort_after_a_compaction_keeps_what_it_cost() -> None:
    entry = settled(
        Ledger(PRICES), Outcome.STOPPED,
        start("claude-opus-4-6", input_tokens=23_000, iterations=COMPACTED[:1]), text(1000), model="claude-opus-4-6",
    )  # fmt: skip
    assert entry.basis == "estimated"
    assert entry.on_top_usd == pytest.approx(3_500 * 25 / MTOK)
    output = {basis: usd for kind, basis, usd in entry.spending if kind == "output"}
    assert output == pytest.approx({"estimated": 270 * 25 / MTOK, "exact": 3_500 * 25 / MTOK})
    again = entry.reconciled(300)
    assert again.spent_usd.output == pytest.approx((3_500 + 300) * 25 / MTOK)


def test_the_money_of_a_finished_answer_in_one_sum() -> None:
    usage = {"input_tokens": 23_000, "output_tokens": 1_000, "iterations": COMPACTED}
    assert cost_usd(PRICES, "claude-opus-4-6", usage) == pytest.approx(1.1275)
    assert cost_usd(PRICES, "unknown", usage) is None


def test_nothing_costs_nothing() -> None:
    assert bill(PRICES, "claude-opus-4-8", {}) == Bill(priced=True, output_usd_per_token=25 / MTOK)
