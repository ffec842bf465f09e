"""Streams for the ledger's tests: events of an answer, accounts opened and settled, and a ledger that has learned."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from app.answer.events import ClaudeEvent, Delta, DeltaKind, Event
from app.answer.outcome import Outcome
from app.money.entry import Entry
from app.money.ledger import Account, Ledger
from app.money.prices import SHIPPED, Prices, load_prices
from app.money.survival import ENOUGH_FINISHED

ROOT = Path(__file__).resolve().parents[2]
MODEL = "claude-sonnet-5-5"
PRICES = load_prices(SHIPPED)


def start(model: str = MODEL, **usage: Any) -> Event:
    return Event("message_start", b"", {"message": {"model": model, "usage": {"output_tokens": 1, **usage}}})


def block(kind: str, **more: Any) -> Event:
    return Event("content_block_start", b"", {"content_block": {"type": kind, **more}})


def block_stop() -> Event:
    return Event("content_block_stop", b"", {})


def text(chars: int, kind: DeltaKind = "text", letter: str = "a") -> Delta:
    return Delta(0, kind, letter * chars)


def end(tokens: int, stop_reason: str | None = "end_turn", **usage: Any) -> Event:
    return Event(
        "message_delta", b"", {"delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": tokens, **usage}}
    )


STOP = Event("message_stop", b"", {})


def opened(ledger: Ledger, *events: ClaudeEvent, model: str = MODEL, max_tokens: int = 4096, **more: Any) -> Account:
    account = ledger.open(model=model, max_tokens=max_tokens, now=0.0, **more)
    for event in events:
        account.see(event)
    return account


def settled(ledger: Ledger, outcome: Outcome, *events: ClaudeEvent, **more: Any) -> Entry:
    return opened(ledger, *events, **more).settle(outcome, 1.0)


def warmed(lengths: Iterable[int] = (400,) * ENOUGH_FINISHED, prices: Prices = PRICES, **more: Any) -> Ledger:
    """A ledger that has seen answers of these lengths finish, four characters a token."""
    ledger = Ledger(prices)
    for length in lengths:
        settled(ledger, Outcome.COMPLETED, start(), text(4 * length), end(length), STOP, **more)
    return ledger
