"""Every stream that a reader can ask for: starts them, finds them, and ends what is left at the exit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType

from ..access.callers import Caller
from ..answer.outcome import Outcome
from ..answer.sse import numbered
from ..errors import (
    BadRequest,
    Draining,
    EndedError,
    Expired,
    Forbidden,
    InternalError,
    Lagging,
    NotFound,
    ShuttingDown,
    SluicewayError,
    UpstreamError,
)
from ..flow.relay import Source
from ..settings.sections import StreamBounds
from ..wire import WireFormat
from .archive import Archive, Kept
from .arrivals import came_in_time
from .books import Books, Page
from .connection import Connection
from .delivery import Frames
from .endings import ending_of, ending_of_whole
from .limiter import Ticket
from .meter import Running
from .patience import Patience
from .replay import Replay
from .room import Room
from .session import Asked, Session
from .terms import Policy, Terms, is_of, new_stream_id, owner, same
from .watch import Watch

log = logging.getLogger(__name__)


class Streams:
    """All streams of this process. Use as an async context manager.

    Args:
        books: where each is settled.
        archive: where those that ended can be read again.
        bounds: of every stream.
        admit: given how many streams run, raises where there is no room for one more.
        new_id: makes an id for a stream that is to be started here, which tells whose it is.

    Attributes:
        live: the running ones, by id.
        accepting: new ones are started; else only for whoever came before that was over.
        patience: of a drain, which can be cut short.
        leaving: another process has this one's place; what still comes here is answered, each time for the last time.
    """

    def __init__(
        self,
        books: Books,
        archive: Archive,
        bounds: StreamBounds,
        admit: Callable[[int], None] = lambda _in_flight: None,
        new_id: Callable[[], str] = new_stream_id,
    ) -> None:
        self._books = books
        self._archive = archive
        self.names = archive.names
        self._bounds = bounds
        self.new_id = new_id
        self._tasks = asyncio.TaskGroup()
        self._watcher: asyncio.Task[None] | None = None
        self._whole: set[asyncio.Timeout] = set()  # one for each answer that is asked for whole, or passes
        self._replaying: set[Connection] = set()  # readers of streams that have ended
        self._idle = asyncio.Event()  # set while nothing runs, is asked for whole, or is read again
        self._idle.set()
        self.patience = Patience()
        self.accepting = True
        self.leaving = False
        self.live: dict[str, Session] = {}
        self._room = Room(self.live, archive, admit)

    async def __aenter__(self) -> Streams:
        await self._tasks.__aenter__()
        watch = Watch(self.live, self._replaying, self._books.observer)
        self._watcher = self._tasks.create_task(watch.run(), name="watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.accepting = False
        self._stop_all()
        await self._idle.wait()
        if self._watcher is not None:
            self._watcher.cancel()
        # The group is not given the block's own error, because it would come out wrapped in an ExceptionGroup.
        await self._tasks.__aexit__(None, None, None)

    @property
    def has_room(self) -> bool:
        """Whether a new stream may be resumable."""
        return self._archive.has_room

    def named(self, caller: Caller, name: str) -> Terms | None:
        """The caller's newest stream of this name, while it runs or can be read again."""
        terms = self._archive.named(*owner(caller), name)
        return terms if terms is not None and is_of(caller, terms, runs=terms.stream_id in self.live) else None

    def check_room(self) -> None:
        """Whether a stream could be started now; one that nobody reads makes room for it.

        Raises:
            Draining, Overloaded: as `start` does.
        """
        if not (self.accepting or came_in_time()):
            raise Draining("the service is shutting down", retry_after_s=1.0)
        self._room.check(self.in_flight)

    @property
    def in_flight(self) -> int:
        """Places that are taken: by streams, by answers that come whole or pass, by readers of kept ones."""
        return len(self.live) + len(self._whole) + len(self._replaying)

    def give_way(self, caller: Caller | None, name: str = "", *, of_subject: bool = False) -> bool:
        """Ends a stream so that another one, or a reader, has its place. See `Room`."""
        return self._room.give_way(caller, name, of_subject=of_subject)

    def overtake(self, caller: str, subject: str, name: str) -> bool:
        """Ends the stream here that they gave this name, because a newer one begins elsewhere.

        Returns:
            Whether there was one.
        """
        older = self._archive.release(caller, subject, name)
        self._room.end_older(older)
        return older is not None

    def start(
        self,
        terms: Terms,
        source: Source,
        wire: WireFormat,
        connection: Connection,
        max_tokens: int,
        ticket: Ticket,
        preface: Sequence[bytes] = (),
    ) -> Session:
        """Starts a stream from `source` to the reader on `connection`; an older one of the same name is taken over.

        Args:
            terms: what it was asked for with.
            source: the answer, not yet asked for.
            wire: the format.
            connection: the first reader's.
            max_tokens: the request's own bound.
            ticket: what was taken for it; settled with the stream, from here on.
            preface: frames that only readers who come back need, before all others.

        Raises:
            Draining: none is started any more. Overloaded: there is no room for one more.
        """
        self.check_room()
        if terms.name:
            self._room.end_older(self._archive.claim(terms))
        replay = self._archive.replay(terms.policy)
        if replay.keeps:
            replay.extend([numbered(frame_id, frame) for frame_id, frame in enumerate(preface, 1)])
            connection.sent_id = replay.last_id
        page = self._books.open(terms.model, max_tokens, ticket)
        session = Session(terms, Asked(source, Frames(wire, replay)), page, self._bounds)
        ticket.begin(Running(page.account, lambda: session.channel.paused, partial(session.stop, Outcome.BUDGET)))
        self.live[terms.stream_id] = session
        self._idle.clear()
        self._books.observer.started()
        self._archive.began(terms, session.asked.frames)
        session.start(self._tasks, connection, self._ended)
        return session

    @asynccontextmanager
    async def whole(self, terms: Terms, max_tokens: int, ticket: Ticket) -> AsyncIterator[Page]:
        """Books an answer that comes whole: settled when the block is left, whatever ends it, and its ticket with it.

        Its terms have no id, since it is no stream.

        Raises:
            Draining: none is asked for any more. Overloaded: there is no room for one more.
            ShuttingDown: the drain time is over. BudgetCut: the budget is. InternalError: the block failed with what was
            not foreseen.
        """
        self.check_room()
        page = self._books.open(terms.model, max_tokens, ticket)
        outcome = Outcome.INTERNAL_ERROR
        failure: SluicewayError | None = None
        limit = asyncio.timeout(None)
        cuts: list[EndedError] = []

        def cut(error: EndedError) -> None:
            cuts.append(error)
            limit.reschedule(asyncio.get_running_loop().time())

        self._whole.add(limit)
        self._idle.clear()
        ticket.begin(Running(page.account, lambda: True, cut))
        try:
            async with limit:
                yield page
            outcome = Outcome.COMPLETED
        except SluicewayError as error:
            failure, outcome = error, page.failed(error)
            raise
        except asyncio.CancelledError:
            outcome = Outcome.DISCONNECTED
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                outcome = Outcome.BUDGET if cuts else Outcome.SHUTDOWN
                failure = cuts[0] if cuts else ShuttingDown("the service is shutting down", retry_after_s=1.0)
                raise failure from None
            log.exception("an answer that was asked for whole failed")
            failure = InternalError("the service failed; its log has the cause")
            raise failure from error
        finally:
            self._whole.discard(limit)
            self._check_idle()
            entry = page.settle(outcome)
            if entry is not None:
                self._books.tell(ending_of_whole(terms, page, entry, failure))

    def unbooked_failed(self, error: UpstreamError) -> None:
        """What no page of the books was opened for, such as a request that passes, failed on Claude's side."""
        self._books.observer.upstream_error(error.type)

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Keeps a place for a request that passes and is not booked: the drain waits for it, and ends it at last.

        Raises:
            Draining: none passes any more. Overloaded: there is no room for one more.
            ShuttingDown: the drain time is over.
        """
        self.check_room()
        limit = asyncio.timeout(None)
        self._whole.add(limit)
        self._idle.clear()
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise ShuttingDown("the service is shutting down", retry_after_s=1.0) from None
        finally:
            self._whole.discard(limit)
            self._check_idle()

    async def resume(
        self, stream_id: str, caller: Caller, connection: Connection, admit: Callable[[], Awaitable[Ticket]]
    ) -> Session | None:
        """Gives the reader on `connection` every frame after its `sent_id`, then what is still to come.

        Returns:
            The session, once the reader is attached to it; None when it has had all of a stream that has ended.

        Raises:
            NotFound: no such stream, or another caller's. Expired: it, or the part asked for, is no longer kept.
            BadRequest: it has not come that far. NoPlace, Overloaded: a reader of a kept answer finds no place.
        """
        session, kept = self.readable(stream_id, caller, connection.sent_id)
        if session is not None:
            session.attach(connection)
            return session
        async with self.reading(connection, admit):
            await kept.frames.write_all(connection)
        return None

    @asynccontextmanager
    async def reading(self, connection: Connection, admit: Callable[[], Awaitable[Ticket]]) -> AsyncIterator[None]:
        """The reader on `connection` is written what was kept, here or elsewhere: it is watched, and the drain waits for it.

        Raises:
            NoPlace, Overloaded: it finds no place.
        """
        with suppress(Lagging):  # nothing is started, so that nobody is slowed down
            self._room.check(self.in_flight)
        ticket = await admit()
        self._replaying.add(connection)
        self._idle.clear()
        try:
            yield
        finally:
            self._replaying.discard(connection)
            ticket.settle()
            self._check_idle()
            connection.release(None)

    def readable(self, stream_id: str, caller: Caller, sent_id: int) -> tuple[Session | None, Kept]:
        """What `resume` would give a reader that has every frame up to `sent_id`: the running stream, or what is kept.

        Raises:
            NotFound, Expired, BadRequest: as `resume` does.
        """
        session, kept = self._found(stream_id)
        if kept is None or not is_of(caller, kept.terms, runs=session is not None):
            raise NotFound("no stream of yours has this id")
        if not kept.frames.replay.keeps:
            raise Expired("this stream keeps nothing to resume from")
        if session is not None and session.lifecycle.over:
            session = None
        if session is None and kept.expired:
            raise Expired("this stream has ended, and nothing of it is kept")
        _check_place(kept.frames.replay, sent_id)
        return session, kept

    def find(self, stream_id: str, caller: Caller, stop_token: str | None) -> Session | None:
        """A stream that this caller, or this stop token, may stop or steer; None if it has ended already.

        Raises:
            NotFound: no such stream, or another's: a wrong stop token does not tell that there is one. Forbidden: neither a
                key nor a stop token came.
        """
        session, kept = self._found(stream_id)
        if kept is None:
            raise NotFound("no stream of yours has this id")
        if stop_token and same(kept.terms.stop_token, stop_token):
            return session
        if not caller.name and stop_token is None:
            raise Forbidden("the stream's own X-Stop-Token is needed")
        if not caller.name or not is_of(caller, kept.terms, runs=session is not None):
            raise NotFound("no stream of yours has this id")
        return session

    async def drain(self, within_s: float | None = None, *, kept: bool = False) -> None:
        """Takes no new streams, gives the running ones the drain time, then ends them with a typed last event.

        A stream that is held for a lost reader is waited for too: its reader can come back as long as we listen.
        Returns as soon as nothing runs or is held.

        Args:
            within_s: the drain time, in seconds; None for that of the settings.
            kept: as long as something can be read again, it is all waited for.
        """
        self.accepting = False
        time_s = self._bounds.drain_s if within_s is None else within_s
        await self.patience.wait(time_s, self._idle, stays=lambda: kept and self._archive.keeps)
        self._stop_all()

    def _found(self, stream_id: str) -> tuple[Session | None, Kept | None]:
        """The stream, while it runs, and what can be read of it now."""
        session = self.live.get(stream_id)
        if session is None:
            return None, self._archive.after(stream_id)
        return session, Kept(session.terms, session.asked.frames, expired=not session.replay.ended)

    def _stop_all(self) -> None:
        for session in list(self.live.values()):
            session.stop(Outcome.SHUTDOWN, ShuttingDown("the service is shutting down"))
        for limit in self._whole:
            limit.reschedule(asyncio.get_running_loop().time())
        for connection in self._replaying:
            connection.abort()

    def _check_idle(self) -> None:
        if not (self.live or self._whole or self._replaying):
            self._idle.set()

    def _ended(self, session: Session) -> None:
        """Gives the place back first, so that no failure in the archive or the books can keep it from the next stream."""
        terms, outcome = session.terms, session.outcome or Outcome.INTERNAL_ERROR
        del self.live[terms.stream_id]
        self._room.left(session)
        session.page.ticket.leave()
        queue = session.channel.statistics()
        self._books.observer.ended(queue.peak_bytes)
        self._check_idle()
        if terms.policy is Policy.ABORT:
            self._archive.forget(terms)
        else:
            self._archive.append(terms, session.asked.frames)
        entry = session.page.settle(outcome)
        if entry is not None:
            self._books.tell(ending_of(session, entry))


def _check_place(replay: Replay, frame_id: int) -> None:
    if frame_id > replay.last_id:
        raise BadRequest(f"Last-Event-ID is above the stream's last, {replay.last_id}", field="Last-Event-ID")
    replay.after(frame_id, 0)
