"""The simulated Claude: an HTTP server that speaks the Messages API's streaming format and keeps honest books.

It is the upstream of `make run` without a key, of the test suite, and of load tests and money audits, and shares no code
with the gateway. It honours backpressure (every event is drained before the next is made), notices a gone peer at once
in every phase, and can fail in every way the real one was seen to. What it can do: `scenario.py`; what it says:
`answer.py`; how one answer goes:
`performance.py`; how it sits on the wire: `http1.py`. `GET /books` lists what was asked for and generated.

A peer that half-closes its side after the request counts as gone: no HTTP client of the field does that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

import click

from . import answer, http1
from .account import Account, AccountPlan, Draw, Exhausted
from .performance import ApiError, Performance, RequestRecord, platform_headers
from .scenario import KNOB_HELP, KnobError, Scenario, find_directive, parse_directive

# So small that a reader which stops reading halts generation within a few hundred events.
SNDBUF_BYTES = 16_384
# What a newcomer's playground shows: a readable pace, and a moment's thought before it.
PLAYGROUND = Scenario(tokens=600, rate=60, ttft_s=0.3, pings_s=5, tokens_per_delta=(1, 4))
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
        host, port, url: where it listens once started.
        defaults: the scenario of requests without directive; `POST /scenario` changes it.
        books: one a request to `/v1/messages`, oldest first.
        account: what all answers draw from; `reset` leaves it.
    """

    def __init__(
        self,
        defaults: Scenario | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        transcripts: Mapping[str, Path] = {},
        sndbuf_bytes: int | None = SNDBUF_BYTES,
        account: AccountPlan | None = None,
    ) -> None:
        """
        Args:
            defaults: the scenario of requests that give no directive.
            host: address to listen on.
            port: 0 takes a free one.
            transcripts: files of recorded answers by name: one event's JSON a line.
            sndbuf_bytes: SO_SNDBUF of every connection; None leaves the kernel's choice.
            account: whose rate limit is kept and shown; None keeps none.
        """
        self.account = Account(account)
        self.host, self.port = host, port
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

            await Performance(connection, request, scenario, asked, lines, book, generated, headers).run()
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


async def serve(
    host: str,
    port: int,
    *,
    defaults: Scenario,
    transcripts: Mapping[str, Path] = {},
    ready: Callable[[int], None] | None = None,
    sndbuf_bytes: int | None = SNDBUF_BYTES,
    account: AccountPlan | None = None,
) -> None:
    """Runs a simulator until cancelled, which is how it ends.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        defaults: the scenario of requests that give no directive.
        transcripts: files of recorded answers by name.
        ready: called with the port once it listens.
        sndbuf_bytes: SO_SNDBUF of every connection; None leaves the kernel's choice.
        account: whose rate limit is kept and shown; None keeps none.
    """
    simulator = Simulator(
        defaults, host=host, port=port, transcripts=transcripts, sndbuf_bytes=sndbuf_bytes, account=account
    )
    async with simulator:
        if ready is not None:
            ready(simulator.port)
        await asyncio.get_running_loop().create_future()


def command() -> click.Command:
    """The command line's `simulate`: an option for every knob, with the playground's defaults."""

    def simulate(
        host: str,
        port: int,
        transcripts: Sequence[Path],
        sndbuf_bytes: int,
        output_limit: int,
        noise: float,
        reserve: bool,
        tie: int | None,
        **knobs: str,
    ) -> None:
        """Run a simulated Claude that streams made-up answers; see `GET /books` for what it generated."""
        try:
            defaults = PLAYGROUND.with_knobs(knobs)
        except KnobError as error:
            raise click.UsageError(str(error)) from error

        def ready(port: int) -> None:
            print(f"simulated Claude on http://{host}:{port}", flush=True)

        async def until_told() -> None:
            task = asyncio.current_task()
            assert task is not None, "run by a runner"
            loop = asyncio.get_running_loop()
            for sign in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(sign, task.cancel)
            if tie is not None:  # nothing is ever sent: it is readable when the process that has the other end is gone
                loop.add_reader(tie, lambda: (loop.remove_reader(tie), task.cancel()))
            with contextlib.suppress(asyncio.CancelledError):
                await serve(
                    host,
                    port,
                    defaults=defaults,
                    transcripts={path.stem: path for folder in transcripts for path in folder.glob("*.jsonl")},
                    ready=ready,
                    sndbuf_bytes=sndbuf_bytes or None,
                    account=AccountPlan(output_limit=output_limit, noise=noise, reserve=reserve),
                )

        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            try:
                runner.run(until_told())
            except (OSError, OverflowError) as error:
                raise click.ClickException(f"port {port} on host {host}: {error}") from None

    options: list[click.Parameter] = [
        click.Option(["--host"], default="127.0.0.1", show_default=True, help="address to listen on"),
        click.Option(["--port"], default=0, type=int, show_default=True, help="0 takes a free one"),
        click.Option(
            ["--transcripts"],
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            multiple=True,
            help="folder of recorded answers, NAME.jsonl; may be given more than once",
        ),
        click.Option(["--sndbuf-bytes"], default=SNDBUF_BYTES, show_default=True, help="SO_SNDBUF; 0: the kernel's"),
        click.Option(["--output-limit"], default=0, show_default=True, help="account: output tokens a minute; 0: none"),
        click.Option(["--noise"], default=0.0, show_default=True, help="account: tokens a second of other traffic"),
        click.Option(
            ["--reserve"], is_flag=True, help="account: max_tokens is taken at the start, adjusted at the end"
        ),
        click.Option(["--tie"], type=int, hidden=True, help="what ties it to the process that started it"),
    ]
    for name, value in PLAYGROUND.knobs().items():
        option = f"--{name.replace('_', '-')}"
        options.append(click.Option([option], default=value, show_default=True, help=KNOB_HELP[name]))
    return click.Command("simulate", params=options, callback=simulate, help=simulate.__doc__)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
