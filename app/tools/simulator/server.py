"""The simulated Claude: an HTTP server that speaks the Messages API's streaming format and keeps honest books.

It is the upstream of `make run` without a key, of the test suite, and of load tests and money audits, and shares no code
with the gateway. It honours backpressure (every event is drained before the next is made), notices a gone peer at once
in every phase, and can fail in every way the real one was seen to. What it can do: `scenario.py`; what it says:
`answer.py`; how one answer goes: `performance.py`; how it sits on the wire: `http1.py`; its options: `command.py`. `GET /books` lists what was asked for and generated.

A peer that half-closes its side after the request counts as gone: no HTTP client of the field does that.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

from . import answer, http1
from .account import Account, AccountPlan, Draw, Exhausted
from .performance import ApiError, Performance, RequestRecord, Script, platform_headers
from .scenario import KnobError, Scenario, find_directive, parse_directive

# The buffer is so small that a reader that stops reading halts generation within a few hundred events.
SNDBUF_BYTES = 16_384
MODELS = {
    "claude-fable-5-2": "Claude Fable 5.2",
    "claude-opus-5-5": "Claude Opus 5.5",
    "claude-sonnet-5-5": "Claude Sonnet 5.5",
    "claude-haiku-5-5": "Claude Haiku 5.5",
    "claude-opus-4-8": "Claude Opus 4.8",
}


class Simulator:
    """The server; `async with Simulator(Scenario(rate=50)) as simulator:` runs one on a free port.

    Attributes:
        host, port, url: where it listens; until it is started, a port of 0 stands for a free one.
        defaults: the scenario of requests without directive; `POST /scenario` changes it.
        books: one a request to `/v1/messages`, oldest first.
        account: what all answers draw from; `reset` leaves it.
    """

    def __init__(
        self,
        defaults: Scenario | None = None,
        *,
        host: str = "127.0.0.1",
        transcripts: Mapping[str, Path] = {},
        sndbuf_bytes: int | None = SNDBUF_BYTES,
        account: AccountPlan | None = None,
    ) -> None:
        """
        Args:
            defaults: the scenario of requests that give no directive.
            host: address to listen on.
            transcripts: files of recorded answers by name: one event's JSON a line.
            sndbuf_bytes: SO_SNDBUF of every connection; None leaves the kernel's choice.
            account: whose rate limit is kept and shown; None keeps none.
        """
        self.account = Account(account)
        self.host, self.port = host, 0
        self.defaults = self._first_defaults = defaults or Scenario()
        self.books: list[RequestRecord] = []
        self._attempts: Counter[str] = Counter()
        self._requests = 0
        self._transcripts, self._sndbuf_bytes = transcripts, sndbuf_bytes
        self._server: asyncio.Server | None = None
        self._connections: set[http1.ServerConnection] = set()
        self._book_opened = asyncio.Event()
        self._epoch_s = 0.0  # the loop's time 0 in seconds since the epoch, once started

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def start(self) -> int:
        """Listens; returns the port. Cancelling is safe."""
        self._epoch_s = time.time() - asyncio.get_running_loop().time()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family, backlog=4096)
        if self._sndbuf_bytes is not None:
            # Accepted sockets inherit it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._sndbuf_bytes)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: http1.ServerConnection(self._respond, self._refuse, self._connections), sock=listener
        )
        self.port = listener.getsockname()[1]
        return self.port

    async def stop(self) -> None:
        """Cuts every connection and waits until their tasks are over. Idempotent."""
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.abandon("stopped")
        for connection in connections:
            await connection.wait_closed()

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def book(self, number: int = 0) -> RequestRecord:
        """The book of the request with this number, from 0, waiting until it comes. Cancelling is safe."""
        while len(self.books) <= number:
            self._book_opened.clear()
            await self._book_opened.wait()
        return self.books[number]

    def epoch(self) -> float:
        """Now in seconds since the epoch, by the loop's clock."""
        return self._epoch_s + asyncio.get_running_loop().time()

    def reset(self) -> None:
        """Forgets books, attempts and changed defaults. Answers that run go on in their forgotten books."""
        self.books = []
        self._attempts.clear()
        self.defaults = self._first_defaults

    async def _refuse(self, connection: http1.ServerConnection, error: http1.HttpError) -> None:
        request = http1.Request("", "", {}, keep_alive=False, chunks=False)
        await self._send_error(connection, request, self._next_id(), ApiError(error.status, str(error)))

    async def _respond(self, connection: http1.ServerConnection, request: http1.Request) -> None:
        request_id = self._next_id()
        try:
            if request.path.startswith("/v1/"):
                authorization = request.headers.get("authorization", "")
                if not (request.headers.get("x-api-key") or authorization.startswith("Bearer ")):
                    raise ApiError(401, "x-api-key header is required")
            if (request.method, request.path) == ("POST", "/v1/messages"):
                await self._message(connection, request, request_id)
            else:
                found = json.dumps(self._look_up(request)).encode()
                await http1.send(connection, request, 200, self._json_headers(request_id), found)
        except ApiError as error:
            await self._send_error(connection, request, request_id, error)

    async def _send_error(
        self, connection: http1.ServerConnection, request: http1.Request, request_id: str, error: ApiError
    ) -> None:
        headers = [*self._json_headers(request_id), *error.headers]
        await http1.send(connection, request, error.status, headers, json.dumps(error.body(request_id)).encode())

    def _next_id(self) -> str:
        self._requests += 1
        return f"req_sim_{self._requests:06d}"

    def _platform_headers(self, request_id: str) -> list[tuple[str, str]]:
        return platform_headers(request_id, self.account.headers(self.epoch()))

    def _json_headers(self, request_id: str) -> list[tuple[str, str]]:
        return [("content-type", "application/json"), *self._platform_headers(request_id)]

    def _look_up(self, request: http1.Request) -> Any:
        """The JSON answer of everything that is not a message."""
        match request.method, request.path.strip("/").split("/"):
            case "POST", ["v1", "messages", "count_tokens"]:
                return {"input_tokens": count_tokens(_request_body(request.body, ("model", "messages")))}
            case "GET", ["v1", "models"]:
                models = [_model(id) for id in MODELS]
                return {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
            case "GET", ["v1", "models", id] if id in MODELS:
                return _model(id)
            case "GET", ["books"]:
                now = asyncio.get_running_loop().time()
                self.account.advance(self.epoch())
                return [book.entry(now) for book in self.books]
            case "GET", ["v1", "organizations", "usage_report", "messages"]:
                return self._usage_report(request.query)
            case "POST", ["reset"]:
                self.reset()
                return {}
            case "POST", ["scenario"]:
                self.defaults = _turned(self.defaults, _json_object(request.body))
                return self.defaults.knobs()
        raise ApiError(404, f"there is no {request.method} {request.path}")

    async def _message(self, connection: http1.ServerConnection, request: http1.Request, request_id: str) -> None:
        body = _request_body(request.body, ("model", "max_tokens", "messages"))
        directive = find_directive(body["messages"]) or ""
        scenario = _turned(self.defaults, parse_directive(directive))
        lines = self._transcript(scenario.transcript) if scenario.transcript else ()
        self._attempts[directive] += 1
        attempt = self._attempts[directive]
        if 0 < scenario.fault_times < attempt:
            scenario = replace(scenario, fault="none")
        asked = answer.Request(
            request_id, body["model"], count_tokens(body), body["max_tokens"], _tool_name(body.get("tools"))
        )
        book = RequestRecord(request_id, asked.model, body.get("stream") is True, scenario.fault, attempt)
        book.would_have = answer.recorded_tokens(lines) if lines else answer.planned_tokens(scenario, asked)
        self.books.append(book)
        self._book_opened.set()
        connection.watcher = book
        try:
            draw = self._draw(book, scenario, asked)
            headers = self._platform_headers(request_id)

            def generated(total: int) -> None:
                self.account.generated(draw, self.epoch(), total)

            script = Script(scenario, asked, lines)
            await Performance(connection, request, script, book, generated).run(headers)
        except ApiError as error:
            book.status = error.status
            raise
        finally:
            connection.watcher = None
            self._end_draw(book, scenario)
            book.ended.set()

    def _draw(self, book: RequestRecord, scenario: Scenario, asked: answer.Request) -> Draw:
        """Opens the answer's draw on the account, and lets it run on while nothing can be sent, where that is told."""
        tokens = {"input_tokens": asked.input_tokens, "max_tokens": asked.max_tokens}
        try:
            draw = self.account.open(self.epoch(), asked.model, **tokens)
        except Exhausted as error:
            raise ApiError(429, str(error), [("retry-after", str(math.ceil(error.retry_after_s)))]) from error
        book.draw = draw

        def when_unread(blocked: bool) -> None:
            if not blocked:
                self.account.hold(draw, self.epoch())
                return
            until = _unread_until(scenario.on_pause, scenario, book)
            self.account.run_on(draw, self.epoch(), until, scenario.rate, then_close=False)

        if scenario.on_pause != "stops":
            book.when_unread = when_unread
        return draw

    def _end_draw(self, book: RequestRecord, scenario: Scenario) -> None:
        """The answer is over for its reader; for the account, perhaps later."""
        book.when_unread = lambda _: None
        if book.draw is None:
            return
        until = book.draw.consumed
        if book.gone_at is not None and not book.finished:
            until = _unread_until(scenario.on_abort, scenario, book)
        self.account.run_on(book.draw, self.epoch(), until, scenario.rate, then_close=True)

    def _usage_report(self, query: str) -> Any:
        asked = parse_qs(query)
        if asked.get("bucket_width") != ["1m"] or "starting_at" not in asked:
            raise ApiError(400, "usage_report: starting_at and bucket_width=1m are all that is simulated")
        try:
            starting_at = datetime.fromisoformat(asked["starting_at"][0]).timestamp()
            ends = [datetime.fromisoformat(value).timestamp() for value in asked.get("ending_at", [])]
        except ValueError as error:
            raise ApiError(400, f"usage_report: {error}") from error
        model = (asked.get("models[]") or asked.get("models") or ["claude"])[0]
        now = self.epoch()
        return self.account.usage_report(now, starting_at, min([now, *ends]), model)

    def _transcript(self, name: str) -> tuple[str, ...]:
        path = self._transcripts.get(name)
        if path is None:
            raise ApiError(400, f"transcript: there is no {name}")
        return _lines(path)


def _unread_until(manner: str, scenario: Scenario, book: RequestRecord) -> int:
    """How many tokens the answer comes to if nobody reads on."""
    match manner:
        case "never":
            return book.would_have
        case "late":
            return min(book.would_have, book.tokens + scenario.late)
    return book.consumed


@lru_cache(maxsize=64)
def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text("utf-8").split("\n") if line)


def count_tokens(body: dict[str, Any]) -> int:
    """A request's input tokens: a quarter of the characters of what the model would read."""
    read = [body.get(part) for part in ("system", "tools", "messages") if body.get(part)]
    return max(1, len(json.dumps(read, ensure_ascii=False)) // 4)


def _tool_name(tools: object) -> str:
    """The first of the request's tools, since that is the one called."""
    match tools:
        case [{"name": str(name)}, *_]:
            return name
    return "search"


def _model(id: str) -> dict[str, Any]:
    return {"type": "model", "id": id, "display_name": MODELS[id], "created_at": "2026-01-01T00:00:00Z"}


def _turned(scenario: Scenario, knobs: Mapping[str, object]) -> Scenario:
    try:
        return scenario.with_knobs(knobs)
    except KnobError as error:
        raise ApiError(400, str(error)) from error


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The request body is not a JSON object")
    return body


def _request_body(raw: bytes, needed: tuple[str, ...]) -> dict[str, Any]:
    body = _json_object(raw)
    for name in needed:
        if name not in body:
            raise ApiError(400, f"{name}: Field required")
    if not isinstance(body["messages"], list) or not body["messages"]:
        raise ApiError(400, "messages: at least one message is required")
    if not isinstance(body["model"], str):
        raise ApiError(400, "model: Input should be a valid string")
    if not isinstance(body.get("stream", False), bool):
        raise ApiError(400, "stream: Input should be a valid boolean")
    limit = body.get("max_tokens", 1)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ApiError(400, "max_tokens: Input should be greater than or equal to 1")
    return body
