"""What is told of an answer at its end, from where each part of it is known."""

from __future__ import annotations

from dataclasses import replace

from ..errors import SluicewayError, UpstreamRefused
from ..money.entry import Entry
from ..telemetry.ending import Ending
from .books import Page
from .session import Session
from .terms import Terms


def ending_of(session: Session, entry: Entry) -> Ending:
    """Of a stream that has ended and was settled."""
    session.page.claude_request_id = session.asked.source.request_id
    queue = session.channel.statistics()
    return replace(
        ending_of_whole(session.terms, session.page, entry, session.failure or session.error),
        pauses=queue.pauses,
        paused_s=queue.paused_s,
        queue_peak_bytes=queue.peak_bytes,
    )


def ending_of_whole(terms: Terms, page: Page, entry: Entry, failure: SluicewayError | None) -> Ending:
    """Of an answer that came whole, or failed with `failure`."""
    of_claude = page.claude_request_id
    if of_claude is None and isinstance(failure, UpstreamRefused):
        of_claude = failure.request_id
    return Ending(
        entry,
        stream_id=terms.stream_id,
        caller=terms.caller,
        request_id=terms.request_id,
        claude_request_id=of_claude,
        message_id=page.account.tally.message_id,
        error_type=failure.type if failure is not None else None,
        max_tokens=page.account.max_tokens,
        first_token_s=page.first_token_s,
        parent=terms.parent,
    )
