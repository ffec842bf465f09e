"""The money of each answer at hand, worked out here from the published prices, apart from the code.

Dollars a million tokens: input, output, cache reads, cache writes for five minutes, for an hour (the pricing page as of
2026-09-02; Haiku 5.5 and the 5.5 models as `prices.toml` cites them).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.answer.decoding import EventDecoder
from app.answer.events import ClaudeEvent
from app.answer.outcome import Outcome
from app.money.entry import Entry
from app.money.ledger import Ledger
from tests.support.answers import RECORDED, WRITTEN, events_in, lines_in
from tests.support.books import PRICES, settled


def booked(name: str) -> Entry:
    """The answer's entry, asked of the model that its first event names."""
    decoder, events = EventDecoder(), list[ClaudeEvent]()
    for line in lines_in(name):
        events += decoder.feed(f"event: {json.loads(line)['type']}\ndata: {line}\n\n".encode())
    return settled(Ledger(PRICES), Outcome.COMPLETED, *events, model=events_in(name)[0]["message"]["model"])


# Each in millionths of a dollar.
SUMS = {
    # Sonnet 4.6 at 3, 15 and 0.30; its advisor, Opus 4.8, at 5, 25 and 0.50, on top.
    "advisor": 1620 * 3 + 400 * 0.30 + 74 * 15 + 2100 * 5 + 1000 * 0.50 + 350 * 25,
    "begins-twice": 12 * 1 + 6 * 5,
    "citations": 3310 * 2 + 173 * 10,  # fetching the web costs nothing beside its tokens
    "code-execution": 5120 * 5 + 11800 * 0.50 + 402 * 25,
    "compaction-alone": 98000 * 3 + 640 * 15,
    # Opus 4.6 in the United States, 1.1 times; the compaction on top of the answer.
    "compaction": (1310 * 5 + 52 * 25 + 152000 * 5 + 1800 * 25) * 1.1,
    "context-edited": 2290 * 1 + 512 * 1.25 + 4096 * 0.10 + 31 * 5,
    "context-full": 199950 * 3 + 14 * 15,
    "cut-at-the-limit": 33 * 2 + 24 * 10,
    # Opus 4.8 served; Fable 5's attempt of 180 and 6 is not added.
    "fallback": 210 * 5 + 48 * 25,
    "long": 61 * 5 + 843 * 6.25 + 1000 * 10 + 912 * 25,
    "mcp": 890 * 5 + 167 * 25,
    "not-yet-known": 0,  # the priority tier has no published price: 77 and 58 tokens
    "nothing-said": 24 * 5 + 2 * 25,
    "one-word": 9 * 1 + 5 * 5,
    "pause-turn": 760 * 5 + 69 * 25 + 10_000,  # and a search
    "refused": 130 * 10 + 17 * 50,  # after it had begun to answer
    "stop-sequence": 40 * 0.10 + 9 * 0.50,
    "thinking-hidden": 1290 * 4 + 640 * 20,
    "thinking": 58 * 3 + 2210 * 0.30 + 236 * 15,
    "tool-called-by-code": 2048 * 4 + 96 * 20,
    "tool-search": 1020 * 3 + 151 * 15,
    "tools": 412 * 3 + 3072 * 0.30 + 138 * 15,
    "web-search": 9871 * 5 + 214 * 25 + 2 * 10_000,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_answer_costs_what_the_published_rules_say(name: str) -> None:
    entry = booked(name)
    assert entry.spent_usd.total * 1e6 == pytest.approx(SUMS[name])
    assert entry.unpriced_tokens == (77 + 58 if name == "not-yet-known" else 0)


PUBLISHED = {
    "claude-haiku-4-5": (1, 5, 0.10, 1.25, 2),
    "claude-opus-4-5": (5, 25, 0.50, 6.25, 10),
    "claude-sonnet-4-5": (3, 15, 0.30, 3.75, 6),
    "claude-sonnet-4-6": (3, 15, 0.30, 3.75, 6),
    "claude-sonnet-5": (2, 10, 0.20, 2.50, 4),
}


# A few of the written ones too: where there are no recordings the rule itself is tried all the same.
@pytest.mark.parametrize("name", ["context-edited", "cut-at-the-limit", "thinking", "tools", *RECORDED])
def test_each_recording_costs_what_the_published_rules_say(name: str) -> None:
    usage: dict[str, Any] = {}
    for event in events_in(name):
        told = event["message"]["usage"] if event["type"] == "message_start" else event.get("usage") or {}
        usage |= {key: value for key, value in told.items() if value is not None}
    model = events_in(name)[0]["message"]["model"]
    prices = next((prices for known, prices in PUBLISHED.items() if model.startswith(known)), None)
    if prices is None:
        assert model.startswith("claude-3-haiku"), "too old for the pricing page"
        prices = (0, 0, 0, 0, 0)
    split, uses = usage.get("cache_creation") or {}, usage.get("server_tool_use") or {}
    hour = split.get("ephemeral_1h_input_tokens", 0)
    tokens = (
        usage.get("input_tokens", 0),
        usage["output_tokens"],
        usage.get("cache_read_input_tokens", 0),
        usage.get("cache_creation_input_tokens", 0) - hour,
        hour,
    )
    expected = sum(count * price for count, price in zip(tokens, prices, strict=True))
    searches = uses.get("web_search_requests", 0)
    assert booked(name).spent_usd.total * 1e6 == pytest.approx(expected + searches * 10_000)
