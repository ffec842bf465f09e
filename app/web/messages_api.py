"""`/v1`: the Messages API itself, so that any Anthropic SDK works with its base URL set here.

1. A streamed message is a session like any other: bounded, coalesced, aborted when its reader leaves. Nothing is sent
   before Claude's own headers, so that an error keeps its status.
2. What comes whole (a message without `stream`, `count_tokens`, the models) passes through the SDK's HTTP client as it
   is, byte for byte.
3. The request's body is the caller's: fields unknown here pass, and Claude judges them. The caller's key never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import msgspec
from aiohttp import web

from ..access.keys import Keys, check_content_type
from ..answer.events import ClaudeEvent
from ..errors import SluicewayError, UpstreamGarbled, UpstreamRefused
from ..money.ledger import Account
from ..streams.registry import Streams
from ..streams.terms import Terms, new_stop_token
from ..upstream.answer import Answer
from ..upstream.claude import Claude
from ..upstream.retry import NEVER
from ..wire.messages import MessagesFormat, events_of
from .plain_api import Reading, until_released
from .readers import SseConnection
from .requests import parse_object

# Of the caller's headers, those that speak to Claude; `x-stainless-…` say which SDK asks, and with which helper.
_UP = frozenset({"anthropic-version", "anthropic-beta", "anthropic-user-profile-id", "user-agent"})
_UP_PREFIX = "x-stainless-"
_OUR_OWN = frozenset({"x-stainless-raw-response"})  # how our SDK hands the response to us
# Of Claude's headers, those that speak to the caller: ids, limits, and when to try again.
_DOWN = frozenset({"request-id", "retry-after", "retry-after-ms", "x-should-retry", "content-type"})
_DOWN_PREFIX = "anthropic-"


@dataclass(frozen=True, slots=True)
class MessagesApi:
    """What the handlers work with.

    Attributes:
        claude: the way upstream.
        streams: where answers run and are booked.
        keys: the callers' keys.
        reading: how readers' connections are made.
    """

    claude: Claude
    streams: Streams
    keys: Keys
    reading: Reading

    def routes(self) -> list[web.RouteDef]:
        """The paths of the Messages API."""
        return [
            web.post("/v1/messages", self.messages),
            web.post("/v1/messages/count_tokens", self.count_tokens),
            web.get("/v1/models", self.models, allow_head=False),
            web.get("/v1/models/{id}", self.models, allow_head=False),
        ]

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/messages`: streamed or whole, as the body's `stream` says."""
        caller = self.keys.check(request.headers)
        check_content_type(request.headers)
        body = parse_object(await request.read())
        try:
            if body.get("stream") is True:
                return await self._stream(request, caller, body)
            async with self.streams.whole(_model(body), _max_tokens(body)) as account:
                answer = await self._pass_on(request, body)
                _book(account, answer)
            return _response(answer)
        except SluicewayError as error:
            return _passed_on(error)

    async def count_tokens(self, request: web.Request) -> web.Response:
        """`POST /v1/messages/count_tokens`."""
        self.keys.check(request.headers)
        check_content_type(request.headers)
        return await self._looked_up(request, parse_object(await request.read()))

    async def models(self, request: web.Request) -> web.Response:
        """`GET /v1/models` and `GET /v1/models/{id}`."""
        self.keys.check(request.headers)
        return await self._looked_up(request, None)

    async def _stream(self, request: web.Request, caller: str, body: dict[str, Any]) -> web.StreamResponse:
        terms = Terms(
            self.streams.new_id(), caller, _model(body), stop_token=new_stop_token(), commits_early=False
        )  # no grace: an SDK that lost its stream asks anew
        headers = {"X-Stream-Id": terms.stream_id, "X-Stop-Token": terms.stop_token}
        connection = self.reading.connection(request, headers)
        # The SDK checks and rewrites the fields that it knows; in `extra_body` they stay as they came.
        unchecked = {"model": anthropic.omit, "max_tokens": anthropic.omit, "messages": anthropic.omit}
        params = unchecked | {"extra_body": body, "extra_query": dict(request.query)}
        # The caller's SDK retries by itself: one request of its is one request to Claude.
        answer = self.claude.ask(params, _headers_up(request.headers), retry=NEVER)
        source = _Announced(answer, connection)
        session = self.streams.start(terms, source, MessagesFormat(), connection, _max_tokens(body))
        return await until_released(connection, session)

    async def _looked_up(self, request: web.Request, body: dict[str, Any] | None) -> web.Response:
        try:
            return _response(await self._pass_on(request, body))
        except SluicewayError as error:
            return _passed_on(error)

    async def _pass_on(self, request: web.Request, body: dict[str, Any] | None) -> httpx2.Response:
        """Claude's answer to the same request. Cancelling ends the connection to Claude. Raises UpstreamError."""
        return await self.claude.fetch(
            request.rel_url.raw_path, headers=_headers_up(request.headers), query=dict(request.query), body=body
        )


class _Announced:
    """An answer whose headers go to the reader with its status, which is sent only after `open()` has returned."""

    def __init__(self, answer: Answer, connection: SseConnection) -> None:
        self._answer = answer
        self._connection = connection

    async def open(self) -> None:
        """Asks, and hands the headers on. Raises what the answer raises."""
        await self._answer.open()
        self._connection.response.headers.update(_headers_down(self._answer.headers, content_type=False))

    async def read(self) -> list[ClaudeEvent]:
        return await self._answer.read()

    async def close(self) -> list[ClaudeEvent]:
        return await self._answer.close()


def _headers_up(headers: Mapping[str, str]) -> dict[str, str]:
    lower = {name.lower(): value for name, value in headers.items()}
    return {
        name: value
        for name, value in lower.items()
        if name in _UP or (name.startswith(_UP_PREFIX) and name not in _OUR_OWN)
    }


def _headers_down(headers: Mapping[str, str], *, content_type: bool = True) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if (name.lower() in _DOWN or name.lower().startswith(_DOWN_PREFIX))
        and (content_type or name.lower() != "content-type")
    }


def _response(answer: httpx2.Response) -> web.Response:
    return web.Response(status=answer.status_code, body=answer.content, headers=_headers_down(answer.headers))


def _passed_on(error: SluicewayError) -> web.Response:
    """What Claude answered, where it answered with an error status; every other error is told by the middleware."""
    if isinstance(error, UpstreamRefused) and isinstance(error.__cause__, anthropic.APIStatusError):
        return _response(error.__cause__.response)
    raise error


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    return model[:200] if isinstance(model, str) else ""


def _max_tokens(body: dict[str, Any]) -> int:
    max_tokens = body.get("max_tokens")
    return max_tokens if isinstance(max_tokens, int) and not isinstance(max_tokens, bool) else 0


def _book(account: Account, answer: httpx2.Response) -> None:
    """Enters a whole message into the ledger. Raises UpstreamGarbled if it is none."""
    try:
        message = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamGarbled("Claude's side answered with something that is no JSON") from error
    if not isinstance(message, dict):
        raise UpstreamGarbled("Claude's side answered with something that is no message")
    for event in events_of(message):
        account.see(event)
    account.delivered_all()
