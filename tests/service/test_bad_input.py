"""Requests that cannot be served: a clear JSON error that names field and bound, and nothing started upstream."""

from __future__ import annotations

import io
import json
from typing import Any

import aiohttp
import pytest

from app.settings import Settings
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader

JSON = "application/json"
HELLO = json.dumps({"prompt": "hello"}).encode()
MESSAGE = {"role": "user", "content": "hello"}


async def post(
    client: aiohttp.ClientSession, service: Running, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": JSON} if headers is None else headers
    skip = ["Content-Type"] if "Content-Type" not in headers else []
    url = f"{service.url}/api/stream"
    async with client.post(url, data=body, headers=headers, skip_auto_headers=skip) as response:
        if response.status == 200:
            return 200, {}
        assert response.content_type == JSON
        assert response.headers["Cache-Control"] == "no-store"
        return response.status, await response.json()


BODIES: list[tuple[str, object, str | None, list[str]]] = [
    ("not JSON", b"{prompt: 1}", None, ["not JSON"]),
    ("cut JSON", b'{"prompt": "hel', None, ["not JSON"]),
    ("not UTF-8", b'{"prompt": "\xff\xfe"}', None, ["not JSON"]),
    ("empty", b"", None, ["empty"]),
    ("a list", [1, 2], None, ["object"]),
    ("a string", "hello", None, ["object"]),
    ("null", None, None, ["object"]),
    ("nested without end", b'{"prompt":' + b"[" * 100_000, None, ["deep"]),
    ("no prompt", {}, "prompt", ["prompt", "messages"]),
    ("null prompt", {"prompt": None}, "prompt", ["prompt"]),
    ("blank prompt", {"prompt": "  \n"}, "prompt", ["blank"]),
    ("prompt of a wrong type", {"prompt": 5}, "prompt", ["string"]),
    ("both", {"prompt": "a", "messages": [MESSAGE]}, "prompt", ["exclude"]),
    ("messages of a wrong type", {"messages": "hello"}, "messages", ["list"]),
    ("no message", {"messages": []}, "messages", ["at least one"]),
    ("message of a wrong type", {"messages": [MESSAGE, 5]}, "messages[1]", ["role"]),
    ("unknown role", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0]", ["role"]),
    ("no content", {"messages": [{"role": "user"}]}, "messages[0].content", ["string"]),
    ("max_tokens 0", {"prompt": "a", "max_tokens": 0}, "max_tokens", ["1", "128000", "0"]),
    ("max_tokens negative", {"prompt": "a", "max_tokens": -1}, "max_tokens", ["1", "128000"]),
    ("max_tokens too high", {"prompt": "a", "max_tokens": 128_001}, "max_tokens", ["128000", "128001"]),
    ("max_tokens huge", {"prompt": "a", "max_tokens": 10**30}, "max_tokens", ["128000"]),
    ("max_tokens a string", {"prompt": "a", "max_tokens": "10"}, "max_tokens", ["whole number"]),
    ("max_tokens a fraction", {"prompt": "a", "max_tokens": 1.5}, "max_tokens", ["whole number"]),
    ("max_tokens true", {"prompt": "a", "max_tokens": True}, "max_tokens", ["whole number"]),
    ("max_tokens null", {"prompt": "a", "max_tokens": None}, "max_tokens", ["whole number"]),
    ("model of a wrong type", {"prompt": "a", "model": 4}, "model", ["string"]),
    ("empty model", {"prompt": "a", "model": ""}, "model", ["1 to 200"]),
    ("long model", {"prompt": "a", "model": "m" * 201}, "model", ["1 to 200"]),
    ("misspelt", {"promt": "a"}, "promt", ["did you mean prompt"]),
    ("misspelt, of ours", {"prompt": "a", "resumabel": True}, "resumabel", ["did you mean resumable"]),
    (
        "max_tokens of 400 digits",
        b'{"prompt": "a", "max_tokens": ' + b"9" * 400 + b"}",
        "max_tokens",
        ["128000", "400 digits"],
    ),
    ("stream", {"prompt": "a", "stream": False}, "stream", ["always streams"]),
    ("system of a wrong type", {"prompt": "a", "system": 5}, "system", ["string"]),
    ("thinking of a wrong type", {"prompt": "a", "thinking": True}, "thinking", ["object"]),
    ("tools of a wrong type", {"prompt": "a", "tools": {}}, "tools", ["list"]),
]


@pytest.mark.parametrize(("body", "field", "words"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
async def test_a_bad_body_is_named(
    body: object,
    field: str | None,
    words: list[str],
    service: Running,
    client: aiohttp.ClientSession,
    simulator: Simulator,
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, error = await post(client, service, raw)

    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert error["retryable"] is False
    assert error.get("field") == field
    assert not [word for word in words if word not in error["error"]], error["error"]
    assert len(error["error"]) < 400
    assert not simulator.books
    assert not service.streams.live


@pytest.mark.parametrize("chunked", [False, True])
async def test_ten_megabytes_are_refused_by_their_bound(
    chunked: bool, service: Running, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    body = json.dumps({"prompt": "x" * 10_000_000}).encode()

    async def pieces() -> Any:
        for at in range(0, len(body), 65536):
            yield body[at : at + 65536]

    headers = {"Content-Type": JSON}
    data = pieces() if chunked else io.BytesIO(body)
    async with client.post(f"{service.url}/api/stream", data=data, headers=headers) as response:
        error = await response.json()

    assert response.status == 413
    assert error["type"] == "request_too_large"
    assert "max_body_bytes" in error["error"]
    assert str(Settings.model_validate({}).bodies.max_body_bytes) in error["error"]
    assert not simulator.books


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_a_wrong_method_is_told_the_right_one(
    method: str, service: Running, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    async with client.request(method, f"{service.url}/api/stream") as response:
        assert response.status == 405
        assert "POST" in response.headers["Allow"]
        if method != "HEAD":
            assert (await response.json())["error"]
    assert not simulator.books


@pytest.mark.parametrize("path", ["/api/streams", "/api", "/nothing", "/metrics", "/streams", "/api/stream/"])
async def test_an_unknown_path_is_404_in_json(path: str, service: Running, client: aiohttp.ClientSession) -> None:
    async with client.post(f"{service.url}{path}", data=HELLO) as response:
        assert response.status in (404, 405)
        assert (await response.json())["error"]


SITES: list[tuple[str, dict[str, str], int]] = [
    ("JSON", {"Content-Type": JSON}, 200),
    ("JSON with a charset", {"Content-Type": "application/json; charset=utf-8"}, 200),
    ("JSON of a kind", {"Content-Type": "application/vnd.api+json"}, 200),
    ("JSON from another site, which a browser would ask about first", {"Content-Type": JSON, "Sec-Fetch-Site": "cross-site"}, 200),
    ("nothing said, no browser", {}, 200),
    ("nothing said, our page", {"Sec-Fetch-Site": "same-origin"}, 200),
    ("text from our page", {"Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Site": "same-origin"}, 200),
    ("text, typed by the user", {"Content-Type": "text/plain", "Sec-Fetch-Site": "none"}, 200),
    ("text from another site", {"Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"}, 403),
    ("text from a sister site", {"Content-Type": "text/plain", "Sec-Fetch-Site": "same-site"}, 403),
    ("nothing said, another site", {"Sec-Fetch-Site": "cross-site"}, 403),
    ("nothing said, another origin", {"Origin": "https://evil.example"}, 403),
    ("nothing said, an opaque origin", {"Origin": "null"}, 403),
    ("a form", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ("a form of our own page", {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}, 415),
    ("a form with a file", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
    ("XML", {"Content-Type": "application/xml"}, 415),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "status"), [case[1:] for case in SITES], ids=[case[0] for case in SITES])
async def test_only_json_or_our_own_page_may_spend(
    headers: dict[str, str], status: int, service: Running, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    seen, error = await post(client, service, HELLO, headers)

    assert seen == status
    assert bool(error) == (status != 200)
    assert len(simulator.books) == (1 if status == 200 else 0)


async def test_our_own_page_is_known_by_its_origin(service: Running, client: aiohttp.ClientSession) -> None:
    status, _ = await post(client, service, HELLO, {"Origin": service.url})

    assert status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic b25l"}, 401),
        ({"x-api-key": "one"}, 200),
        ({"Authorization": "Bearer two"}, 200),
        ({"Authorization": "bearer two"}, 200),
    ],
)
async def test_callers_keys_are_demanded_where_there_are_any(
    headers: dict[str, str], status: int, serve: Serve, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    service = await serve(api_keys=("one", "two"))
    seen, error = await post(client, service, HELLO, {"Content-Type": JSON} | headers)

    assert seen == status
    assert error.get("type", "authentication_error") == "authentication_error"
    assert len(simulator.books) == (1 if status == 200 else 0)


async def test_no_key_is_needed_to_be_told_so_before_the_body_is_read(
    serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(api_keys=("one",))
    status, error = await post(client, service, b"{not even JSON")

    assert (status, error["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("cut", [1, 20, 60, 150])
async def test_a_request_that_stops_half_way_starts_nothing(cut: int, service: Running, simulator: Simulator) -> None:
    reader = await Reader.connect(service.url)
    await reader.send(reader.request(HELLO.ljust(200))[:cut])
    reader.leave()

    other = await Reader.connect(service.url)
    await other.send(other.request(b"", method="GET", path="/config.json"))
    assert await other.head() == 200
    other.leave()
    assert not simulator.books
