"""`/api/chat`: what the AI SDK's `useChat` and its `DefaultChatTransport` speak, unchanged.

The page chooses the chat's id, and asks to stop it and to resume it by that id. So the id is looked up among the
caller's own streams; where no callers' keys are configured, whoever knows the id is the caller.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..access.keys import Keys, check_content_type
from ..answer.outcome import Outcome
from ..errors import BadRequest, Expired, NotFound, Stopped
from ..money.bill import cost_usd
from ..money.prices import Prices
from ..streams.registry import Streams
from ..streams.terms import Policy, Terms, new_stop_token
from ..upstream.claude import Claude
from ..wire.ui_messages import continued, preface, to_claude, tool_calls
from ..wire.ui_stream import CostOf, UiFormat
from .plain_api import Reading, until_released
from .requests import Defaults, Question, parse_object, question_of

# The AI SDK's servers send it; its clients do not look (UI message stream, version 1).
_MARK = {"X-Vercel-AI-UI-Message-Stream": "v1"}
_TRANSPORT_FIELDS = ("id", "messages", "trigger", "messageId")


@dataclass(frozen=True, slots=True)
class ChatApi:
    """What the handlers work with.

    Attributes:
        claude: the way upstream.
        streams: where answers run and are found again.
        keys: the callers' keys.
        defaults: what is asked where a request does not say.
        reading: how readers' connections are made.
        prices: what an answer costs, for the page.
    """

    claude: Claude
    streams: Streams
    keys: Keys
    defaults: Defaults
    reading: Reading
    prices: Prices

    def routes(self) -> list[web.RouteDef]:
        """The paths of a chat."""
        return [
            web.post("/api/chat", self.chat),
            web.get("/api/chat/{id}/stream", self.resume, allow_head=False),
            web.post("/api/chat/{id}/stop", self.stop),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/chat`: the next answer; one that still runs in this chat is taken over."""
        caller = self.keys.check(request.headers)
        check_content_type(request.headers)
        asked = _parse(await request.read(), self.defaults)
        question = asked.question
        terms = Terms(
            self.streams.new_id(),
            caller,
            question.model,
            question.policy,
            question.grace_s,
            stop_token=new_stop_token(),
            name=asked.chat_id,
        )
        headers = _MARK | {"X-Stream-Id": terms.stream_id, "X-Stop-Token": terms.stop_token}
        connection = self.reading.connection(request, headers)
        earlier = asked.continued
        message_id = earlier["id"] if earlier is not None else f"msg_{secrets.token_urlsafe(12)}"
        wire = UiFormat(message_id, tool_calls(earlier) if earlier is not None else (), cost_of(self.prices))
        answer = self.claude.ask(question.params)
        before = preface(earlier) if earlier is not None and question.policy is not Policy.ABORT else []
        session = self.streams.start(terms, answer, wire, connection, question.max_tokens, before)
        return await until_released(connection, session)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/chat/{id}/stream`: the chat's newest answer from its start; 204 where there is nothing."""
        caller = self.keys.check(request.headers)
        terms = self.streams.named(caller, request.match_info["id"])
        if terms is None:
            return web.Response(status=204)
        connection = self.reading.connection(request, _MARK | {"X-Stream-Id": terms.stream_id})
        try:
            session = await self.streams.resume(terms.stream_id, caller, connection)
        except (NotFound, Expired):
            if connection.committed:
                return connection.response
            return web.Response(status=204)
        return await until_released(connection, session)

    async def stop(self, request: web.Request) -> web.Response:
        """`POST /api/chat/{id}/stop`: stop now, whoever reads."""
        caller = self.keys.check(request.headers)
        terms = self.streams.named(caller, request.match_info["id"])
        if terms is None:
            raise NotFound("no chat of yours has this id")
        session = self.streams.live.get(terms.stream_id)
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


def _parse(raw: bytes, defaults: Defaults) -> _Asked:
    body = parse_object(raw)
    chat_id = body.get("id")
    if not isinstance(chat_id, str) or not 1 <= len(chat_id) <= 200:
        raise BadRequest("id must be the chat's id, a string of 1 to 200 characters", field="id")
    system, messages = to_claude(body.get("messages"))
    rest = {name: value for name, value in body.items() if name not in _TRANSPORT_FIELDS}
    if system:
        if "system" in rest:
            raise BadRequest("system is given twice: as a field and as a message", field="system")
        rest["system"] = system
    return _Asked(chat_id, question_of(rest | {"messages": messages}, defaults), continued(body["messages"]))
