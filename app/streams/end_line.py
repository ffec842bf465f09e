"""The log's one line of a stream, at its end: what an operator asks for by any of its ids. No word of what was said in it."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import UpstreamRefused
from ..money.entry import Entry
from .session import Session

log = logging.getLogger(__name__)


def log_end(session: Session, entry: Entry) -> None:
    """Writes the line of a stream that has ended and was settled."""
    if log.isEnabledFor(logging.INFO):
        told = facts(session, entry)
        log.info("%s", in_words(told), extra={"facts": told})


def facts(session: Session, entry: Entry) -> dict[str, Any]:
    """What the line says, by the names that it has in JSON; money is null where there is no price, ids where there is none."""
    terms, queue = session.terms, session.channel.statistics()
    failure = session.failure or session.error
    of_claude = session.asked.source.request_id
    if of_claude is None and isinstance(failure, UpstreamRefused):
        of_claude = failure.request_id
    return {
        "stream": terms.stream_id,
        "caller": terms.caller or None,
        "request_id": terms.request_id or None,
        "claude_request_id": of_claude,
        "model": terms.model,
        "outcome": entry.outcome.value,
        "phase": entry.phase.value,
        "error_type": failure.type if failure is not None else None,
        "duration_s": round(entry.duration_s, 3),
        "tokens": entry.generated,
        "basis": entry.basis,
        "wasted_tokens": entry.wasted,
        "cost_usd": round(entry.spent_usd.total, 9) if entry.priced else None,
        "wasted_usd": round(entry.wasted_usd, 9) if entry.priced else None,
        "pauses": queue.pauses,
        "paused_s": round(queue.paused_s, 3),
        "queue_peak_bytes": queue.peak_bytes,
    }


def in_words(told: dict[str, Any]) -> str:
    """The same for people. Pure."""
    error = f" ({told['error_type']})" if told["error_type"] else ""
    cost = "no price" if told["cost_usd"] is None else f"{told['cost_usd']:.6f} $"
    return (
        f"stream {told['stream']} ended: {told['outcome']}{error} in {told['phase']} after {told['duration_s']:.2f} s; "
        f"caller {told['caller'] or '-'}, request {told['request_id'] or '-'}, Claude's {told['claude_request_id'] or '-'}; "
        f"{told['model']!a}, {told['tokens']} tokens ({told['basis']}), {told['wasted_tokens']} wasted, {cost}; "
        f"{told['pauses']} pauses of {told['paused_s']:.1f} s, queue peak {told['queue_peak_bytes']} bytes"
    )
