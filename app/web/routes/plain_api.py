"""`/api/stream`: the plain protocol, and how a page resumes, stops and steers a stream of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from aiohttp import web

from ...answer.outcome import Outcome
from ...errors import BadRequest, Expired, NotFound, Stopped, WorkerLost
from ...settings.sections import Defaults
from ...streams.session import Session
from ...streams.terms import Policy
from ...wire.plain import PlainFormat
from ..entrance.way_in import BODY, CALLER, ID, STOP_TOKEN, Body, Route, Who
from ..http.bodies import decoded
from ..http.operation import Answer, Operation
from ..http.requests import credits_of, frame_number, next_word_s, parse_fields, parse_question
from ..readers.opening import Opener, Wanted, last_event_id

_EVENTS = Answer(
    "Events, each one line of JSON after `data: `, numbered by `id: `: `text` or `thinking`, a batch of it; the last is "
    "`done` with `stop_reason` and `usage`, or `error` as the schema `Error` has it. Lines that begin with a colon are signs "
    "of life. Fields that are unknown are to be ignored.",
    "text/event-stream",
    headers=("X-Stream-Id", "X-Resumable"),
)
_STREAM = Operation(
    "Ask, and read the answer as it is written",
    answers={200: replace(_EVENTS, headers=(*_EVENTS.headers, "X-Stop-Token"))},
    body="Question",
    starts=True,
)
_RESUME = Operation(
    "Come back to a stream",
    "Every frame after `Last-Event-ID`, then what is still to come. The stream's other reader, if there is one, is ended.",
    {200: _EVENTS},
    parameters=("Last-Event-ID", "credits"),
    errors=(BadRequest, NotFound, Expired, WorkerLost),
    starts=True,
)
_STOP = Operation(
    "Stop a stream now, whoever reads it",
    "By the caller's key, or by the stream's own token: in `X-Stop-Token`, or as `stop_token` in the body of a beacon.",
    {200: Answer("It is stopped, or had ended", schema="Stopped")},
    body="Stop",
    errors=(NotFound, WorkerLost),
)
_SHOWN = Operation(
    "Tell what the page has shown",
    "For a stream that was asked for with `credits`: Claude runs only so far ahead of it. A page that says `again_s`, and then "
    "is not heard of, has vanished, whatever a proxy still takes for it.",
    {204: Answer("It is noted, or the stream has ended", "")},
    body="Shown",
    errors=(NotFound, WorkerLost),
)


@dataclass(frozen=True, slots=True)
class PlainApi:
    """What the handlers work with.

    Attributes:
        opener: opens streams.
        defaults: what is asked where a request does not say.
    """

    opener: Opener
    defaults: Defaults

    def routes(self) -> list[Route]:
        """The paths of the plain protocol."""
        return [
            Route("POST", "/api/stream", self.stream, body=Body.QUESTION, told=_STREAM),
            Route("GET", f"/api/stream/{ID}", self.resume, told=_RESUME, of_a_stream=True),
            Route("DELETE", f"/api/stream/{ID}", self.stop, Who.STEERER, Body.CONTROL, _STOP, of_a_stream=True),
            Route("POST", f"/api/stream/{ID}/stop", self.stop, Who.STEERER, Body.CONTROL, _STOP, of_a_stream=True),
            Route("POST", f"/api/stream/{ID}/shown", self.shown, Who.STEERER, Body.CONTROL, _SHOWN, of_a_stream=True),
        ]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/stream`: the plain protocol."""
        question, request[BODY] = await decoded(
            request[BODY], lambda body: parse_question(body, self.defaults, request[CALLER])
        )
        resumable = question.policy is not Policy.ABORT and self.opener.streams.has_room
        wanted = Wanted(
            question.model,
            question.max_tokens,
            PlainFormat(thinking=question.thinking),
            question.policy,
            question.grace_s,
            credits=question.credits,
            headers={"X-Resumable": "true" if resumable else "false"},
            betas=question.betas,
        )
        return await self.opener.open_stream(request, wanted)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/stream/{id}`: every frame after `Last-Event-ID`, then what is still to come."""
        return await self.opener.resume(
            request,
            request.match_info["id"],
            {"X-Resumable": "true"},
            sent_id=last_event_id(request),
            credits=_credits(request),
        )

    async def stop(self, request: web.Request) -> web.Response:
        """`POST /api/stream/{id}/stop`, `DELETE /api/stream/{id}`: stop now, whoever reads."""
        session = self._steered(request)
        if session is not None:
            session.stop(Outcome.STOPPED, Stopped("the stream was stopped"))
        return web.json_response({"stopped": session is not None})

    async def shown(self, request: web.Request) -> web.Response:
        """`POST /api/stream/{id}/shown`: the page has shown every frame up to this one."""
        fields = parse_fields(request[BODY])
        frame_id, again_s = frame_number(fields), next_word_s(fields)
        session = self._steered(request)
        if session is not None:
            session.delivery.shown(frame_id, again_s)
        return web.Response(status=204)

    def _steered(self, request: web.Request) -> Session | None:
        """The stream that the caller, by its key or by the stream's own stop token, may steer."""
        return self.opener.streams.find(request.match_info["id"], request[CALLER], request.get(STOP_TOKEN))


def _credits(request: web.Request) -> float:
    """As in a question's body: `1` stands for true."""
    asked = request.query.get("credits", "0")
    if asked in ("0", "1"):
        return credits_of(asked == "1")
    return credits_of(int(asked) if re.fullmatch("[1-9][0-9]{0,10}", asked) else asked)
