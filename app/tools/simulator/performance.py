"""One answer of the simulated Claude under way: paced, drained, booked, and broken where the scenario says so."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from . import answer, http1
from .account import Draw
from .answer import Step, StepEnd
from .scenario import ERROR_TYPES, HTTP_FAULTS, Scenario

# Streams as fast as the peer reads give the loop a turn this often, so that a gone peer is seen within a millisecond.
STEPS_A_TURN = 32
_PAGE = b"<!doctype html><html><head><title>Welcome</title></head><body><h1>Please sign in</h1></body></html>"


def _nothing(_: bool) -> None:
    pass


@dataclass(slots=True)
class RequestRecord:
    """What one `POST /v1/messages` asked for and got.

    Attributes:
        tokens: generated: their event was handed to the socket and drained, or they are hidden thinking.
        thinking_tokens: those of them that are thinking.
        would_have: tokens of the whole answer, had nothing stopped it.
        bytes: of the body, without HTTP framing.
        attempt: how many requests with this very directive came, with this one.
        fault: the one that this attempt meets.
        started_at: seconds since the epoch.
        gone_at: seconds since the epoch when the peer was found gone from the unfinished answer.
        gone_reason: `eof`, `reset`, `closed`, or `stopped` when the simulator was.
        consumed: output tokens that the account was charged for so far: more than `tokens` where generation goes on unread.
        paused_s: seconds in which a drain was blocked, without the running one (`entry` adds it).
        usage: as reported so far; `output_tokens` is a placeholder until the answer's end.
        finished: the whole message was sent, to its `message_stop`, and drained.
        hurried: set by who has seen enough of the pace: from its next token on, the answer comes as fast as its peer reads.
        is_blocked: set while a drain is blocked.
        ended: set when the answer is over, whichever way.
    """

    id: str
    model: str
    stream: bool
    fault: str
    attempt: int
    would_have: int = 0
    started_at: float = field(default_factory=time.time)
    status: int | None = None
    tokens: int = 0
    thinking_tokens: int = 0
    bytes: int = 0
    finished: bool = False
    hurried: bool = field(default=False, repr=False)
    gone_at: float | None = None
    gone_reason: str | None = None
    paused_s: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)
    draw: Draw | None = field(default=None, repr=False)  # what is taken from the account; None: refused by it
    when_unread: Callable[[bool], None] = field(default=_nothing, repr=False)  # told whether a drain is blocked
    is_blocked: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _blocked_at: float = field(default=0.0, repr=False)  # loop time, while is_blocked

    @property
    def live(self) -> bool:
        """The answer still runs."""
        return not self.ended.is_set()

    @property
    def consumed(self) -> int:
        return self.draw.consumed if self.draw is not None else 0

    def gone(self, reason: str) -> None:
        if self.gone_at is None:
            self.gone_at, self.gone_reason = time.time(), reason

    def blocked(self) -> None:
        self._blocked_at = asyncio.get_running_loop().time()
        self.is_blocked.set()
        self.when_unread(True)

    def unblocked(self) -> None:
        self.paused_s += asyncio.get_running_loop().time() - self._blocked_at
        self.is_blocked.clear()
        self.when_unread(False)

    def entry(self, now: float) -> dict[str, Any]:
        """The book as `/books` shows it; `now` in loop time."""
        running_s = now - self._blocked_at if self.is_blocked.is_set() else 0.0
        shown = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in _HIDDEN}
        return shown | {"consumed": self.consumed, "paused_s": self.paused_s + running_s, "live": self.live}


_HIDDEN = frozenset({"hurried", "is_blocked", "ended", "_blocked_at", "draw", "when_unread"})


class ApiError(Exception):
    """An answer in Anthropic's error shape instead of a message (Messages API, errors)."""

    def __init__(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status, self.headers = status, tuple(headers)

    def body(self, request_id: str) -> dict[str, Any]:
        error = {"type": ERROR_TYPES.get(self.status, "api_error"), "message": str(self)}
        return {"type": "error", "error": error, "request_id": request_id}


@dataclass(frozen=True, slots=True)
class Script:
    """What an answer is made from.

    Attributes:
        scenario: how the answer is to go.
        asked: what the answer takes from the request.
        lines: the recorded answer to replay, or empty.
    """

    scenario: Scenario
    asked: answer.Request
    lines: Sequence[str]

    def steps(self) -> Iterator[Step]:
        """What is sent, step by step."""
        if self.lines:
            return answer.replay(self.lines, self.scenario, self.asked)
        return answer.steps(self.scenario, self.asked)


class Performance:
    """Sends one answer: paces the steps, writes them, keeps the book, and strikes the fault."""

    def __init__(
        self,
        connection: http1.ServerConnection,
        request: http1.Request,
        script: Script,
        book: RequestRecord,
        generated: Callable[[int], None],
    ) -> None:
        """
        Args:
            connection: where the answer goes; its watcher is the book.
            request: as it came, for the framing.
            script: what the answer is made from.
            book: kept as the answer proceeds.
            generated: told how many tokens the answer has come to.
        """
        # A message without `stream` is put together from plainly written events.
        self._scenario = script.scenario if book.stream else replace(script.scenario, newline="lf", comment=False)
        self._script = replace(script, scenario=self._scenario)
        self._connection, self._request, self._book, self._generated = connection, request, book, generated
        self._headers: Sequence[tuple[str, str]] = ()  # of the platform, once it runs
        self._ping = answer.EventWriter.of(self._scenario).event({"type": "ping"})
        self._rng = random.Random(script.scenario.seed)
        self._loop = asyncio.get_running_loop()
        self._next_ping_at = float("inf")  # loop time; pings start with the headers of a stream
        self._closing_shown = False  # the message_delta is out

    async def run(self, headers: Sequence[tuple[str, str]]) -> None:
        """Sends the whole answer. Cancelling is safe: the book says how far it came.

        Args:
            headers: what the platform says beside the answer.

        Raises:
            ApiError: the answer is an HTTP error.
        """
        scenario, self._headers = self._scenario, headers
        await asyncio.sleep(scenario.ttft_s)
        if scenario.fault in HTTP_FAULTS:
            raise _http_fault(scenario)
        if scenario.fault == "html":
            await self._send(200, "text/html; charset=utf-8", _PAGE)
        elif self._book.stream:
            await self._send_stream()
        else:
            await self._send_whole()

    async def _send(self, status: int, content_type: str, body: bytes) -> None:
        self._book.status = status
        headers = [("content-type", content_type), *self._headers]
        await http1.send(self._connection, self._request, status, headers, body)
        self._book.bytes += len(body)

    async def _send_stream(self) -> None:
        self._book.status = 200
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")]
        headers += self._headers
        if self._request.chunks:
            headers.append(("transfer-encoding", "chunked"))
        await self._connection.write(http1.head(200, headers, keep_alive=self._request.keep_alive))
        if self._scenario.pings_s:
            self._next_ping_at = self._loop.time() + self._scenario.pings_s
        await self._wait_until(self._loop.time() + self._scenario.first_event_s)
        end = await self._play(self._write_step)
        match end:
            case "finish":
                self._book.finished = self._closing_shown
            case "ping_only":
                self._next_ping_at = min(self._next_ping_at, self._loop.time() + (self._scenario.pings_s or 1.0))
                await self._wait_until(float("inf"))
            case _:
                await self._break_off(end)

    async def _send_whole(self) -> None:
        scenario = self._scenario
        taken: list[Step] = []

        async def take(step: Step) -> None:
            taken.append(step)

        end = await self._play(take)
        if scenario.fault in ("error_first", "overloaded"):
            raise ApiError(529, "Overloaded")
        if scenario.fault == "no_message_stop":
            end = "cut_fin"
        if end != "finish":
            await self._break_off(end)
            return
        if scenario.fault == "garbage":
            body = b'{"type":"message","content":[{"ty'
        else:
            body = json.dumps(answer.whole_message(taken), ensure_ascii=False).encode()
        await self._send(200, "application/json", body)
        self._book.finished = scenario.fault != "garbage"

    async def _break_off(self, end: StepEnd) -> None:
        """Silence, or one of the cuts."""
        match end:
            case "cut":
                self._connection.reset()
            case "cut_fin":
                if self._request.chunks and self._book.stream:
                    # A chunk that promises more than comes.
                    await self._connection.write(b'40\r\nevent: content_block_delta\ndata: {"ty')
                self._connection.close()
            case _:
                # Until the peer goes, which cancels this.
                await self._loop.create_future()

    async def _play(self, show: Callable[[Step], Coroutine[Any, Any, None]]) -> StepEnd:
        """Hands out the steps, each at its time, and enters them into the book; returns how the answer ends."""
        rate, book, loop = self._scenario.rate, self._book, self._loop
        steps = self._script.steps()
        began, blocked_before_s = loop.time(), book.paused_s
        for number, step in enumerate(steps):
            if step.tokens:
                if rate and not book.hurried:
                    # The time that a drain was blocked is not caught up, because generation stood still meanwhile.
                    due_at = began + book.tokens / rate + book.paused_s - blocked_before_s
                    if due_at > loop.time():
                        await self._wait_until(due_at)
                elif not number % STEPS_A_TURN:
                    await asyncio.sleep(0)
            if step.data or step.end:
                await show(step)
            if step.tokens:
                book.tokens += step.tokens
                self._generated(book.tokens)
            if step.thinking:
                book.thinking_tokens += step.tokens
            if step.usage:
                book.usage |= step.usage
            self._closing_shown = self._closing_shown or step.closing
            if step.end is not None:
                return step.end
        raise AssertionError("an answer without end")

    async def _write_step(self, step: Step) -> None:
        """Writes an event, in as many pieces as the chunking asks; the body's end goes with the last one."""
        last = http1.LAST_CHUNK if step.end == "finish" and self._request.chunks else b""
        if self._scenario.chunking == "events":
            cut = [step.data]
        else:
            cut = answer.pieces(step.data, self._scenario.chunking, self._rng)
            # Many writes; a gone peer must be seen between them.
            await asyncio.sleep(0)
        for piece in cut[:-1]:
            await self._write_piece(piece, b"")
        await self._write_piece(cut[-1], last)

    async def _write_piece(self, piece: bytes, last: bytes) -> None:
        framed = http1.chunk(piece) if piece and self._request.chunks else piece
        if framed or last:
            await self._connection.write(framed + last)
        self._book.bytes += len(piece)

    async def _wait_until(self, due_at: float) -> None:
        """Waits until this loop time, with pings at theirs."""
        while self._next_ping_at < due_at:
            await asyncio.sleep(self._next_ping_at - self._loop.time())
            await self._write_piece(self._ping, b"")
            self._next_ping_at = self._loop.time() + (self._scenario.pings_s or 1.0)
        if due_at == float("inf"):
            raise AssertionError("pings without end are ended by cancelling")
        await asyncio.sleep(due_at - self._loop.time())


def _http_fault(scenario: Scenario) -> ApiError:
    status = int(scenario.fault.removeprefix("http_"))
    headers = [("retry-after", f"{scenario.retry_after_s:g}")] if status == 429 and scenario.retry_after_s else []
    return ApiError(status, f"A made-up Claude was told to answer {status}.", headers)


def platform_headers(request_id: str, limits: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What every answer of the Messages API says beside its content (Messages API, rate limits)."""
    return [
        ("request-id", request_id),
        ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000"),
        ("anthropic-ratelimit-requests-limit", "4000"),
        ("anthropic-ratelimit-requests-remaining", "3999"),
        ("anthropic-ratelimit-requests-reset", "2030-01-01T00:00:00Z"),
        *limits,
    ]
