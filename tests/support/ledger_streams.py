"""Streams for tests of the ledger: settled in one call."""

from __future__ import annotations

from app.answer.events import Delta, Event
from app.answer.outcome import Outcome
from app.money.ledger import Entry, Ledger


def finish_one(ledger: Ledger, *, chars: int, tokens: int, model: str = "claude-opus-4-8", now: float = 0.0) -> Entry:
    """A whole answer of so many characters and tokens."""
    account = ledger.open(model=model, max_tokens=4096, now=now)
    start = {"type": "message_start", "message": {"model": model, "usage": {"input_tokens": 10, "output_tokens": 1}}}
    account.see(Event("message_start", b"", start))
    account.see(Delta(0, "text", "x" * chars))
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens}}
    account.see(Event("message_delta", b"", end))
    account.delivered(text=chars)
    return account.settle(Outcome.COMPLETED, now)
