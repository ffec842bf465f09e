"""No word of a prompt, a system prompt, a tool, a header or a key is in a log, a span, a metric or a page, whatever goes wrong.

Each request carries a word that nobody else says, in all the places where callers put theirs; it goes through every fault of the
simulated Claude, through a gateway that repeats in its errors what it was asked, and through every way to be refused.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from app.settings import Settings
from app.telemetry.log_lines import log_to
from app.tools.simulator.scenario import FAULTS
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.conftest import Serve
from tests.support.collector import Collector, collecting
from tests.support.readers import eventually

WORD = "kanarienvogel"
KEY = f"{WORD}-key-of-the-caller"
OF_THE_SERVICE = "sk-ant-secret-of-the-service"
AT_ONCE = 16
SETTINGS: dict[str, Any] = {
    "api_keys": (f"shop:{KEY}",), "log_level": "debug", "retries": 0, "idle_timeout_s": 0.3, "progress_timeout_s": 0.3,
    "max_body_bytes": 20_000, "max_messages_bytes": 20_000,
}  # fmt: skip
HEADERS = {"x-api-key": KEY, "User-Agent": WORD, "Cookie": f"session={WORD}", f"X-{WORD}": WORD, "x-app": WORD}
STREAMS = ("/api/stream", "/api/chat", "/v1/messages")
# What a gateway answers with the request's own body in it: its status, its content type, and the words around it.
ECHOES = (
    (400, "application/json", '{"type": "error", "error": {"type": "invalid_request_error", "message": %s}}'),
    (404, "application/json", '{"type": "error", "error": {"type": "not_found_error", "message": %s}}'),
    (422, "application/json", '{"detail": %s}'),
    (500, "application/json", '{"type": "error", "error": {"type": "api_error", "message": %s}}'),
    (502, "text/html", "<html>%s</html>"),
    (503, "text/plain", "%s"),
    (200, "text/html", "<html>%s</html>"),
    (200, "application/json", '{"error": {"message": %s}}'),
    (
        200,
        "text/event-stream",
        'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": %s}}\n\n',
    ),
    (200, "text/event-stream", "data: %s\n\n"),
    (200, "text/event-stream", "event: message_start\ndata: {%s\n\n"),
)

Ask = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Sinks:
    """Wherever the service says something to others than its caller."""

    service: Running
    client: aiohttp.ClientSession
    collector: Collector
    log: io.StringIO

    async def said(self) -> str:
        """All of it."""
        pages = [f"{self.service.admin_url}{path}" for path in ("/metrics", "/streams", "/healthz", "/readyz")]
        pages += [f"{self.service.url}{path}" for path in ("/", "/openapi.json", "/config.json")]
        said = [self.log.getvalue(), *(body.decode("latin-1") for body in self.collector.bodies)]
        for page in pages:
            async with self.client.get(page) as response:
                said.append(await response.text() + str(response.headers))
        return "\n".join(said)


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """The log in both of its forms, as `serve` sets it up, at its loudest."""
    root, said = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    for form in ("json", "human"):
        log_to(said, "debug", "app", form)
    try:
        yield said
    finally:
        root.handlers, root.level = before, level
        logging.getLogger("app").setLevel(logging.NOTSET)


def body(path: str, directive: str, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    text = f"{WORD} {{{{{directive}}}}} {WORD}"
    asked: dict[str, Any] = {
        "model": "claude-opus-4-8", "max_tokens": 50, "system": WORD, "metadata": {"user_id": WORD},
        "messages": [{"role": "user", "content": text}],
        "tools": [{"name": WORD, "description": WORD, "input_schema": {"type": "object", "title": WORD}}],
    }  # fmt: skip
    if path == "/api/chat":
        asked["messages"] = [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": text}]}]
        asked["id"] = f"{WORD}-{uuid.uuid4()}"
        del asked["metadata"]
    if path == "/v1/messages":
        asked["stream"] = stream
    return asked | more


class Ways:
    """Ways to ask, of a service whose Claude is simulated and of one behind a gateway that repeats what it was asked."""

    def __init__(self, client: aiohttp.ClientSession, service: Running, echoing: Running) -> None:
        self._client, self._url, self._echoing = client, service.url, echoing.url

    def all(self) -> list[Ask]:
        """One of each."""
        return [*self._faults(), *self._echoes(), *self._refused(), *self._left()]

    def _ask(
        self, url: str, asked: Any, headers: Mapping[str, str] = {}, *, leave: bool = False, method: str = "POST"
    ) -> Ask:
        async def ask() -> None:
            data = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
            given = {"Content-Type": "application/json", **HEADERS, **headers}
            with suppress(aiohttp.ClientError):
                async with self._client.request(method, f"{url}?q={WORD}", data=data, headers=given) as response:
                    if leave:
                        await response.content.readany()
                        response.close()
                    await response.read()

        return ask

    def _faults(self) -> Iterator[Ask]:
        for fault in sorted(FAULTS):
            directive = f"tokens=30 fault={fault} after=5"
            for path in STREAMS:
                yield self._ask(f"{self._url}{path}", body(path, directive))
            yield self._ask(f"{self._url}/v1/messages", body("/v1/messages", directive, stream=False))

    def _echoes(self) -> Iterator[Ask]:
        for number in range(len(ECHOES)):
            for path in STREAMS:
                yield self._ask(f"{self._echoing}{path}", body(path, f"echo {number}"))
            whole = body("/v1/messages", f"echo {number}", stream=False)
            yield self._ask(f"{self._echoing}/v1/messages", whole)
            yield self._ask(f"{self._echoing}/v1/messages/count_tokens", whole)
            yield self._ask(f"{self._echoing}/v1/files", f"{{{{echo {number}}}}} {WORD}".encode())

    def _refused(self) -> Iterator[Ask]:
        for path in STREAMS:
            url, good = f"{self._url}{path}", body(path, "tokens=3")
            yield self._ask(url, good, {"x-api-key": f"{WORD}-wrong"})
            yield self._ask(url, good, {"Authorization": f"Bearer {WORD}.{WORD}.{WORD}"})
            yield self._ask(url, WORD.encode())
            yield self._ask(url, f'{{"model": "{WORD}'.encode())
            yield self._ask(url, {WORD: WORD})
            yield self._ask(url, good | {"max_tokens": WORD})
            yield self._ask(url, good | {"messages": WORD})
            yield self._ask(url, good | {"system": WORD * 5000})
            yield self._ask(url, good, {"Content-Type": f"text/{WORD}"})
            yield self._ask(url, good, {"Content-Encoding": WORD})
            yield self._ask(url, good, {"anthropic-beta": WORD, "idempotency-key": WORD})
            yield self._ask(url, good, method="PUT")
            yield self._ask(url, good, {"Origin": f"https://{WORD}.example"})
        yield self._ask(f"{self._url}/api/stream", body("", "tokens=3", policy=WORD))
        for path in (f"/api/stream/{WORD}/stop", f"/api/stream/{WORD}/shown", f"/{WORD}", f"/v1/{WORD}", "/v1/tokens"):
            yield self._ask(f"{self._url}{path}", {"stop_token": WORD, "ttl_s": WORD}, {"X-Stop-Token": WORD})
        for path in (f"/api/stream/{WORD}", f"/api/chat/{WORD}/stream", f"/api/stream/{WORD}/gauges"):
            yield self._ask(f"{self._url}{path}", b"", {"Last-Event-ID": WORD}, method="GET")

    def _left(self) -> Iterator[Ask]:
        for path in STREAMS:
            yield self._ask(f"{self._url}{path}", body(path, "tokens=60000 rate=50"), leave=True)
            yield self._ask(f"{self._url}{path}", body(path, "tokens=60000 text=numbered", resumable=True), leave=True)


@asynccontextmanager
async def repeating() -> AsyncIterator[str]:
    """The URL of a gateway that repeats what it was asked."""

    async def answer(request: web.Request) -> web.Response:
        asked = (await request.read()).decode()
        number = int(asked.partition("{{echo ")[2].partition("}")[0])
        status, media_type, words = ECHOES[number]
        return web.Response(status=status, content_type=media_type, text=words % json.dumps(asked))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def nothing_is_said(
    serve: Serve, simulator: Simulator, client: aiohttp.ClientSession, choose: Callable[[list[Ask]], list[Ask]]
) -> None:
    with logged() as log:
        async with collecting() as collector, repeating() as gateway:
            settings = SETTINGS | {"otlp_endpoint": collector.url}
            service = await serve(**settings)
            echoing = Settings.model_validate(
                settings | {"port": 0, "admin_port": 0, "warm_connections": 0, "max_lag_s": 60.0}
            )
            async with running(echoing, Credentials(OF_THE_SERVICE, gateway)) as other:
                asked = choose(Ways(client, service, other).all())
                places = asyncio.Semaphore(AT_ONCE)

                async def ask(one: Ask) -> None:
                    async with places:
                        await one()

                await asyncio.gather(*(ask(one) for one in asked))
                await eventually(lambda: not service.streams.in_flight and not other.streams.in_flight)
            ended = log.getvalue().count('"outcome"')
            assert ended > len(asked) / 3, "as many must have come through"
            await eventually(lambda: len(collector.spans) == ended)
            said = await Sinks(service, client, collector, log).said()
    found = [line[:400] for line in said.splitlines() if WORD in line.lower() or OF_THE_SERVICE in line]
    assert found == []


async def test_of_each_kind_of_request_no_word_is_said(
    serve: Serve, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    await nothing_is_said(serve, simulator, client, lambda ways: ways[::4] + ways[-8:])


@pytest.mark.soak
async def test_of_a_thousand_requests_no_word_is_said(
    serve: Serve, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    await nothing_is_said(serve, simulator, client, lambda ways: list(itertools.islice(itertools.cycle(ways), 1000)))
