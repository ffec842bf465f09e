"""Each stream's page in the books: told what happens to it, closed once, and never in the way of anything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from ..answer.events import ClaudeEvent, DeltaKind
from ..answer.outcome import Outcome
from ..answer.tally import Phase
from ..answer.transcript import Transcript
from ..errors import SluicewayError, UpstreamError
from ..money.entry import Entry
from ..money.ledger import Ledger
from ..telemetry.ending import Ending, log_ending
from ..telemetry.observer import Observer
from .limiter import Ticket

log = logging.getLogger(__name__)

# The service makes at most this many remarks, because a model or a field may be called anything by whoever asks.
_MOST_REMARKS = 100
# One answer causes at most this many of them, because its usage may name hundreds of models; the rest come later.
_MOST_REMARKS_ON_ONE = 3

# Counts an aborted answer's text anew; gives the entry as it is then.
Recount = Callable[[Entry, Transcript], Coroutine[Any, Any, Entry]]


class Page:
    """One stream's page: its account in the ledger, and what observers are told of it while it runs.

    Attributes:
        account: the ledger's; read it, the page feeds it.
        ticket: what was taken for the stream at its admission; the page settles it.
        first_token_s: when the first token was handed to the reader, in seconds since the request; None before.
        claude_request_id: Claude's id for the request, where it is known.
    """

    __slots__ = (
        "_books",
        "_closing_since",
        "_last_batch_at",
        "_loop",
        "_meter",
        "account",
        "claude_request_id",
        "first_token_s",
        "ticket",
        "transcript",
    )

    def __init__(self, books: Books, model: str, max_tokens: int, ticket: Ticket) -> None:
        self._books = books
        self.ticket = ticket
        self._meter = ticket.meter
        self._loop = asyncio.get_running_loop()  # asked for once: in Python 3.11 each time is a system call
        self.first_token_s: float | None = None
        self.claude_request_id: str | None = None
        self._last_batch_at: float | None = None  # of the attached reader
        self._closing_since: float | None = None  # when the connection to Claude was told to close
        self.transcript = None if books.recount is None else Transcript()  # only where it may be counted anew
        self.account = books.ledger.open(
            model=model, max_tokens=max_tokens, now=self._loop.time(), upstream=books.upstream
        )

    def see(self, event: ClaudeEvent) -> None:
        """An event came from Claude."""
        self.account.see(event)
        if self._meter is not None:
            self._meter.see(event)
        if self.transcript is not None:
            self.transcript.see(event)

    def delivered(self, chars: dict[DeltaKind, int]) -> None:
        """Characters reached the reader's connection."""
        if chars:
            self.account.delivered(**chars)
            if self.first_token_s is None:
                self.first_token_s = self._loop.time() - self.account.opened_at
                self._books.observer.first_token(self.first_token_s)

    def batch(self, size_bytes: int) -> None:
        """A batch was written and drained."""
        now = self._loop.time()
        gap_s = None if self._last_batch_at is None else now - self._last_batch_at
        self._books.observer.batch(gap_s, size_bytes)
        self._last_batch_at = now

    def paused(self, waited_s: float) -> None:
        """The producer was held by backpressure for this long, and goes on or ended."""
        self._books.observer.paused(waited_s)

    def reader_changed(self) -> None:
        """Another reader reads: what the one before was away is no gap between batches."""
        self._last_batch_at = None

    def closing(self) -> None:
        """The connection to Claude is told to close."""
        self._closing_since = self._loop.time()

    @contextmanager
    def upstream_open(self) -> Iterator[None]:
        """The connection to Claude is open within the block, and closed or given back at its end."""
        observer = self._books.observer
        observer.upstream_opened()
        try:
            yield
        finally:
            since = self._closing_since
            observer.upstream_closed(None if since is None else self._loop.time() - since)

    def failed(self, error: SluicewayError) -> Outcome:
        """The answer failed, told to the reader as `error`; returns what that makes of the stream."""
        if isinstance(error, UpstreamError):
            self._books.observer.upstream_error(error.type)
        return Outcome.of(error, began=self.account.tally.phase is not Phase.BEFORE_FIRST_EVENT)

    def settle(self, outcome: Outcome) -> Entry | None:
        """Closes the page: the one place where a stream's money is counted. Never raises.

        Returns:
            The entry; None where it could not be made, which is a defect of ours and in the log.
        """
        entry = self._entry(outcome)
        try:
            self.ticket.settle(entry)
        except Exception:
            log.exception("what a stream of %s was let in with could not be given back", self.account.model)
        return entry

    def _entry(self, outcome: Outcome) -> Entry | None:
        books = self._books
        try:
            entry = self.account.settle(outcome, self._loop.time())
            if self.transcript is not None and books.recount is not None and entry.aborted:
                books.book_later(books.recount(entry, self.transcript), entry)
            else:
                books.book(entry)
        except Exception:
            log.exception("a stream of %s could not be booked", self.account.model)
            return None
        return entry


class Books:
    """Opens pages and tells the observer what they come to. Use as an async context manager.

    Args:
        ledger: where accounts are opened and settled.
        observer: told of all that happens to streams.
        upstream: whose prices and way of billing apply.
        recount: counts an aborted answer's text anew before it is booked; None leaves the estimate.
        trace: told of every answer that has ended, as it is without a recount, such as what makes its span; None for none.
    """

    def __init__(
        self,
        ledger: Ledger,
        observer: Observer,
        upstream: str = "anthropic",
        recount: Recount | None = None,
        trace: Callable[[Ending], None] | None = None,
    ) -> None:
        self.ledger = ledger
        self.observer = observer
        self.upstream = upstream
        self.recount = recount
        self._trace = trace
        self._said: set[str] = set()  # remarks on the sums, each in the log once
        self._recounts = asyncio.TaskGroup()

    async def __aenter__(self) -> Books:
        await self._recounts.__aenter__()
        return self

    async def __aexit__(self, *_error: object) -> None:
        # The group is not given the block's own error, because it would come out wrapped in an ExceptionGroup.
        await self._recounts.__aexit__(None, None, None)

    def open(self, model: str, max_tokens: int, ticket: Ticket) -> Page:
        """A page for a stream that begins; whoever opens it settles it, and its ticket with it."""
        self.observer.began(model)
        return Page(self, model, max_tokens, ticket)

    def book_later(self, recounting: Coroutine[Any, Any, Entry], entry: Entry) -> None:
        """Books the entry once: as it comes out of the recount, or as it was where that is cut short."""
        self._recounts.create_task(self._book_anew(recounting, entry))

    async def _book_anew(self, recounting: Coroutine[Any, Any, Entry], entry: Entry) -> None:
        try:
            entry = await recounting
        except Exception:
            log.exception("an answer could not be counted anew")
        finally:
            self.book(entry)

    def tell(self, ending: Ending) -> None:
        """Tells the log, and whoever traces, of an answer that has ended. Never raises."""
        try:
            log_ending(ending)
            if self._trace is not None:
                self._trace(ending)
        except Exception:
            log.exception("the end of an answer of %s could not be told", ending.entry.model)

    def book(self, entry: Entry) -> None:
        """Tells of a settled stream, and says once what an operator should know of the sums."""
        self.observer.settled(entry)
        new = [remark for remark in dict.fromkeys(entry.remarks) if remark not in self._said]
        room = min(_MOST_REMARKS_ON_ONE, _MOST_REMARKS - len(self._said))
        for remark in new[:room]:
            self._said.add(remark)
            log.warning("%s", remark)
        if room and len(new) > room:
            log.warning("%d more such things in one answer are not told", len(new) - room)
