"""The ledger: what one stream comes to, whatever happens to it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.answer.decoding import EventDecoder
from app.answer.events import ClaudeEvent, Event
from app.answer.outcome import Outcome
from app.answer.tally import Phase
from app.money.entry import Avoided
from app.money.ledger import MAX_MODELS, AlreadySettledError, Ledger
from app.money.survival import ENOUGH_FINISHED
from tests.support.answers import NAMES, lines_in
from tests.support.books import MODEL, PRICES, STOP, block, block_stop, end, opened, settled, start, text, warmed

ABORTS = [outcome for outcome in Outcome if outcome.aborts]


# Once, and balanced.


def test_settling_twice_is_refused_and_changes_nothing() -> None:
    ledger = Ledger(PRICES)
    account = opened(ledger, start(), text(40))
    account.settle(Outcome.DISCONNECTED, 1.0)
    total, dump = ledger.total, ledger.dump(1.0)
    with pytest.raises(AlreadySettledError):
        account.settle(Outcome.COMPLETED, 2.0)
    assert (ledger.total, ledger.dump(1.0), ledger.open_accounts) == (total, dump, 0)


def test_an_event_after_settling_is_refused() -> None:
    account = opened(Ledger(PRICES), start())
    account.settle(Outcome.STOPPED, 1.0)
    assert account.settled
    with pytest.raises(AlreadySettledError):
        account.see(text(4))


def test_open_accounts_are_counted_until_settled() -> None:
    ledger = Ledger(PRICES)
    accounts = [opened(ledger) for _ in range(3)]
    accounts[0].settle(Outcome.REJECTED, 1.0)
    assert ledger.open_accounts == 2
    assert "open=2" in repr(ledger)


any_event = st.one_of(
    st.builds(
        text,
        st.integers(1, 600),
        st.sampled_from(["text", "thinking", "input_json"]),
        st.sampled_from(["a", "я", "字"]),
    ),
    st.builds(start, input_tokens=st.integers(0, 200_000)),
    st.builds(block, st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "new"])),
    st.just(block_stop()),
    st.builds(end, st.integers(0, 5000), st.sampled_from([None, "end_turn", "max_tokens", "tool_use", "refusal"])),
    st.just(STOP),
    st.just(Event("of_tomorrow", b"", {})),
)


@settings(deadline=None)
@given(
    st.lists(any_event, max_size=30),
    st.sampled_from(list(Outcome)),
    st.tuples(*[st.integers(0, 3000)] * 3),
    st.integers(1, 8192),
    st.booleans(),
    st.sampled_from(["anthropic", "bedrock"]),
)
def test_any_stream_settles_balanced_and_within_bounds(
    events: list[ClaudeEvent], outcome: Outcome, chars: tuple[int, int, int], max_tokens: int, warm: bool, upstream: str
) -> None:
    ledger = warmed(max_tokens=max_tokens) if warm else Ledger(PRICES)
    account = opened(ledger, *events, max_tokens=max_tokens, upstream=upstream)
    account.delivered(text=chars[0], thinking=chars[1], input_json=chars[2])
    entry = account.settle(outcome, 5.0)
    assert entry.generated == entry.delivered + entry.wasted
    assert min(entry.generated, entry.delivered, entry.wasted) >= 0
    avoided = entry.avoided
    assert 0 == avoided.lower <= avoided.low <= avoided.high <= avoided.upper
    assert 0 <= avoided.expected <= avoided.upper
    assert entry.aborted or avoided == Avoided()
    assert entry.spent_usd.total >= entry.wasted_usd - 1e-12
    assert 0 <= entry.saved_usd <= entry.saved_upper_usd
    assert ledger.open_accounts == 0
    json.dumps(ledger.dump(5.0))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=10), st.data())
def test_delivering_more_never_wastes_more(runs: list[int], data: st.DataObject) -> None:
    events: list[ClaudeEvent] = [start(), *(text(run) for run in runs)]
    less = data.draw(st.integers(0, sum(runs)))
    more = data.draw(st.integers(less, 2 * sum(runs)))
    wasted = []
    for chars in (less, more):
        account = opened(Ledger(PRICES), *events)
        account.delivered(text=chars)
        wasted.append(account.settle(Outcome.DISCONNECTED, 1.0).wasted)
    assert wasted[0] >= wasted[1]


# Generated.


def test_usage_makes_it_exact() -> None:
    entry = settled(Ledger(PRICES), Outcome.COMPLETED, start(input_tokens=7), text(400), end(123), STOP)
    assert (entry.generated, entry.basis, entry.phase, entry.finished) == (123, "exact", Phase.DONE, True)
    assert entry.usage["input_tokens"] == 7
    assert entry.duration_s == 1.0


def test_the_placeholder_of_message_start_is_never_billed() -> None:
    entry = settled(Ledger(PRICES), Outcome.DISCONNECTED, start(output_tokens=4), text(4000))
    assert entry.basis == "estimated"
    assert entry.generated == pytest.approx(1080, rel=0.01)


def test_a_second_message_start_makes_it_no_more_exact() -> None:
    entry = settled(Ledger(PRICES), Outcome.DISCONNECTED, start(), end(5, None), start(output_tokens=2), text(400))
    assert entry.basis == "estimated"
    assert entry.generated > 50


def test_text_after_a_usage_is_estimated_on_top_of_it() -> None:
    entry = settled(Ledger(PRICES), Outcome.DISCONNECTED, start(), text(4000), end(900, None), text(400))
    assert (entry.basis, entry.generated) == ("estimated", 900 + round(400 * 0.27))


def test_tokens_a_character_are_learned_from_finished_streams() -> None:
    ledger = warmed()
    entry = settled(ledger, Outcome.DISCONNECTED, start(), text(1000))
    assert entry.generated == pytest.approx(250, rel=0.02)
    assert ledger.tokens_each(MODEL)[0] == pytest.approx(0.25, rel=0.02)
    assert ledger.tokens_each("another")[0] == 0.27


def test_aborted_before_anything_came_is_an_estimate_of_zero() -> None:
    entry = settled(Ledger(PRICES), Outcome.DISCONNECTED)
    assert (entry.generated, entry.basis, entry.phase) == (0, "estimated", Phase.BEFORE_FIRST_EVENT)
    assert entry.spent_usd.total == 0


def test_rejected_is_exactly_nothing() -> None:
    entry = settled(warmed(), Outcome.REJECTED)
    assert (entry.generated, entry.basis, entry.avoided, entry.aborted) == (0, "exact", Avoided(), False)


def test_tool_calls_cost_more_than_their_json() -> None:
    few = settled(Ledger(PRICES), Outcome.DISCONNECTED, start(), block("tool_use"), text(2, "input_json"))
    assert few.generated == pytest.approx(39, abs=1)
    assert few.phase is Phase.TOOL_USE


def test_characters_outside_ascii_cost_more() -> None:
    latin, chinese = (settled(Ledger(PRICES), Outcome.STOPPED, start(), text(100, letter=c)) for c in "a字")
    assert chinese.generated > 2 * latin.generated


def test_half_a_surrogate_pair_does_no_harm() -> None:
    assert settled(Ledger(PRICES), Outcome.STOPPED, start(), text(10, letter="\ud83d")).generated > 0


# Hidden thinking.


def test_hidden_thinking_is_unknown_rather_than_zero() -> None:
    hidden = settled(
        Ledger(PRICES), Outcome.DISCONNECTED, start(), block("thinking", thinking=""), block_stop(), text(40)
    )
    shown = settled(
        Ledger(PRICES), Outcome.DISCONNECTED, start(), block("thinking"), text(40, "thinking"), block_stop(), text(40)
    )
    assert (hidden.hidden_thinking, shown.hidden_thinking) == (True, False)


def test_an_open_thinking_block_without_text_counts_as_hidden() -> None:
    entry = settled(Ledger(PRICES), Outcome.VANISHED, start(), block("thinking"))
    assert (entry.hidden_thinking, entry.phase) == (True, Phase.THINKING)


def test_usage_reveals_hidden_thinking() -> None:
    entry = settled(
        Ledger(PRICES), Outcome.COMPLETED, start(), block("redacted_thinking"), block_stop(), end(700), STOP
    )
    assert (entry.hidden_thinking, entry.generated) == (False, 700)


def test_hidden_thinking_of_unknown_size_does_not_spoil_the_rates() -> None:
    ledger = Ledger(PRICES)
    settled(ledger, Outcome.COMPLETED, start(), block("thinking"), block_stop(), text(400), end(5000), STOP)
    assert ledger.tokens_each(MODEL)[0] == 0.27


def test_thinking_tokens_of_the_usage_are_learned_apart() -> None:
    ledger = Ledger(PRICES)
    for _ in range(100):
        told = end(1900, output_tokens_details={"thinking_tokens": 1500})
        settled(ledger, Outcome.COMPLETED, start(), text(4000, "thinking"), text(1600), told, STOP)
    each = ledger.tokens_each(MODEL)
    assert each[0] == pytest.approx(0.25, rel=0.02)
    assert each[1] == pytest.approx(0.375, rel=0.03)


def test_lengths_with_hidden_thinking_are_compared_by_what_is_visible() -> None:
    ledger = Ledger(PRICES)
    for _ in range(ENOUGH_FINISHED):
        told = end(2400, output_tokens_details={"thinking_tokens": 2000})
        settled(ledger, Outcome.COMPLETED, start(), block("thinking"), block_stop(), text(1600), told, STOP)
    entry = settled(ledger, Outcome.DISCONNECTED, start(), block("thinking"), block_stop(), text(400))
    assert entry.avoided.enough
    assert entry.avoided.expected == pytest.approx(300, rel=0.05)


def test_a_request_that_omits_thinking_is_hidden_from_its_first_event() -> None:
    assert settled(Ledger(PRICES), Outcome.STOPPED, start(), text(40), thinking_hidden=True).hidden_thinking


# Delivered and wasted.


def test_what_reached_the_reader_is_shared_by_characters() -> None:
    account = opened(Ledger(PRICES), start(), text(400), end(100), STOP)
    account.delivered(text=150)
    account.delivered(text=150)
    entry = account.settle(Outcome.DISCONNECTED, 1.0)
    assert (entry.delivered, entry.wasted) == (75, 25)


def test_everything_delivered_leaves_no_waste() -> None:
    account = opened(
        Ledger(PRICES), start(), text(90, "thinking"), block("tool_use"), text(3, "input_json"), end(77), STOP
    )
    account.delivered_all()
    assert account.settle(Outcome.COMPLETED, 1.0).wasted == 0


def test_an_answer_with_nothing_to_see_is_delivered_if_it_completed() -> None:
    for outcome, delivered in ((Outcome.COMPLETED, 20), (Outcome.DISCONNECTED, 0)):
        account = opened(Ledger(PRICES), start(), block("server_tool_use"), end(20), STOP)
        account.delivered_all()
        assert account.settle(outcome, 1.0).delivered == delivered


# Avoided.


@pytest.mark.parametrize("outcome", ABORTS)
def test_an_aborted_stream_avoids_what_its_like_would_still_have_come_to(outcome: Outcome) -> None:
    entry = settled(warmed(), outcome, start(), text(400))
    assert entry.aborted
    assert entry.avoided.enough
    assert entry.avoided.expected == pytest.approx(300, rel=0.02)
    assert entry.avoided.upper == 4096 - entry.generated


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - set(ABORTS), key=str))
def test_a_failure_saves_nothing(outcome: Outcome) -> None:
    assert settled(warmed(), outcome, start(), text(400)).avoided == Avoided()


def test_a_stream_cut_after_its_last_usage_avoids_exactly_nothing() -> None:
    """Drained, or its reader left in the last instant: whatever the outcome says, nothing was aborted."""
    entry = settled(warmed(), Outcome.DISCONNECTED, start(), text(400), end(100))
    assert (entry.aborted, entry.finished, entry.basis, entry.avoided) == (False, True, "exact", Avoided())


def test_an_answer_that_ended_without_usage_avoids_nothing_and_is_estimated() -> None:
    ending = Event("message_delta", b"", {"delta": {"stop_reason": "end_turn"}})
    entry = settled(warmed(), Outcome.DISCONNECTED, start(), text(400), ending, STOP)
    assert (entry.aborted, entry.finished, entry.basis, entry.avoided) == (False, False, "estimated", Avoided())


def test_with_too_few_finished_it_says_so_and_gives_the_bounds() -> None:
    ledger = warmed([400] * (ENOUGH_FINISHED - 1))
    avoided = settled(ledger, Outcome.STOPPED, start(), text(400)).avoided
    assert (avoided.enough, avoided.expected) == (False, 0)
    assert (avoided.low, avoided.high) == (0, avoided.upper)
    assert (ledger.total.unestimated, ledger.total.low, ledger.total.high) == (1, 0, avoided.upper)


def test_each_class_of_max_tokens_has_its_own_lengths() -> None:
    ledger = warmed(max_tokens=4096)
    assert not settled(ledger, Outcome.STOPPED, start(), text(400), max_tokens=64_000).avoided.enough
    assert settled(ledger, Outcome.STOPPED, start(), text(400), max_tokens=1025).avoided.enough


def test_answers_that_ran_into_their_bound_are_not_taken_for_short() -> None:
    ledger = warmed([400] * 100)
    for _ in range(100):
        settled(ledger, Outcome.COMPLETED, start(), text(8000), end(2000, "max_tokens"), STOP, max_tokens=2000)
    expected = settled(ledger, Outcome.STOPPED, start(), text(4000), max_tokens=4000).avoided.expected
    assert expected > 1500


def test_aborted_before_the_first_event_an_unknown_model_is_not_remembered() -> None:
    ledger = warmed()
    for i in range(2 * MAX_MODELS):
        assert not settled(ledger, Outcome.STOPPED, model=f"invented-{i}").avoided.enough
    assert settled(ledger, Outcome.STOPPED).avoided.expected == pytest.approx(400, rel=0.02)


def test_models_beyond_the_bound_are_forgotten_oldest_first() -> None:
    ledger = warmed()
    for i in range(MAX_MODELS):
        settled(ledger, Outcome.COMPLETED, start(), text(400), end(100), STOP, model=f"m{i}")
    assert len(ledger.dump(1.0)["models"]) == MAX_MODELS
    assert ledger.tokens_each(MODEL)[0] == 0.27


def test_total_adds_means_and_variances_and_stays_within_the_bounds() -> None:
    ledger = warmed([*range(200, 700, 10)])
    entries = [settled(ledger, Outcome.STOPPED, start(), text(400)) for _ in range(20)]
    total = ledger.total
    assert total.streams == 20
    assert total.expected == pytest.approx(sum(entry.avoided.expected for entry in entries))
    assert 0 < total.low < total.expected < total.high < total.upper
    assert total.low > sum(entry.avoided.low for entry in entries), "errors of many streams partly cancel"


# Money.


def test_money_of_an_aborted_stream() -> None:
    account = opened(warmed(), start(input_tokens=1000, cache_read_input_tokens=2000), text(400))
    account.delivered(text=200)
    entry = account.settle(Outcome.STALLED, 1.0)
    assert entry.priced
    assert dict(entry.spent_usd.items()) == pytest.approx(
        {
            "input": 0.002,
            "output": entry.generated * 1e-5,
            "cache_read": 0.0002,
            "cache_write_5m": 0,
            "cache_write_1h": 0,
            "fee": 0,
        }
    )
    assert entry.wasted_usd == pytest.approx(entry.wasted * 1e-5)
    assert entry.saved_usd == pytest.approx(entry.avoided.expected * 1e-5)
    assert entry.saved_upper_usd == pytest.approx(entry.avoided.upper * 1e-5)


def test_an_unknown_model_counts_in_tokens_only() -> None:
    entry = settled(Ledger(PRICES), Outcome.COMPLETED, start("unknown"), text(400), end(100), STOP, model="unknown")
    assert (entry.generated, entry.priced, entry.spent_usd.total, entry.saved_upper_usd) == (100, False, 0, 0)


def test_the_served_model_sets_the_price() -> None:
    entry = settled(Ledger(PRICES), Outcome.COMPLETED, start("claude-opus-5-5-20260901"), text(400), end(100), STOP)
    assert entry.spent_usd.output == pytest.approx(100 * 20e-6)


def test_an_upstream_that_bills_whole_answers_saves_nothing_and_costs_the_rest() -> None:
    ledger = warmed()
    entry = settled(ledger, Outcome.DISCONNECTED, start(), text(400), upstream="bedrock")
    assert (entry.avoided.expected, entry.avoided.upper, entry.saved_usd, entry.saved_upper_usd) == (0, 0, 0, 0)
    assert entry.unseen_tokens == pytest.approx(300, rel=0.02)
    assert entry.spent_usd.output == pytest.approx(0.004, rel=0.02)
    assert entry.wasted_usd == pytest.approx(0.004, rel=0.02)
    assert ledger.total.streams == 0


@pytest.mark.parametrize(("upstream", "avoidable"), [("bedrock", 0), ("anthropic", 4096 - 100)])
def test_a_stop_that_is_still_to_come_promises_no_saving_where_the_whole_is_billed(
    upstream: str, avoidable: int
) -> None:
    account = warmed().open(model=MODEL, max_tokens=4096, now=0.0, upstream=upstream)
    for seen in (start(), text(400)):
        account.see(seen)
    assert account.so_far(1.0).avoided.upper == pytest.approx(avoidable, abs=10)


# Claude's own recordings.


@pytest.mark.parametrize("name", NAMES)
def test_every_recording_is_exact_and_its_cut_is_not(name: str) -> None:
    decoder, events = EventDecoder(), list[ClaudeEvent]()
    for line in lines_in(name):
        events += decoder.feed(f"event: {json.loads(line)['type']}\ndata: {line}\n\n".encode())
    ends = [event for event in events if isinstance(event, Event) and event.type in ("message_delta", "message_stop")]
    whole = settled(Ledger(PRICES), Outcome.COMPLETED, *events)
    assert (whole.basis, whole.finished) == ("exact", True)
    assert whole.generated == ends[-2].data["usage"]["output_tokens"]
    cut = [event for event in events if event not in ends]
    assert settled(Ledger(PRICES), Outcome.DISCONNECTED, *cut).basis == "estimated"


def test_what_a_running_stream_would_come_to_is_told_and_settles_nothing() -> None:
    ledger = warmed()
    account = opened(ledger, start(), text(400))
    before = ledger.open_accounts, ledger.total
    told = account.so_far(1.0)
    assert told.generated > 0
    assert told.basis == "estimated"
    assert (ledger.open_accounts, ledger.total) == before
    assert not account.settled
    entry = account.settle(Outcome.STOPPED, 1.0)
    assert entry.generated == told.generated
    assert entry.avoided.upper == told.avoided.upper
    assert told.avoided.enough
    assert told.avoided.expected == pytest.approx(entry.avoided.expected, rel=0.05)
    assert told.saved_usd > 0


def test_of_a_model_that_is_new_nothing_is_expected_while_a_stream_runs() -> None:
    told = opened(Ledger(PRICES), start(), text(400)).so_far(1.0)
    assert (told.avoided.enough, told.avoided.expected) == (False, 0)
    assert told.avoided.upper > 0
