"""`/api/chat`: what the AI SDK's `useChat` and its `DefaultChatTransport` speak, unchanged.

The page chooses the chat's id, and asks to stop it and to resume it by that id. So the id is looked up among the
caller's own streams; where no callers' keys are configured, whoever knows the id is the caller.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from ...access.callers import Caller
from ...answer.outcome import Outcome
from ...errors import BadRequest, Expired, NotFound, Stopped
from ...money.bill import cost_usd
from ...money.prices import Prices
from ...settings.sections import Defaults
from ...streams.terms import Policy, owner
from ...wire.ui_messages import continued, preface, to_claude, tool_calls
from ...wire.ui_stream import CostOf, UiFormat
from ..elsewhere.carrying import NEWER, UI_MARK
from ..elsewhere.forwarding import Forwarder
from ..entrance.way_in import BODY, CALLER, ID, Body, Route
from ..http.bodies import decoded
from ..http.operation import Answer, Operation
from ..http.requests import Question, field_value, parse_fields, question_of
from ..readers.opening import Opener, Wanted

# The AI SDK's servers send it; its clients do not look (UI message stream, version 1).
_MARK = {UI_MARK: "v1"}
_TRANSPORT_FIELDS = ("id", "messages", "trigger", "messageId")

_EVENTS = Answer(
    "The UI message stream of the AI SDK, version 1",
    "text/event-stream",
    headers=("X-Stream-Id", UI_MARK),
)
_NOTHING = Answer("There is nothing to come back to", "")
_CHAT = Operation(
    "Ask as `useChat` does",
    "An answer that still runs in this chat is ended, and this one takes its place.",
    {200: _EVENTS},
    body="Chat",
    starts=True,
)
_RESUME = Operation(
    "Come back to a chat",
    "Its newest answer, from its start.",
    {200: _EVENTS, 204: _NOTHING},
    errors=(BadRequest,),
    starts=True,
)
_STOP = Operation(
    "Stop a chat's answer now, whoever reads it",
    answers={200: Answer("It is stopped, or had ended", schema="Stopped")},
    errors=(NotFound,),
)


@dataclass(frozen=True, slots=True)
class ChatApi:
    """What the handlers work with.

    Attributes:
        opener: opens streams.
        defaults: what is asked where a request does not say.
        prices: what an answer costs, for the page.
        forwarder: reaches where the chat's older answer may run.
    """

    opener: Opener
    defaults: Defaults
    prices: Prices
    forwarder: Forwarder

    def routes(self) -> list[Route]:
        """The paths of a chat."""
        return [
            Route("POST", "/api/chat", self.chat, body=Body.QUESTION, told=_CHAT),
            Route("GET", f"/api/chat/{ID}/stream", self.resume, told=_RESUME, of_a_stream=True),
            Route("POST", f"/api/chat/{ID}/stop", self.stop, told=_STOP, of_a_stream=True),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/chat`: the next answer; one that still runs in this chat is taken over."""
        asked, request[BODY] = await decoded(request[BODY], lambda body: _parse(body, self.defaults, request[CALLER]))
        question, earlier = asked.question, asked.continued
        message_id = earlier["id"] if earlier is not None else f"msg_{secrets.token_urlsafe(12)}"
        wire = UiFormat(message_id, tool_calls(earlier) if earlier is not None else (), cost_of(self.prices))
        wanted = Wanted(
            question.model,
            question.max_tokens,
            wire,
            question.policy,
            question.grace_s,
            name=asked.chat_id,
            preface=preface(earlier) if earlier is not None and question.policy is not Policy.ABORT else [],
            headers=_MARK,
            betas=question.betas,
            # Not before, so that a question that is refused ends no older answer.
            when_admitted=lambda stream_id: self.forwarder.tell_of_newer(request, asked.chat_id, stream_id),
        )
        return await self.opener.open_stream(request, wanted)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/chat/{id}/stream`: the chat's newest answer from its start; 204 where there is nothing."""
        terms = self.opener.streams.named(request[CALLER], request.match_info["id"])
        if terms is None:
            return web.Response(status=204)
        try:
            return await self.opener.resume(request, terms.stream_id, _MARK)
        except (NotFound, Expired):
            return web.Response(status=204)

    async def stop(self, request: web.Request) -> web.Response:
        """`POST /api/chat/{id}/stop`: stop now, whoever reads."""
        name = request.match_info["id"]
        terms = self.opener.streams.named(request[CALLER], name)
        if terms is None:
            raise NotFound("no chat of yours has this id")
        if NEWER in request.headers:
            return web.json_response({"stopped": self.opener.streams.overtake(*owner(request[CALLER]), name)})
        session = self.opener.streams.live.get(terms.stream_id)
        if session is not None:
            session.stop(Outcome.STOPPED, Stopped("the stream was stopped"))
        return web.json_response({"stopped": session is not None})


def cost_of(prices: Prices) -> CostOf:
    """What an answer has cost, by a price table; None for a model that is not in it."""

    return lambda model, usage: cost_usd(prices, model, usage)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The body of a chat's request, read.

    Attributes:
        chat_id: the page's own name for the chat.
        question: what goes to Claude, and on which terms.
        continued: the message on the page that the answer continues, if it does.
    """

    chat_id: str
    question: Question
    continued: dict[str, Any] | None


def _parse(raw: bytes, defaults: Defaults, caller: Caller) -> tuple[_Asked, bytes]:
    fields = parse_fields(raw)
    chat_id = field_value(fields, "id")
    if not isinstance(chat_id, str) or not 1 <= len(chat_id) <= 200:
        raise BadRequest("id must be the chat's id, a string of 1 to 200 characters", field="id")
    said = field_value(fields, "messages")
    system, messages = to_claude(said)
    rest = {name: value for name, value in fields.items() if name not in _TRANSPORT_FIELDS}
    if system:
        if "system" in rest:
            raise BadRequest("system is given twice: as a field and as a message", field="system")
        rest["system"] = msgspec.Raw(msgspec.json.encode(system))
    rest["messages"] = msgspec.Raw(msgspec.json.encode(messages))
    question, body = question_of(rest, defaults, caller)
    return _Asked(chat_id, question, continued(said)), body
