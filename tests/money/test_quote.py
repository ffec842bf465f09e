"""What a running answer has cost so far: exact where usage came, estimated since, in whole nano-dollars."""

from __future__ import annotations

import base64

import pytest

from app.answer.events import ClaudeEvent
from app.answer.outcome import Outcome
from app.answer.tally import Tally
from app.money.allowance import nano
from app.money.ledger import Ledger
from app.money.quote import Quote, input_tokens
from tests.support.books import MODEL, PRICES, block, end, opened, start, text

EACH = 10_000  # nano-dollars of an output token of MODEL, at 10 $ a million


def quote(model: str = MODEL, asked: bytes = b"x" * 300) -> Quote:
    return Quote(PRICES, Ledger(PRICES).tokens_each, model, asked)


def cost(quoted: Quote, *events: ClaudeEvent) -> int:
    tally = Tally()
    for event in events:
        tally.see(event)
    return quoted.cost(tally, quoted.tokens(tally))


def test_before_it_begins_it_has_cost_nothing_and_its_prompt_is_estimated() -> None:
    quoted = quote()
    assert cost(quoted) == 0
    assert (quoted.each, quoted.input) == (EACH, 101 * 2_000)


def test_its_prompt_costs_what_usage_says_and_its_text_what_is_estimated() -> None:
    quoted = quote()
    begun = start(input_tokens=1000, cache_read_input_tokens=10_000)
    assert cost(quoted, begun) == nano(1000 * 2e-6 + 10_000 * 1e-7)
    rate = Ledger(PRICES).tokens_each(MODEL)[0]
    assert cost(quoted, begun, text(400)) == nano(0.003) + round(400 * rate) * EACH


def test_usage_takes_the_place_of_what_was_estimated() -> None:
    assert cost(quote(), start(input_tokens=1000), text(400), end(50)) == nano(0.002) + 50 * EACH
    rate = Ledger(PRICES).tokens_each(MODEL)[0]
    went_on = cost(quote(), start(input_tokens=1000), text(400), end(50, None), text(100))
    assert went_on == nano(0.002) + (50 + round(100 * rate)) * EACH


def test_it_comes_to_what_the_ledger_settles() -> None:
    ledger = Ledger(PRICES)
    events: list[ClaudeEvent] = [
        start(input_tokens=700),
        block("thinking"),
        text(300, "thinking"),
        block("text"),
        text(1234, letter="ä"),
    ]
    account = opened(ledger, *events)
    quoted = Quote(PRICES, ledger.tokens_each, MODEL, b"")
    running = quoted.cost(account.tally, quoted.tokens(account.tally))
    assert running == nano(account.settle(Outcome.BUDGET, 1.0).spent_usd.total)


def test_prices_are_looked_up_where_usage_changed_only() -> None:
    quoted, tally = quote(), Tally()
    tally.see(start(input_tokens=1000))
    first = quoted.cost(tally, 0)
    quoted._fixed += 1  # what was looked up is taken as it is
    assert quoted.cost(tally, 0) == first + 1
    tally.see(end(5))
    assert quoted.cost(tally, 5) == first + 5 * EACH


def test_an_answer_of_another_model_costs_what_that_one_does() -> None:
    assert cost(quote(), start("claude-haiku-4-5", input_tokens=0), text(0), end(1000)) == 1000 * 5_000
    assert cost(quote(), start("renamed-by-a-gateway", input_tokens=0), end(1000)) == 1000 * EACH


def test_a_tier_of_service_without_a_price_costs_what_the_model_does() -> None:
    dear = start(input_tokens=1000, service_tier="unheard-of")
    assert cost(quote(), dear, end(10)) == nano(0.002) + 10 * EACH


def test_a_model_without_a_price_costs_nothing_here() -> None:
    quoted = quote("unheard-of")
    assert (quoted.each, quoted.input) == (0, 0)
    assert cost(quoted, start("unheard-of", input_tokens=1000), end(10)) == 0


def test_a_prompt_that_may_be_written_to_the_cache_is_held_for_at_that_price() -> None:
    assert quote(asked=b'{"cache_control":{}}' + b"x" * 280).input == 101 * 2_500


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        (b"", 1),
        (b"x" * 3000, 1001),
        (b"x" * 30_000_000, 1_000_000),
        (b'{"type":"base64","data":"' + base64.b64encode(b"x" * 3000) + b'"}', 2010),
        (b'{"type":"base64","data":"' + base64.b64encode(b"x" * 600_000) + b'"}', 40_010),
        (b'{"type":"base64","data":"short"}', 11),
        (b'{"type":"base64","data":', 9),
        (b'{"type":"base64","data":"never closed', 13),
    ],
)
def test_a_prompt_is_estimated_by_its_bytes_and_a_file_in_it_by_less(asked: bytes, tokens: int) -> None:
    assert input_tokens(asked) == pytest.approx(tokens, abs=1)


PLAIN = b"w" * 6000
FILE = b'{"type":"base64","media_type":"image/png","data":"%b"}' % PLAIN


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(b'{"type":"text","media_type":"text/plain","data":"%b"},{"x":"base64"}' % PLAIN, id="text"),
        pytest.param(b'{"type":"text","data":"%b","x":"base64"}' % PLAIN, id="text that says base64"),
        pytest.param(b'{"type":"base64","type":"text","data":"%b"}' % PLAIN, id="twice"),
        pytest.param(b'{"type":"base64","data":"%b"}' % (b"two words " * 600), id="words"),
        pytest.param(b'"base64",' + b" " * 300 + b'{"data":"%b"}' % PLAIN, id="far away"),
    ],
)
def test_text_that_calls_itself_a_file_counts_as_text(asked: bytes) -> None:
    assert input_tokens(asked) == len(asked) // 3 + 1


def test_a_file_is_known_by_the_mark_beside_it_on_either_side() -> None:
    assert input_tokens(FILE) == 2000 + (len(FILE) - 6000) // 3 + 1
    after = b'{"data":"%b", "type" : "base64"}' % PLAIN
    assert input_tokens(after) == 2000 + (len(after) - 6000) // 3 + 1


def test_of_files_without_end_a_thousand_are_looked_at() -> None:
    one = b'{"type":"base64","data":"' + b"A" * 1000 + b'"}'
    assert input_tokens(one * 1200) == min(1_000_000, 1000 * 2000 + 1)
    assert input_tokens(b'"base64"' + b'"data"' * 100_000) == (8 + 600_000) // 3 + 1


@pytest.mark.parametrize(
    "mark", [b'{"type":"url"}', b'{"file_id":"f"}', b'"web_search_20260101"', b'{"mcp_servers":[]}']
)
def test_what_comes_to_a_prompt_from_elsewhere_is_not_measured(mark: bytes) -> None:
    assert quote(asked=mark).unmeasured == 200_000 * 2_000
    assert quote().unmeasured == 0


def test_the_most_that_an_answer_can_cost_is_its_prompt_and_max_tokens() -> None:
    asked = Quote(PRICES, Ledger(PRICES).tokens_each, MODEL, b"x" * 300, 10)
    assert asked.most == 101 * 2_000 + 10 * EACH
