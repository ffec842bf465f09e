"""`/v1`: the Messages API itself, so that any Anthropic SDK works with its base URL set here.

1. A streamed message is a session like any other: bounded, coalesced, aborted when its reader leaves. Nothing is sent
   before Claude's own headers, so that an error keeps its status.
2. What comes whole (a message without `stream`, `count_tokens`) comes as it is, byte for byte.
3. The request's body is the caller's, byte for byte: Claude judges it. The caller's key never goes up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import httpx2
from aiohttp import web
from multidict import CIMultiDict

from ...answer.decoding import EventDecoder
from ...answer.events import ClaudeEvent
from ...answer.lenient_json import TooDeep, read_json
from ...answer.refusals import MOST_BODY_BYTES, came_with, no_stream
from ...answer.sse import begins_stream
from ...errors import UpstreamError
from ...streams.limiter import Asking, settled
from ...upstream.answer import is_event_stream
from ...upstream.headers import headers_down
from ...wire.messages import MessagesFormat, events_of
from ..entrance.way_in import BODY, CALLER, Body, Route
from ..http.bodies import decoded
from ..http.operation import Answer, Operation
from ..http.requests import parse_messages_request
from ..http.slashes import one_slash
from ..readers.opening import Opener, Wanted, terms_of

log = logging.getLogger(__name__)

_MESSAGES = Operation(
    "The Messages API, streamed or whole as the body's `stream` says",
    "Any Anthropic SDK works with its base URL set here. The body is Claude's affair, and the answer comes as Claude wrote "
    "it, joined into batches where it is streamed.",
    {200: Answer("A message, or its events as `text/event-stream`", "*/*")},
    body="MessagesRequest",
    starts=True,
)
_COUNT_TOKENS = Operation(
    "Count a request's tokens", answers={200: Answer("As Claude counted", "*/*")}, body="MessagesRequest", starts=True
)


@dataclass(frozen=True, slots=True)
class MessagesApi:
    """What the handlers work with.

    Attributes:
        opener: opens streams.
    """

    opener: Opener

    def routes(self) -> list[Route]:
        """The paths of the Messages API."""
        return [
            Route("POST", "/v1/messages", self.messages, body=Body.MESSAGES, told=_MESSAGES),
            Route("POST", "/v1/messages/count_tokens", self.count_tokens, body=Body.MESSAGES, told=_COUNT_TOKENS),
        ]

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/messages`: streamed or whole, as the body's `stream` says."""
        asked = await decoded(request[BODY], lambda body: parse_messages_request(body, request[CALLER]))
        if asked.stream:
            # There is no grace period, because an SDK that lost its stream asks anew.
            wanted = Wanted(asked.model, asked.max_tokens, MessagesFormat(), as_client=True)
            return await self.opener.open_stream(request, wanted)
        self.opener.streams.check_room()
        asking = Asking(request[CALLER], asked.model, asked.max_tokens, request[BODY], whole=True)
        ticket = await self.opener.limiter.admit(asking)
        terms = terms_of(request, asked.model)
        async with settled(ticket), self.opener.streams.whole(terms, asked.max_tokens, ticket) as page:
            answer = await self._ask(request)
            page.claude_request_id = answer.headers.get("request-id")
            events, error = self._events_of(answer)
            for event in events:
                page.account.see(event)
            page.account.delivered_all()
        # Secrets are taken out of errors only: an answer is passed on as Claude wrote it.
        response = _response(answer, self.opener.claude.hide(answer.content) if error else answer.content)
        response.headers.update(ticket.headers)
        return response

    async def count_tokens(self, request: web.Request) -> web.Response:
        """`POST /v1/messages/count_tokens`."""
        await decoded(request[BODY], lambda body: parse_messages_request(body, request[CALLER], counts=True))
        try:
            async with settled(await self.opener.limiter.admit(Asking(request[CALLER]))):
                answer = await self._ask(request)
        except UpstreamError as error:
            self.opener.streams.unbooked_failed(error)
            raise
        return _response(answer, answer.content)

    async def _ask(self, request: web.Request) -> httpx2.Response:
        up = self.opener.headers_up.of(request.headers.items(), as_client=True)
        path, query = one_slash(request.rel_url.raw_path), request.rel_url.raw_query_string
        return await self.opener.claude.fetch(f"{path}?{query}" if query else path, up, request.pop(BODY))

    def _events_of(self, answer: httpx2.Response) -> tuple[Iterable[ClaudeEvent], bool]:
        """The events that a whole answer stands for, and whether an error is among them. Raises UpstreamError if it is none."""
        if is_event_stream(answer.headers.get("content-type", "")) or begins_stream(answer.content):
            # The request's `stream` was neither true nor false, and the upstream took it for true.
            decoder = EventDecoder()
            events = decoder.feed(answer.content)
            if events or decoder.error is not None:
                return events, decoder.error is not None
            raise self._no_message(answer)
        try:
            message = read_json(answer.content)
        except TooDeep as error:
            log.warning("an answer cannot be read: %s; it is passed on, and its usage is not known", error)
            return [], False  # it was paid, so the client gets it even though it cannot be counted
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise self._no_message(answer)
        return events_of(message), False

    def _no_message(self, answer: httpx2.Response) -> UpstreamError:
        said = self.opener.claude.hide(answer.content)[:MOST_BODY_BYTES]
        error = no_stream(said, answer.status_code, answer.headers, wanted="a message in JSON")
        came_with(error, answer.headers)
        return error


def _response(answer: httpx2.Response, body: bytes) -> web.Response:
    headers = CIMultiDict(headers_down(answer.headers.multi_items()))
    return web.Response(status=answer.status_code, body=body, headers=headers)
