"""The one way in: every route is closed unless it says otherwise, and no stranger's body is read."""

from __future__ import annotations

import gc
import gzip
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from app.access.guard import Guard
from app.tools.simulator.server import Simulator
from app.web.entrance.identity import Identity
from app.web.entrance.way_in import BODY, CALLER, Body, Entrance, Route, Who
from app.web.http.bodies import Bodies, BodyBound
from app.web.http.errors import errors_as_json
from app.web.routes.pages import Pages
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader, eventually

KEY = "the-callers-own-key"
AUTH = {"x-api-key": KEY}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def closed(serve: Serve) -> Running:
    """A service that demands a key."""
    return await serve(api_keys=(KEY,))


async def test_every_route_demands_a_key_but_the_pages(closed: Running, client: aiohttp.ClientSession) -> None:
    open_to_all = set()
    routes = list(closed.service.app.router.routes())
    assert len(routes) > 20
    for route in routes:
        assert route.resource is not None, "it has a path"
        path = route.resource.canonical.replace("{", "").replace("}", "")
        async with client.request(route.method.replace("*", "GET"), f"{closed.url}{path}") as response:
            if response.status != 401:
                assert (response.status, response.method in ("GET", "HEAD")) == (200, True)
                open_to_all.add(path)
    assert open_to_all == {route.path for route in Pages().routes({})} | {"/openapi.json"}
    assert {"/", "/config.json", "/client.js"} < open_to_all


@pytest.fixture
async def bare(client: aiohttp.ClientSession) -> AsyncIterator[str]:
    """A service of two routes, of which one was added past the entrance."""

    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"caller": request[CALLER].name, "body": request.get(BODY, b"").decode()})

    entrance = Entrance(Identity(Guard([KEY])), Bodies(1000), {Body.QUESTION: BodyBound(10, 5.0, "some_setting")})
    app = web.Application(middlewares=[errors_as_json, entrance.middleware])
    app.router.add_post("/undeclared", handler)
    entrance.install(app, [Route("POST", "/declared", handler, Who.ANYONE, Body.QUESTION)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_route_that_is_not_declared_is_closed_and_its_body_not_read(
    bare: str, client: aiohttp.ClientSession
) -> None:
    async with client.post(f"{bare}/undeclared", json=1) as response:
        assert response.status == 401
    async with client.post(f"{bare}/undeclared", json=1, headers=AUTH) as response:
        assert (response.status, (await response.json())["body"]) == (200, "")
    async with client.post(f"{bare}/declared", json=1) as response:
        assert await response.json() == {"caller": "", "body": "1"}


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_its_bound_is_told_the_setting(
    chunked: bool, bare: str, client: aiohttp.ClientSession
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"12345"

    data = pieces() if chunked else b"1" * 20
    async with client.post(f"{bare}/declared", data=data, headers=JSON) as response:
        assert response.status == 413
        assert "above some_setting, 10 bytes" in (await response.json())["error"]


async def test_a_body_of_too_many_values_is_refused_before_it_is_read(
    serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve()
    for piece, status in ((b"[],", 400), (b'"",', 400), (b"wor", 200)):
        body = (
            b'{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "{{tokens=1}}"}], "metadata": ['
        )
        body += piece * 4_000_000 + b"1]}" if status == 400 else b'"' + piece * 4_000_000 + b'"]}'
        async with client.post(f"{service.url}/v1/messages", data=io.BytesIO(body), headers=JSON) as response:
            assert response.status == status
            assert status == 200 or "more than 2000000 values" in await response.text()


POSTS = [
    "/api/stream",
    "/api/chat",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/stream/x/shown",
    "/api/stream/x/stop",
]


@pytest.mark.parametrize("path", POSTS)
async def test_a_stranger_is_refused_by_the_head_alone(path: str, closed: Running) -> None:
    reader = await Reader.connect(closed.url)
    head = reader.request(b"", path=path).replace(b"Content-Length: 0", b"Content-Length: 8000000")
    await reader.send(head + b"x")

    assert await reader.head() == (413 if path.startswith("/api/stream/") else 401)
    reader.leave()


@pytest.mark.parametrize("path", POSTS)
async def test_leave_to_send_a_body_is_given_only_to_who_may(path: str, closed: Running) -> None:
    """RFC 9110, 10.1.1."""
    stranger = await Reader.connect(closed.url)
    expecting = stranger.request(b"", path=path, headers=JSON | {"Expect": "100-continue"})
    await stranger.send(expecting.replace(b"Content-Length: 0", b"Content-Length: 70000000"))
    assert await stranger.head() == (413 if path.startswith("/api/stream/") else 401)
    stranger.leave()

    caller = await Reader.connect(closed.url)
    await caller.send(
        caller.request(b"", path=path, headers=JSON | AUTH | {"Expect": "100-continue"}).replace(
            b"Length: 0", b"Length: 2"
        )
    )
    assert await caller.head() == 100
    again = caller.body
    await caller.send(b"{}")
    while b"\r\n\r\n" not in again:
        assert await caller.some()
        again = caller.body
    assert again.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
    caller.leave()


@pytest.mark.parametrize("path", POSTS)
async def test_a_compressed_body_is_refused_and_never_unpacked(
    path: str, closed: Running, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    body = gzip.compress(json.dumps({"prompt": "x" * 1000}).encode())
    headers = JSON | AUTH | {"Content-Encoding": "gzip"}
    async with client.post(f"{closed.url}{path}", data=body, headers=headers) as response:
        assert response.status == 415
        assert "Content-Encoding" in await response.text()
    async with client.post(
        f"{closed.url}/api/stream", json={"prompt": "a"}, headers=AUTH | {"Content-Encoding": "identity"}
    ) as response:
        assert response.status == 200
    assert len(simulator.books) == 1


async def test_a_body_that_does_not_come_is_not_waited_for(serve: Serve) -> None:
    service = await serve(body_timeout_s=0.2)
    reader = await Reader.connect(service.url)
    await reader.send(
        reader.request(b"", path="/api/stream").replace(b"Content-Length: 0", b"Content-Length: 50") + b'{"prompt'
    )

    assert await reader.head() == 408
    assert b"within 0.2 s" in await reader.rest()
    reader.leave()


async def test_a_body_whose_framing_breaks_off_is_the_callers_fault(service: Running, simulator: Simulator) -> None:
    reader = await Reader.connect(service.url)
    head = reader.request(b"", path="/api/stream").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    await reader.send(head + b'5\r\n{"pro\r\nzz\r\n')

    assert await reader.head() == 400
    reader.leave()
    assert not simulator.books


async def test_a_control_request_takes_four_kilobytes(service: Running, client: aiohttp.ClientSession) -> None:
    for size, status in ((4096, 404), (4097, 413)):
        body = b'{"id": 1}'.ljust(size)
        async with client.post(
            f"{service.url}/api/stream/st0_x/shown", data=body, headers={"X-Stop-Token": "x"}
        ) as response:
            assert response.status == status


async def asked(service: Running, headers: dict[str, str]) -> Reader:
    reader = await Reader.connect(service.url)
    body = json.dumps({"prompt": "Go. {{tokens=90000 rate=50}}"}).encode()
    await reader.send(reader.request(body, headers=JSON | headers))
    assert await reader.head() == 200
    await reader.until(b"data: ")
    return reader


@pytest.mark.parametrize("way", ["key", "header", "beacon"])
async def test_a_stream_is_stopped_by_its_callers_key_or_by_its_own_token(
    way: str, closed: Running, client: aiohttp.ClientSession
) -> None:
    reader = await asked(closed, AUTH)
    url, token = f"{closed.url}/api/stream/{reader.headers['x-stream-id']}/stop", reader.headers["x-stop-token"]
    wrong = {"key": {"x-api-key": "another"}, "header": {"X-Stop-Token": "another"}, "beacon": {}}[way]
    async with client.post(
        url, headers=wrong, data=b'{"stop_token": "another"}' if way == "beacon" else b""
    ) as response:
        assert response.status == (401 if way == "key" else 404)
    right = {"key": AUTH, "header": {"X-Stop-Token": token}, "beacon": {"Content-Type": "text/plain"}}[way]
    async with client.post(
        url, headers=right, data=json.dumps({"stop_token": token}) if way == "beacon" else b""
    ) as response:
        assert await response.json() == {"stopped": True}
    await eventually(lambda: not closed.streams.live)
    reader.leave()


@pytest.mark.parametrize(
    ("origin", "headers", "status"),
    [
        ("", {}, 404),  # no browser
        ("https://elsewhere.example", {}, 403),
        ("https://elsewhere.example", {"Content-Type": "text/plain"}, 403),
        ("https://elsewhere.example", {"Content-Type": "application/json"}, 404),  # its browser has asked us
        ("https://elsewhere.example", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("https://chat.example", {}, 404),
    ],
)
async def test_without_keys_another_sites_page_stops_no_chat_whose_name_it_guesses(
    origin: str, headers: dict[str, str], status: int, serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(cors_origins=("https://chat.example",))
    headers = headers | ({"Origin": origin} if origin else {})
    skip = [] if "Content-Type" in headers else ["Content-Type"]
    async with client.post(f"{service.url}/api/chat/c1/stop", headers=headers, skip_auto_headers=skip) as response:
        assert response.status == status


@pytest.mark.parametrize("path", ["/api/stream", "/v1/messages"])
async def test_json_that_is_said_twice_is_json(path: str, service: Running, client: aiohttp.ClientSession) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "{{tokens=2}}"}]}
    twice = {"Content-Type": "application/json, application/json"}
    async with client.post(f"{service.url}{path}", data=json.dumps(body), headers=twice) as response:
        assert response.status == 200


def holders_of(mark: bytes, at_least_bytes: int) -> list[object]:
    """What of the service holds a large piece of bytes with this mark in it: the simulated Claude runs here too."""
    return [
        holder
        for holder in gc.get_objects()
        if not str(type(holder).__module__).startswith("app.tools.")
        for held in gc.get_referents(holder)
        if isinstance(held, bytes | bytearray) and len(held) >= at_least_bytes and mark in held
    ]


async def test_a_prompt_is_let_go_of_once_it_was_sent(service: Running) -> None:
    """Neither the request nor the answer holds it for as long as the stream runs."""
    body = json.dumps({"prompt": "a mark " * 10_000 + "{{tokens=90000 rate=50}}"}).encode()
    reader = await Reader.connect(service.url)
    await reader.send(reader.request(body))
    assert await reader.head() == 200
    await reader.until(b"data: ")
    del body
    assert holders_of(b"a mark a mark", 60_000) == []
    reader.leave()


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 403),
        ({"cors_origins": ("https://other.example",)}, 403),
        ({"cors_origins": ("https://rebound.example",)}, 200),
        ({"cors_origins": ("*",)}, 200),
        ({"auth": "none"}, 200),
        ({"api_keys": (KEY,)}, 200),
        ({"unix": "s.sock"}, 200),
    ],
)
async def test_a_site_whose_name_was_led_here_is_none_of_ours(
    given: dict[str, Any], status: int, serve: Serve, simulator: Simulator, tmp_path: Path
) -> None:
    """DNS rebinding: the browser takes the page for the service's own, and says so."""
    service = await serve(**given | ({"unix": str(tmp_path / "s.sock")} if "unix" in given else {}))
    headers = JSON | AUTH | {"Sec-Fetch-Site": "same-origin", "Origin": "http://rebound.example:8080"}
    for path, body in (
        ("/api/stream", b'{"prompt": "x"}'),
        ("/v1/messages", b'{"model":"m","max_tokens":1,"messages":[]}'),
    ):
        reader = await Reader.connect(service.url)
        raw = reader.request(body, path=path, headers=headers)
        await reader.send(re.sub(rb"Host: [^\r]*", b"Host: rebound.example:8080", raw))
        assert (await reader.head() == 403) is (status == 403)
        if status == 403:
            assert b"permission_error" in await reader.rest()
        reader.leave()
    assert bool(simulator.books) is (status == 200)
