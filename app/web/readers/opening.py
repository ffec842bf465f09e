"""How a stream is opened for a reader, and how one comes back to it: the same for all protocols."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aiohttp import hdrs, web

from ...answer.events import ClaudeEvent
from ...errors import BadRequest, SluicewayError
from ...flow.relay import Source
from ...settings.sections import ReaderBounds
from ...streams.credits import Credits
from ...streams.limiter import Asking, Limiter
from ...streams.liveness import Liveness
from ...streams.registry import Streams
from ...streams.session import Session
from ...streams.terms import Policy, Terms, new_stop_token
from ...telemetry.trace_parent import TraceParent
from ...upstream.answer import Answer
from ...upstream.claude import Claude
from ...upstream.headers import HeadersUp, headers_down
from ...upstream.retry import NEVER
from ...wire import WireFormat
from ..entrance.way_in import BODY, CALLER
from ..http.leaving import check_there
from ..http.response_headers import request_id_of
from .sse_connection import EventStream, SseConnection


@dataclass(frozen=True, slots=True)
class Wanted:
    """The stream that a request wants.

    Attributes:
        model, max_tokens: what it asks for, for the books.
        wire: the format in which its readers read.
        policy, grace_s: what happens when the reader is lost.
        name: the caller's own name for it; empty for none.
        preface: frames that only readers who come back need, before all others.
        credits: the page will acknowledge what it has shown, and wants at most so many bytes out; 0: it does not.
        headers: of the response, beside those of every stream.
        as_client: the request goes to Claude as the client's own, and Claude's head comes back with the answer, so that
            nothing is sent before it; else the service asks in its own words.
        betas: for the `anthropic-beta` header, beside those that the request's own names.
        when_admitted: is done once it is let in, and before it is started; told the id that it will have.
    """

    model: str
    max_tokens: int
    wire: WireFormat
    policy: Policy = Policy.ABORT
    grace_s: float = 0.0
    name: str = ""
    preface: Sequence[bytes] = ()
    credits: float = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    as_client: bool = False
    betas: Sequence[str] = ()
    when_admitted: Callable[[str], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens streams.

    Attributes:
        claude: the way upstream.
        streams: where they run and are found again.
        limiter: lets them in.
        bounds: of each reader's connection.
        headers_up: chooses which of a request's headers go to Claude.
    """

    claude: Claude
    streams: Streams
    limiter: Limiter
    bounds: ReaderBounds
    headers_up: HeadersUp

    async def open_stream(self, request: web.Request, wanted: Wanted) -> web.StreamResponse:
        """Asks Claude what the request holds under `BODY`, and serves the reader until the stream has no more for it.

        The body is taken out of the request: megabytes of a prompt are not held for as long as the answer runs.

        Raises:
            SluicewayError: it failed before a status was sent. Cancelling is how aiohttp tells that the reader left.
        """
        self.streams.check_room()  # first, so that what is refused for want of room holds no money meanwhile
        ticket = await self.limiter.admit(  # without a name for what is asked, which holds the body
            Asking(request[CALLER], wanted.model, wanted.max_tokens, request[BODY], wanted.name)
        )
        try:
            terms = self._terms(request, wanted)
            if wanted.when_admitted is not None:
                await wanted.when_admitted(terms.stream_id)
            told = {"X-Stream-Id": terms.stream_id, "X-Stop-Token": terms.stop_token, **ticket.headers}
            connection = self.connection(request, {**told, **wanted.headers}, credits=wanted.credits)
            source = self._ask(request, wanted, connection)
            session = self.streams.start(
                terms, source, wanted.wire, connection, wanted.max_tokens, ticket, wanted.preface
            )
        except BaseException:
            ticket.settle()
            raise
        return await self._serve(connection, session)

    def _terms(self, request: web.Request, wanted: Wanted) -> Terms:
        return replace(
            terms_of(request, wanted.model),
            stream_id=self.streams.new_id(),
            policy=wanted.policy,
            grace_s=wanted.grace_s,
            stop_token=new_stop_token(),
            name=wanted.name,
            commits_early=not wanted.as_client,
        )

    async def resume(
        self,
        request: web.Request,
        stream_id: str,
        headers: Mapping[str, str],
        *,
        sent_id: int = 0,
        credits: float = 0,
    ) -> web.StreamResponse:
        """Serves a reader that has every frame up to `sent_id` of one of its caller's streams.

        Raises:
            NotFound, Expired, BadRequest: as `Streams.resume` does.
            SluicewayError: the stream failed before a status was sent. ConnectionError: the reader has left. Cancelling as in
            `open_stream`.
        """
        told = {"X-Stream-Id": stream_id, **headers}
        connection = self.connection(request, told, sent_id=sent_id, credits=credits)
        if request.method == hdrs.METH_HEAD:  # a HEAD request must not take the stream over from its reader
            self.streams.readable(stream_id, request[CALLER], sent_id)
            return web.Response(headers=connection.response.headers)
        check_there(request)  # who has left takes the stream over from nobody
        try:
            session = await self.streams.resume(
                stream_id, request[CALLER], connection, lambda: self.limiter.admit_reader(request[CALLER])
            )
        except SluicewayError:
            if connection.committed:  # the rest is no longer kept; an end without a last event says so
                return connection.response
            raise
        return await self._serve(connection, session)

    def _ask(self, request: web.Request, wanted: Wanted, connection: SseConnection) -> Source:
        up = self.headers_up.of(request.headers.items(), as_client=wanted.as_client)
        if wanted.betas:
            up["anthropic-beta"] = ", ".join(filter(None, (up.get("anthropic-beta"), *wanted.betas)))
        if wanted.as_client:
            # One request of the caller is one request to Claude, because the caller's SDK retries by itself.
            answer = self.claude.pass_on(request.pop(BODY), up, request.rel_url.raw_query_string, retry=NEVER)
            return _WithHead(answer, connection)
        return self.claude.pass_on(request.pop(BODY), self.claude.own_headers | up)

    def connection(
        self, request: web.Request, headers: Mapping[str, str], *, sent_id: int = 0, credits: float = 0
    ) -> SseConnection:
        """A reader's connection, to which nothing was sent yet."""
        bounds = self.bounds
        allowed = Credits(min(credits, bounds.credit_bytes), sent_id) if credits else None
        liveness = Liveness(bounds.stall_timeout_s, bounds.vanish_timeout_s)
        return SseConnection(request, EventStream(headers, bounds), liveness, sent_id, allowed)

    async def _serve(self, connection: SseConnection, session: Session | None) -> web.StreamResponse:
        try:
            await connection.released()
        finally:
            if session is not None:
                session.lost(connection)
        return connection.response


def terms_of(request: web.Request, model: str) -> Terms:
    """What a request asks for an answer with: one that comes whole, until it is given a stream's id."""
    caller = request[CALLER]
    return Terms(
        "",
        caller.name,
        model,
        subject=caller.token.subject if caller.token is not None else "",
        token_id=caller.token.token_id if caller.token is not None else "",
        request_id=request_id_of(request),
        parent=TraceParent.of(request.headers.get("traceparent", "")),
    )


class _WithHead:
    """An answer whose headers go to the reader with its status, which is sent only after `open()` has returned."""

    def __init__(self, answer: Answer, connection: SseConnection) -> None:
        self._answer = answer
        self._connection = connection

    @property
    def request_id(self) -> str | None:
        return self._answer.request_id

    async def open(self) -> None:
        """Asks, and hands the headers on. Raises what the answer raises."""
        await self._answer.open()
        ours = self._connection.response.headers
        ours.extend((name, value) for name, value in headers_down(self._answer.headers.items()) if name not in ours)

    async def read(self) -> list[ClaudeEvent]:
        return await self._answer.read()

    async def close(self) -> list[ClaudeEvent]:
        return await self._answer.close()


def last_event_id(request: web.Request) -> int:
    """The last frame that the reader has, 0 for none. Raises BadRequest."""
    value = request.headers.get("Last-Event-ID", "").strip() or "0"
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise BadRequest("Last-Event-ID must be the number of a frame", field="Last-Event-ID")
    return int(value)
