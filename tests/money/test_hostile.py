"""Whatever an upstream says of its usage, and a caller of its bounds: it is settled, finite, and nothing is below zero."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.answer.events import ClaudeEvent, Event
from app.answer.outcome import Outcome
from app.money.entry import Entry
from app.money.ledger import MOST_MAX_TOKENS, Ledger
from app.telemetry.prometheus import Metrics
from app.wire.messages import events_of
from app.wire.plain import PlainFormat
from tests.support.books import MODEL, PRICES, settled, start, text, warmed

_FIELDS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation",
    "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "server_tool_use", "web_search_requests",
    "code_execution_requests", "output_tokens_details", "thinking_tokens", "iterations", "type", "model",
    "service_tier", "inference_geo", "speed", "of_tomorrow",
)  # fmt: skip
_SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, 7, 2413, -1, -5, 2**53 - 1, 2**53, 2**63, 10**400, -(10**400), 0.5, 20.0, 1e300, math.nan,
    math.inf, -math.inf, "", "ten", "batch", "flex", "fast", "us", MODEL, "claude-fable-5", "\ud83d", "x" * 5000,
    "message", "compaction", "advisor_message", "fallback_message", "fallback", "thinking", "tool_use",
)  # fmt: skip


def hostile(rng: random.Random, depth: int = 3) -> Any:
    """Some JSON that may stand where a usage, or a part of one, is looked for."""
    kind = rng.random()
    if depth == 0 or kind < 0.45:
        return rng.choice(_SCALARS)
    if kind < 0.6:
        return [hostile(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(_FIELDS): hostile(rng, depth - 1) for _ in range(rng.randint(0, 6))}


def usage(rng: random.Random) -> Any:
    """Mostly an object with the API's fields."""
    if rng.random() < 0.1:
        return hostile(rng)
    return {name: hostile(rng) for name in rng.sample(_FIELDS, rng.randint(1, 8))}


def answer(rng: random.Random) -> Iterator[ClaudeEvent]:
    """A streamed answer whose words for model, id, usage and ending are anything."""
    message = {"id": hostile(rng), "model": rng.choice((MODEL, hostile(rng))), "usage": usage(rng)}
    yield Event("message_start", b"", {"message": rng.choice((message, message, hostile(rng)))})
    for _ in range(rng.randint(0, 3)):
        yield Event("content_block_start", b"", {"content_block": {"type": hostile(rng, 0), "to": hostile(rng)}})
        yield text(rng.randint(1, 400))
    for _ in range(rng.randint(0, 2)):
        delta = {"stop_reason": hostile(rng), "stop_details": hostile(rng), "stop_sequence": hostile(rng)}
        yield Event("message_delta", b"", {"delta": rng.choice((delta, hostile(rng))), "usage": usage(rng)})
    if rng.random() < 0.5:
        yield Event("message_stop", b"", {})


def check(entry: Entry) -> None:
    assert entry.generated == entry.delivered + entry.wasted
    counts = (entry.generated, entry.delivered, entry.wasted, entry.unpriced_tokens, entry.unreadable)
    assert all(type(number) is int and number >= 0 for number in counts)
    money = (*dict(entry.spent_usd.items()).values(), entry.wasted_usd, entry.saved_usd, entry.saved_upper_usd)
    shares = (*(usd for _, _, usd in entry.spending), entry.avoided.expected, entry.avoided.variance)
    assert all(math.isfinite(figure) and figure >= 0 for figure in (*money, *shares))
    assert all(len(remark) < 300 and remark.isprintable() for remark in entry.remarks)


@pytest.mark.parametrize("usages", [1_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_hostile_usages_are_settled_finite_and_never_below_zero(usages: int) -> None:
    rng = random.Random(9)
    registry = CollectorRegistry()
    ledger, metrics = warmed(), Metrics(registry, [MODEL])
    for number in range(usages):
        wire = PlainFormat(thinking=True)
        account = ledger.open(model=MODEL, max_tokens=rng.choice((0, -1, 4096, 10**400)), now=float(number))
        # Every tenth comes whole.
        events = list(events_of({"usage": usage(rng), "model": hostile(rng)}) if number % 10 == 0 else answer(rng))
        for event in events:
            account.see(event)
        told = b"".join([*wire.encode(events), *wire.end(None)])
        account.delivered(text=rng.randint(0, 800))
        check(account.so_far(float(number)))
        entry = account.settle(rng.choice(list(Outcome)), number + 1.0)
        check(entry)
        metrics.settled(entry)
        json.loads(told.rsplit(b"data: ", 1)[1])
    assert ledger.open_accounts == 0
    sums = [sample.value for family in registry.collect() for sample in family.samples]
    assert all(math.isfinite(value) and value >= 0 for value in sums)
    json.dumps(ledger.dump(usages + 1.0), allow_nan=False)


@pytest.mark.parametrize("max_tokens", [10**400, 2**63, MOST_MAX_TOKENS, 0, -1, -(10**400)])
def test_any_bound_of_a_caller_is_one_that_can_be_computed_with(max_tokens: int) -> None:
    for ledger in (Ledger(PRICES), warmed(max_tokens=max_tokens)):
        entry = settled(ledger, Outcome.DISCONNECTED, start(), text(400), max_tokens=max_tokens)
        check(entry)
        assert entry.avoided.upper <= MOST_MAX_TOKENS


def test_hostile_answers_teach_nothing_that_cannot_be_unlearned() -> None:
    """A usage of 2**53 tokens for a few characters is odd, not the truth."""
    ledger = warmed([400] * 60)
    before = ledger.tokens_each(MODEL)[0]
    huge = Event("message_delta", b"", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2**53 - 1}})
    check(settled(ledger, Outcome.COMPLETED, start(), text(40), huge))
    assert ledger.tokens_each(MODEL)[0] == pytest.approx(before, rel=0.05)
