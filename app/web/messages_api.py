"""`/v1`: the Messages API itself, so that any Anthropic SDK works with its base URL set here.

1. A streamed message is a session like any other: bounded, coalesced, aborted when its reader leaves. Nothing is sent
   before Claude's own headers, so that an error keeps its status.
2. What comes whole (a message without `stream`, `count_tokens`, the models) passes through the SDK's HTTP client as it
   is, byte for byte.
3. The request's body is the caller's, byte for byte: Claude judges it. The caller's key never goes up.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx2
from aiohttp import web
from multidict import CIMultiDict

from ..answer.reading import read_json
from ..errors import UpstreamGarbled
from ..money.ledger import Account
from ..upstream.headers import headers_down
from ..wire.messages import MessagesFormat, events_of
from .entrance import BODY, Body, Route
from .opening import Opener, Wanted
from .requests import parse_messages_request


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
            Route("POST", "/v1/messages", self.messages, body=Body.MESSAGES),
            Route("POST", "/v1/messages/count_tokens", self.count_tokens, body=Body.MESSAGES),
            Route("GET", "/v1/models", self.models),
            Route("GET", "/v1/models/{id}", self.models),
        ]

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/messages`: streamed or whole, as the body's `stream` says."""
        asked = parse_messages_request(request[BODY])
        if asked.stream:
            # No grace: an SDK that lost its stream asks anew.
            wanted = Wanted(asked.model, asked.max_tokens, MessagesFormat(), as_client=True)
            return await self.opener.open_stream(request, wanted)
        async with self.opener.streams.whole(asked.model, asked.max_tokens) as account:
            answer = await self._ask(request)
            _book(account, answer)
        return _response(answer)

    async def count_tokens(self, request: web.Request) -> web.Response:
        """`POST /v1/messages/count_tokens`."""
        parse_messages_request(request[BODY])
        return _response(await self._ask(request))

    async def models(self, request: web.Request) -> web.Response:
        """`GET /v1/models` and `GET /v1/models/{id}`."""
        return _response(await self._ask(request))

    async def _ask(self, request: web.Request) -> httpx2.Response:
        up = self.opener.headers_up.of(request.headers.items(), as_client=True)
        return await self.opener.claude.fetch(request.rel_url.raw_path_qs, up, request.get(BODY))


def _response(answer: httpx2.Response) -> web.Response:
    headers = CIMultiDict(headers_down(answer.headers.multi_items()))
    return web.Response(status=answer.status_code, body=answer.content, headers=headers)


def _book(account: Account, answer: httpx2.Response) -> None:
    """Enters a whole message into the ledger. Raises UpstreamGarbled if it is none."""
    try:
        message = read_json(answer.content)
    except ValueError as error:
        raise UpstreamGarbled("Claude's side answered with something that is no JSON") from error
    if not isinstance(message, dict):
        raise UpstreamGarbled("Claude's side answered with something that is no message")
    for event in events_of(message):
        account.see(event)
    account.delivered_all()
