"""Every stream that a reader can ask for: the running ones, and for a while those that have ended.

The way to a stream goes through here, so that streams of other workers can be found here too one day.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..answer.outcome import Outcome
from ..answer.sse import numbered
from ..answer.tally import Phase
from ..answer.transcript import Transcript
from ..errors import BadRequest, Expired, Forbidden, NotFound, ShuttingDown, SluicewayError, TakenOver
from ..flow.relay import Source
from ..money.entry import Entry
from ..money.ledger import Account, Ledger
from ..telemetry.prometheus import Metrics
from ..wire import WireFormat
from .delivery import Connection, Delivery
from .liveness import Finding
from .replay import Replay, ReplayBudget
from .session import Policy, Session, SessionOptions, Terms, new_stream_id

log = logging.getLogger(__name__)

# How often the readers are looked at, in seconds.
WATCH_S = 0.5
# A caller's word for a model may be anything: so many are warned of, then none.
_MOST_WARNINGS = 100
_OUTCOME_OF = {Finding.STALLED: Outcome.STALLED, Finding.VANISHED: Outcome.VANISHED}


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What is kept, and how long; `settings.py` says what each means, in which unit and why."""

    replay_bytes: int
    replay_total_bytes: int
    replay_s: float
    drain_s: float


@dataclass(slots=True)
class _Kept:
    """A stream that has ended, for as long as it can be read again.

    Attributes:
        delivery: writes its frames once more.
        terms: who may ask.
    """

    session_terms: Terms
    delivery: Delivery
    replay: Replay
    expired: bool = False  # its grace period ran out: there is no answer to come back to


class Streams:
    """All streams of this process: starts them, finds them, and ends what is left at its exit.

    Use as an async context manager.

    Args:
        options: what is kept.
        session_options: the bounds of every stream.
        ledger: where each is settled.
        metrics: told of each settlement, and of what is wrong with readers.
        admit: given how many streams run, raises where there is no room for one more.
        worker: this process's number among its siblings; part of every stream's id.
        upstream: whose prices and way of billing apply.
        reconcile: counts an aborted answer's text anew before it is booked; None leaves the estimate.
    """

    def __init__(
        self,
        options: StoreOptions,
        session_options: SessionOptions,
        ledger: Ledger,
        metrics: Metrics,
        admit: Callable[[int], None] = lambda _in_flight: None,
        worker: int = 0,
        upstream: str = "anthropic",
        reconcile: Callable[[Entry, Transcript], Coroutine[Any, Any, Entry]] | None = None,
    ) -> None:
        self._reconcile = reconcile
        self._worker = worker
        self._upstream = upstream
        self._unpriced: set[str] = set()  # models that were warned of
        self._options = options
        self._admit = admit
        self._session_options = session_options
        self._ledger = ledger
        self._metrics = metrics
        self._tasks = asyncio.TaskGroup()
        self._watcher: asyncio.Task[None] | None = None
        self._kept: dict[str, _Kept] = {}  # oldest first
        self._named: dict[tuple[str, str], Terms] = {}  # the newest of each caller's name
        self._whole: set[asyncio.Timeout] = set()  # one for each answer that is asked for whole
        self._replaying: set[Connection] = set()  # readers of streams that have ended
        self._empty = asyncio.Event()  # set while no stream runs, and no whole answer is asked for
        self._empty.set()
        self._hurry = asyncio.Event()  # set when the drain time is cut short
        self.budget = ReplayBudget(options.replay_total_bytes)
        self.budget.relieve = self._relieve
        self.accepting = True
        self.live: dict[str, Session] = {}

    async def __aenter__(self) -> Streams:
        await self._tasks.__aenter__()
        self._watcher = self._tasks.create_task(self._watch(), name="watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.accepting = False
        self._stop_all()
        await self._empty.wait()
        if self._watcher is not None:
            self._watcher.cancel()
        # Not handed the block's own error: it would come out wrapped in a group.
        await self._tasks.__aexit__(None, None, None)

    def new_id(self) -> str:
        """An id for a stream that is to be started here."""
        return new_stream_id(self._worker)

    def start(
        self,
        terms: Terms,
        source: Source,
        wire: WireFormat,
        connection: Connection,
        max_tokens: int,
        preface: Sequence[bytes] = (),
    ) -> Session:
        """Starts a stream from `source` to the reader on `connection`; an older one of the same name is taken over.

        Args:
            terms: what it was asked for with.
            source: the answer, not yet asked for.
            wire: the format.
            connection: the first reader's.
            max_tokens: the request's own bound.
            preface: frames that only readers who come back need, before all others.

        Raises:
            ShuttingDown: none is started any more.
        """
        self._check_accepting()
        if terms.name:
            self._name(terms)
        loop = asyncio.get_running_loop()
        keeps = terms.policy is not Policy.ABORT and self.has_room
        replay = Replay(self._options.replay_bytes if keeps else 0, self.budget)
        if keeps:
            replay.extend([numbered(frame_id, frame) for frame_id, frame in enumerate(preface, 1)])
            connection.sent_id = replay.last_id
        account = self._ledger.open(model=terms.model, max_tokens=max_tokens, now=loop.time(), upstream=self._upstream)
        transcript = None if self._reconcile is None else Transcript()
        session = Session(terms, source, wire, replay, account, self._metrics, self._session_options, transcript)
        self.live[terms.stream_id] = session
        self._empty.clear()
        self._metrics.streams_active.inc()
        session.start(self._tasks, connection, self._ended)
        return session

    @asynccontextmanager
    async def whole(self, model: str, max_tokens: int) -> AsyncIterator[Account]:
        """Books an answer that comes whole: settled when the block is left, whatever ends it.

        Raises:
            ShuttingDown: none is asked for any more, or the drain time is over.
        """
        self._check_accepting()
        now = asyncio.get_running_loop().time()
        account = self._ledger.open(model=model, max_tokens=max_tokens, now=now, upstream=self._upstream)
        outcome = Outcome.INTERNAL_ERROR
        limit = asyncio.timeout(None)
        self._whole.add(limit)
        self._empty.clear()
        try:
            async with limit:
                yield account
            outcome = Outcome.COMPLETED
        except SluicewayError as error:
            outcome = Outcome.UPSTREAM_ERROR
            self._metrics.upstream_error(error.type)
            raise
        except asyncio.CancelledError:
            outcome = Outcome.DISCONNECTED
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            outcome = Outcome.SHUTDOWN
            raise ShuttingDown("the service is shutting down", retry_after_s=1.0) from None
        finally:
            self._book(account.settle(outcome, asyncio.get_running_loop().time()))
            self._whole.discard(limit)
            self._check_empty()

    def named(self, caller: str, name: str) -> Terms | None:
        """The caller's newest stream of this name, while it runs or can be read again."""
        return self._named.get((caller, name))

    @property
    def has_room(self) -> bool:
        """Whether a new stream may be resumable."""
        while not self.budget.has_room and self._relieve():
            pass
        return self.budget.has_room

    async def resume(self, stream_id: str, caller: str, connection: Connection) -> Session | None:
        """Gives the reader on `connection` every frame after its `sent_id`, then what is still to come.

        Returns:
            The session, once the reader is attached to it; None when it has had all of a stream that has ended.

        Raises:
            NotFound: no such stream, or another caller's. Expired: it, or the part asked for, is no longer kept.
            BadRequest: it has not come that far.
        """
        session, kept = self.live.get(stream_id), self._kept.get(stream_id)
        if session is not None:
            kept = _Kept(session.terms, session.delivery, session.replay, expired=not session.delivery.finished)
        if kept is None or not _same(kept.session_terms.caller, caller):
            raise NotFound("no stream has this id")
        if not kept.replay.keeps:
            raise Expired("this stream keeps nothing to resume from")
        if session is not None and not session.lifecycle.over:
            _check_place(session.replay, connection.sent_id)
            session.attach(connection)
            return session
        if kept.expired:
            raise Expired("this stream has ended, and nothing of it is kept")
        _check_place(kept.replay, connection.sent_id)
        self._replaying.add(connection)
        try:
            await kept.delivery.replay_to(connection)
        finally:
            self._replaying.discard(connection)
            connection.release(None)
        return None

    def find(self, stream_id: str, caller: str, stop_token: str | None) -> Session | None:
        """A stream that this caller, or this stop token, may stop or steer; None if it has ended already.

        Raises:
            NotFound: no such stream, or another caller's. Forbidden: neither a caller's key nor the stop token came.
        """
        session = self.live.get(stream_id)
        terms = session.terms if session is not None else None
        if terms is None and (kept := self._kept.get(stream_id)) is not None:
            terms = kept.session_terms
        if terms is None:
            raise NotFound("no stream has this id")
        if stop_token and _same(terms.stop_token, stop_token):
            return session
        if not caller:
            raise Forbidden("the stream's own X-Stop-Token is needed")
        if not _same(terms.caller, caller):
            raise NotFound("no stream has this id")
        return session

    async def drain(self) -> None:
        """Takes no new streams, gives the running ones the drain time, then ends them with a typed last event.

        A stream that is held for a lost reader is ended at once: nobody can come back to it any more.
        """
        self.accepting = False
        for session in list(self.live.values()):
            if session.held:
                session.stop(Outcome.SHUTDOWN, ShuttingDown("the service is shutting down"))
        waits = [asyncio.ensure_future(event.wait()) for event in (self._empty, self._hurry)]
        try:
            await asyncio.wait(waits, timeout=self._options.drain_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._stop_all()

    def hurry(self) -> None:
        """Cuts the drain time short."""
        self._hurry.set()

    def _stop_all(self) -> None:
        for session in list(self.live.values()):
            session.stop(Outcome.SHUTDOWN, ShuttingDown("the service is shutting down"))
        for limit in self._whole:
            limit.reschedule(asyncio.get_running_loop().time())

    def _check_accepting(self) -> None:
        if not self.accepting:
            raise ShuttingDown("the service is shutting down", retry_after_s=1.0)
        self._admit(len(self.live) + len(self._whole))

    def _check_empty(self) -> None:
        if not self.live and not self._whole:
            self._empty.set()

    def _name(self, terms: Terms) -> None:
        older = self._named.get((terms.caller, terms.name))
        session = self.live.get(older.stream_id) if older is not None else None
        if session is not None:
            session.stop(Outcome.TAKEN_OVER, TakenOver("a newer question has taken this one's place"))
        self._named[terms.caller, terms.name] = terms

    def _forget_name(self, terms: Terms) -> None:
        if self._named.get((terms.caller, terms.name)) is terms:
            del self._named[terms.caller, terms.name]

    def _ended(self, session: Session) -> None:
        terms = session.terms
        del self.live[terms.stream_id]
        self._check_empty()
        now = asyncio.get_running_loop().time()
        outcome = session.outcome or Outcome.INTERNAL_ERROR
        entry = session.account.settle(outcome, now)
        queue = session.channel.statistics()
        if session.transcript is not None and self._reconcile is not None and entry.aborted:
            self._tasks.create_task(self._book_anew(self._reconcile(entry, session.transcript), entry))
        else:
            self._book(entry)
        self._metrics.queue_peak(queue.peak_bytes)
        self._metrics.streams_active.dec()
        if terms.policy is not Policy.ABORT:
            self._keep(session, expired=not session.delivery.finished)
        else:
            self._forget_name(terms)
        log.info(
            "stream %s ended: %s in %s after %.2f s; %s, %d tokens (%s), %d wasted; queue peak %d bytes, %d pauses",
            terms.stream_id, outcome.value, entry.phase.value, entry.duration_s, terms.model, entry.generated,
            entry.basis, entry.wasted, queue.peak_bytes, queue.pauses,
        )  # fmt: skip

    async def _book_anew(self, reconciling: Coroutine[Any, Any, Entry], entry: Entry) -> None:
        """Books the entry once: as it comes out, or as it was where this is cancelled."""
        try:
            entry = await reconciling
        finally:
            self._book(entry)

    def _book(self, entry: Entry) -> None:
        """Adds a settled stream to the metrics, and says once of each model that it has no price."""
        self._metrics.settled(entry)
        began = entry.phase is not Phase.BEFORE_FIRST_EVENT
        if began and not entry.priced and entry.model not in self._unpriced and len(self._unpriced) < _MOST_WARNINGS:
            self._unpriced.add(entry.model)
            log.warning("%s has no price in config/prices.toml: its streams count in tokens only", entry.model)

    def _keep(self, session: Session, *, expired: bool) -> None:
        stream_id = session.terms.stream_id
        if expired:
            session.replay.clear()
        self._kept[stream_id] = _Kept(session.terms, session.delivery, session.replay, expired)
        asyncio.get_running_loop().call_later(self._options.replay_s, self._forget, stream_id)

    def _forget(self, stream_id: str) -> None:
        kept = self._kept.pop(stream_id, None)
        if kept is not None:
            kept.replay.clear()
            self._forget_name(kept.session_terms)

    def _relieve(self) -> bool:
        """Frees the replay of the stream that ended longest ago; tells whether there was one."""
        for kept in self._kept.values():
            if kept.replay.size_bytes:
                kept.replay.clear()
                kept.expired = True
                return True
        return False

    async def _watch(self) -> None:
        """Looks at every attached reader once in a while, and loses the stalled and the vanished ones."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_S)
            self._look(loop.time())

    def _look(self, now: float) -> None:
        stalled = 0
        for session in list(self.live.values()):
            connection = session.delivery.connection
            if connection is None:
                continue
            finding = connection.look(now)
            stalled += connection.stuck
            if finding is not None:
                log.info("stream %s: its reader has %s", session.terms.stream_id, finding.value)
                session.lost(connection, _OUTCOME_OF[finding])
                connection.abort()
        for connection in list(self._replaying):
            if connection.look(now) is not None:
                connection.abort()
        self._metrics.readers_stalled.set(stalled)


def _same(secret: str, given: str) -> bool:
    # As bytes, since what comes from outside may be any characters; in constant time.
    return hmac.compare_digest(secret.encode(), given.encode("utf-8", "surrogatepass"))


def _check_place(replay: Replay, frame_id: int) -> None:
    if frame_id > replay.last_id:
        raise BadRequest(f"Last-Event-ID is above the stream's last, {replay.last_id}", field="Last-Event-ID")
    replay.after(frame_id, 0)


def new_stop_token() -> str:
    """A token that nobody can guess: 144 random bits."""
    return secrets.token_urlsafe(18)
