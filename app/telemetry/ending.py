"""An answer that has ended, with all that is known of it but what was said: the log's one line, and what a span is made of."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..money.entry import Entry
from .trace_parent import TraceParent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """What an answer came to, streamed or whole.

    Attributes:
        entry: what the ledger says of it.
        stream_id: empty for an answer that came whole, which is no stream.
        caller: who asked, by name; empty where nobody is known.
        request_id: our own, of the request that asked; empty where none did.
        claude_request_id: Claude's, once it answered; None before.
        message_id: Claude's, of the answer itself; None where it never began.
        error_type: what it failed with; None where it did not.
        max_tokens: the request's own bound.
        first_token_s: seconds from the request to the first token handed to the reader; None where there was none.
        pauses, paused_s: how often, and for how many seconds together, Claude was held still by the reader.
        queue_peak_bytes: the fullest its queue was.
        parent: the caller's span.
    """

    entry: Entry
    stream_id: str = ""
    caller: str = ""
    request_id: str = ""
    claude_request_id: str | None = None
    message_id: str | None = None
    error_type: str | None = None
    max_tokens: int = 0
    first_token_s: float | None = None
    pauses: int = 0
    paused_s: float = 0.0
    queue_peak_bytes: int = 0
    parent: TraceParent | None = None


def log_ending(ending: Ending) -> None:
    """Writes the line of an answer that has ended and was settled."""
    if log.isEnabledFor(logging.INFO):
        told = facts(ending)
        log.info("%s", in_words(told), extra={"facts": told})


def facts(ending: Ending) -> dict[str, Any]:
    """What the line says, by the names that it has in JSON; money is null where there is no price, ids where there is none."""
    entry = ending.entry
    return {
        "stream": ending.stream_id or None,
        "caller": ending.caller or None,
        "request_id": ending.request_id or None,
        "claude_request_id": ending.claude_request_id,
        "trace_id": ending.parent.trace_id if ending.parent is not None else None,
        "model": entry.model,
        "outcome": entry.outcome.value,
        "phase": entry.phase.value,
        "error_type": ending.error_type,
        "duration_s": round(entry.duration_s, 3),
        "tokens": entry.generated,
        "basis": entry.basis,
        "wasted_tokens": entry.wasted,
        "cost_usd": round(entry.spent_usd.total, 9) if entry.priced else None,
        "wasted_usd": round(entry.wasted_usd, 9) if entry.priced else None,
        "pauses": ending.pauses,
        "paused_s": round(ending.paused_s, 3),
        "queue_peak_bytes": ending.queue_peak_bytes,
    }


def in_words(told: dict[str, Any]) -> str:
    """The same for people. Pure."""
    error = f" ({told['error_type']})" if told["error_type"] else ""
    cost = "no price" if told["cost_usd"] is None else f"{told['cost_usd']:.6f} $"
    answer = "a whole answer" if told["stream"] is None else f"stream {told['stream']}"
    held = f"; {told['pauses']} pauses of {told['paused_s']:.1f} s, queue peak {told['queue_peak_bytes']} bytes"
    return (
        f"{answer} ended: {told['outcome']}{error} in {told['phase']} after {told['duration_s']:.2f} s; "
        f"caller {told['caller'] or '-'}, request {told['request_id'] or '-'}, Claude's {told['claude_request_id'] or '-'}; "
        f"{told['model']!a}, {told['tokens']} tokens ({told['basis']}), {told['wasted_tokens']} wasted, {cost}"
        f"{held if told['stream'] is not None else ''}"
    )
