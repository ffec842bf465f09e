"""Attacks on connections, bodies and paths, straight and through nginx as shipped: each is answered, and a stream goes on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.telemetry.log_lines import LineFormatter
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.nginx import free_port, nginx, shipped
from tests.support.readers import Reader, eventually

pytestmark = pytest.mark.nginx

KEY = "the-callers-own-key"
JSON = {"Content-Type": "application/json", "x-api-key": KEY}


@dataclass(frozen=True, slots=True)
class Door:
    """A way to the service, and a stream that runs beside the attack.

    Attributes:
        url: where the attack goes.
    """

    url: str
    service: Running
    streaming: Reader

    async def goes_on(self) -> None:
        """The stream is sent batches that were not there yet."""
        for _ in range(3):
            self.streaming.body = b""
            await self.streaming.until(b"data: ")

    async def said(self, raw: bytes) -> tuple[int, bytes, Reader]:
        """The answer to raw bytes."""
        reader = await Reader.connect(self.url)
        await reader.send(raw)
        status = await reader.head()
        body = await reader.rest() if status not in (200, 204) else b""
        reader.leave()
        return status, body, reader

    def raw(self, body: bytes, path: str = "/api/stream", method: str = "POST", **headers: str) -> bytes:
        """A request with the key."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.streaming.request(body, method=method, path=path, headers=JSON | more)


@asynccontextmanager
async def opened(url: str, service: Running) -> AsyncIterator[Door]:
    reader = await Reader.connect(url)
    await reader.send(reader.request(b'{"prompt": "Go. {{tokens=90000 rate=50}}"}', headers=JSON))
    assert await reader.head() == 200
    yield Door(url, service, reader)
    reader.leave()
    await eventually(lambda: not service.streams.live)


@pytest.fixture(params=["straight", "nginx"])
async def door(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> AsyncIterator[Door]:
    async with AsyncExitStack() as stack:
        if request.param == "straight":
            service = await serve(api_keys=(KEY,))
            url = service.url
        else:
            port, socket = free_port(), str(tmp_path / "s.sock")
            service = await serve(unix=socket, api_keys=(KEY,))
            url = await stack.enter_async_context(nginx(tmp_path, shipped(tmp_path, f"unix:{socket}", port), port))
        yield await stack.enter_async_context(opened(url, service))


_KEYED = b"Host: x\r\nContent-Type: application/json\r\nx-api-key: %b\r\n" % KEY.encode()
OUTER = b"POST /api/stream/st0_x/stop HTTP/1.1\r\n" + _KEYED
INNER = b"POST /api/stream HTTP/1.1\r\n" + _KEYED + b'Content-Length: 35\r\n\r\n{"prompt": "smuggled {{tokens=1}}"}'
LENGTH = b"Content-Length: %d\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
# Heads, and what comes before the request that is hidden in their bodies.
SMUGGLED: dict[str, tuple[bytes, bytes]] = {
    "length and chunks": (LENGTH + CHUNKED, b"0\r\n\r\n"),
    "chunks and length": (CHUNKED + LENGTH, b"0\r\n\r\n"),
    "chunks in capitals and length": (LENGTH + b"transfer-encoding: CHUNKED\r\n", b"0\r\n\r\n"),
    "two lengths": (b"Content-Length: 0\r\n" + LENGTH, b""),
    "two lengths in one": (b"Content-Length: 0, %d\r\n", b""),
    "a folded line": (LENGTH + b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    "a folded length": (b"X: 1\r\n Content-Length: 0\r\n" + LENGTH, b""),
    "a blank before the colon": (LENGTH + b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    "a tab of another kind": (LENGTH + b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"),
    "another coding": (LENGTH + b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
    "chunks, then identity": (LENGTH + b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
    "chunks twice": (LENGTH + CHUNKED + b"Transfer-Encoding: x\r\n", b"0\r\n\r\n"),
    "a plus": (b"Content-Length: +%d\r\n", b""),
    "a minus": (b"Content-Length: -%d\r\n", b""),
    "a hex length": (b"Content-Length: 0x%x\r\n", b""),
    "a length with a blank": (b"Content-Length: 0 %d\r\n", b""),
    "a bare CR": (LENGTH + b"X: a\rTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "a bare LF": (LENGTH + b"X: a\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "a NUL": (LENGTH + b"X: a\x00\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "a chunk below nothing": (CHUNKED, b"-1\r\n\r\n"),
    "a chunk in hex of C": (CHUNKED, b"0x0\r\n\r\n"),
    "a chunk with a plus": (CHUNKED, b"+0\r\n\r\n"),
    "a chunk without its end": (CHUNKED, b"2\r\n{}0\r\n\r\n"),
    "a line feed in a chunk's extension": (CHUNKED, b"2;a\n{}\r\n0\r\n\r\n"),
    "a bare CR in a chunk's extension": (CHUNKED, b"2;a\r{}\r\n0\r\n\r\n"),
    "a chunk without bound": (CHUNKED, b"ffffffffffffffffffff\r\n"),
}  # fmt: skip


async def test_no_request_is_smuggled_in_anothers_body(door: Door, simulator: Simulator) -> None:
    taken = {}
    shapes = dict(SMUGGLED)
    if door.service.url.startswith("unix:"):
        # nginx takes it for the line's end, so that what follows the body is a request of its own: for nginx, and for the
        # service, which nginx asks with frames of its own. Nobody sees another one.
        del shapes["a line feed in a chunk's extension"]
    for shape, (head, before) in shapes.items():
        body = before + INNER
        framing = head.replace(b"%d", b"%d" % len(body)).replace(b"%x", b"%x" % len(body))
        status, _, _ = await door.said(OUTER + framing + b"\r\n" + body)
        if not (400 <= status < 500 or status == 501) or len(simulator.books) > 1:  # one is the stream beside
            taken[shape] = status
    assert taken == {}
    await door.goes_on()


async def test_a_pipelined_request_is_none_that_was_smuggled(door: Door, simulator: Simulator) -> None:
    """Or the test above would prove nothing."""
    reader = await Reader.connect(door.url)
    await reader.send(OUTER + CHUNKED + b"\r\n0\r\n\r\n" + INNER)
    await eventually(lambda: len(simulator.books) == 2)
    reader.leave()


async def test_half_heads_and_half_bodies_keep_no_reader_out(door: Door) -> None:
    half_head, half_body = door.raw(b"{}")[:60], door.raw(b"{" * 5000)[:-1]
    flood = []
    for number in range(1500):
        flood.append(await Reader.connect(door.url))
        await flood[-1].send(half_body if number % 2 else half_head)
    status, _, _ = await door.said(door.raw(b'{"prompt": "{{tokens=2}}"}'))
    assert status == 200
    await door.goes_on()
    for reader in flood:
        reader.leave()


CRLF = "%0d%0aX-Injected:%20yes"
INJECTED = [
    ("GET", f"/api/stream/st0_x{CRLF}", b"", {}),
    ("POST", f"/api/chat/c{CRLF}/stop", b"", {}),
    ("GET", f"/api/chat/c{CRLF}/stream", b"", {}),
    ("GET", f"/v1/models/m{CRLF}", b"", {}),
    ("POST", "/api/stream", b'{"prompt": "{{tokens=1}}", "model": "m\\r\\nX-Injected: yes"}', {}),
    ("POST", "/api/chat", b'{"id": "c\\r\\nX-Injected: yes", "messages": [{"role": "user", "parts": []}]}', {}),
    (
        "POST",
        "/v1/messages",
        b'{"model": "m\\r\\nX-Injected: yes", "max_tokens": 1, "messages": [], "stream": true}',
        {},
    ),
    ("GET", "/api/stream/st0_x", b"", {"Last_Event_ID": "1%0d%0aX-Injected: yes"}),
    ("GET", f"/{CRLF}", b"", {}),
    ("GET", f"/?a={CRLF}", b"", {}),
]


async def test_no_header_is_injected_and_no_line_of_the_log(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for method, path, body, headers in INJECTED:
        _, _, reader = await door.said(door.raw(body, path, method, **headers))
        assert "x-injected" not in reader.headers, path
    await eventually(lambda: len(door.service.streams.live) == 1)
    lines = [LineFormatter().format(record) for record in caplog.records if record.name.startswith("app.")]
    assert lines
    assert not any("\r" in line or "\n" in line for line in lines)
    assert KEY not in "".join(lines)
    await door.goes_on()


TRICKS = [
    "/v1/messages/batches/../../messages", "/v1/files/..%2f..%2fmessages", "/v1/%2e%2e/v1/models", "/v1/files/%2e%2e/x",
    "/v1/files/%00", "/v1/files/a%5cb", "/v1/files/%252e%252e", "/v1/files/..;/x", "/v1/models%2f..%2f..%2fmetrics",
    "/v1/./models/..", "/v1/%6d%65ssages", "//v1//files//..//..//admin", "/v1/files/%ff", "/v1/files/%2F%2Fevil.example",
]  # fmt: skip


async def test_no_path_leads_where_it_is_not_allowed(door: Door) -> None:
    for path in TRICKS:
        status, body, _ = await door.said(door.raw(b"", path, "GET"))
        assert status in (400, 404, 405), path
        assert KEY.encode() not in body
    await door.goes_on()


async def test_what_the_admin_port_tells_is_not_told_here(door: Door) -> None:
    for path in ("/metrics", "/healthz", "/readyz", "/streams", "//metrics", "/%6detrics"):
        status, body, _ = await door.said(door.raw(b"", path, "GET"))
        assert (status, b"sluiceway_" in body) == (404, False), path


ROUTES = [
    "/api/stream", "/api/chat", "/v1/messages", "/v1/messages/count_tokens", "/api/stream/st0_x/shown", "/api/stream/st0_x/stop",
]  # fmt: skip


async def test_no_body_is_unpacked(door: Door) -> None:
    for path in ROUTES:
        for coding in ("gzip", "deflate", "br", "zstd", "x-gzip", "gzip, identity"):
            status, _, _ = await door.said(door.raw(b"\x1f\x8b" + b"\0" * 100, path, Content_Encoding=coding))
            assert status == 415, (path, coding)
    await door.goes_on()


@pytest.mark.parametrize("path", ROUTES)
async def test_bombs_of_json_hold_nobody_up(path: str, door: Door) -> None:
    blocks = b'{"type":"text","text":"a"},' * 300_000

    async def thrown(body: bytes) -> None:
        status, said, _ = await door.said(door.raw(body, path))
        assert status in (400, 404, 413) or path.startswith("/v1/"), said[:300]

    bombs = (
        b"[" * 100_000, b'{"a":' * 100_000, b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "c", "model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [' + blocks + b"1]}]}",
        b'{"id": "c", "model": "m", "max_tokens": 1, "messages": [' + b"[]," * 2_700_000 + b"[]]}",
    )  # fmt: skip
    await asyncio.gather(*map(thrown, bombs))
    await door.goes_on()
    assert len(door.service.streams.live) == 1


async def test_a_head_that_is_too_large_is_a_typed_error(door: Door) -> None:
    for cookie_bytes, fits in ((30_000, True), (33_000, False), (200_000, False)):
        status, body, reader = await door.said(door.raw(b"", "/config.json", "GET", Cookie="x" * cookie_bytes))
        assert (status == 200) is fits
        if not fits:
            assert (status, json.loads(body)["type"]) == (431, "request_too_large")
            assert b"xxx" not in body
            assert reader.headers["cache-control"] == "no-store"
    await door.goes_on()
