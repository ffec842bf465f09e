"""What the service serves to browsers, and the gauges of a running stream."""

from __future__ import annotations

import gzip
import re
from typing import Any

import aiohttp
import pytest

from app.tools.simulator.server import Simulator
from app.web.routes.pages import STATIC, trimmed
from app.web.runner import Running
from tests.conftest import Serve


async def test_the_client_is_served_small_with_its_version(client: aiohttp.ClientSession, service: Running) -> None:
    async with client.get(f"{service.url}/client.js", auto_decompress=False) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Cache-Control"] == "no-cache"
        zipped = await response.read()
    assert len(zipped) < 5_000  # as the README says
    assert re.match(rb"// Sluiceway \d+\.\d+\.\d+\n", gzip.decompress(zipped))
    async with client.get(f"{service.url}/client.js", headers={"Accept-Encoding": "identity"}) as response:
        assert await response.read() == gzip.decompress(zipped)


async def test_the_client_has_a_name_of_its_content_that_is_kept_for_ever(
    client: aiohttp.ClientSession, service: Running
) -> None:
    async with client.get(f"{service.url}/config.json") as response:
        path = (await response.json())["client"]
    assert re.fullmatch(r"/client\.[0-9a-f]{12}\.js", path)
    async with client.get(f"{service.url}{path}") as hashed, client.get(f"{service.url}/client.js") as plain:
        assert "immutable" in hashed.headers["Cache-Control"]
        assert await hashed.read() == await plain.read()
        assert plain.headers["Link"] == f"<{path}>; rel=canonical"


@pytest.mark.parametrize("path", ["/", "/client.js", "/client.d.ts", "/playground.js", "/markdown.js", "/style.css"])
async def test_a_page_that_is_known_is_not_sent_again(
    client: aiohttp.ClientSession, service: Running, path: str
) -> None:
    async with client.get(service.url + path) as first:
        assert first.status == 200
        assert "default-src 'self'" in first.headers["Content-Security-Policy"]
        etag = first.headers["ETag"]
    async with client.get(service.url + path, headers={"If-None-Match": etag}) as again:
        assert again.status == 304
        assert await again.read() == b""


async def test_the_playground_comes_with_what_it_has_to_say_of_the_service(
    client: aiohttp.ClientSession, serve: Serve
) -> None:
    for given, shown in (({}, [True, False]), ({"api_keys": ["k" * 20]}, [True, True])):
        async with client.get((await serve(**given)).url) as response:
            page = await response.text()
        hidden = [re.search(f'id="{name}"[^>]* hidden>', page) for name in ("simulated", "key-field")]
        assert [found is None for found in hidden] == shown


def test_what_is_left_out_of_the_client_is_comments_empty_lines_and_indentation() -> None:
    source = (STATIC / "client.js").read_bytes()
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith(b"//")]
    for line, served in zip(lines, trimmed(source).splitlines()[1:], strict=True):
        assert line == served or line.startswith(served + b" // ")
        assert served.count(b'"') % 2 == 0, "a string was cut"


# --- gauges ----------------------------------------------------------------------------------------------------------


async def test_the_gauges_of_a_held_stream_add_up(
    client: aiohttp.ClientSession, service: Running, simulator: Simulator
) -> None:
    body = {"prompt": "{{tokens=64000 text=numbered}}", "credits": True, "model": "claude-opus-4-8"}
    async with client.post(f"{service.url}/api/stream", json=body) as stream:
        book = await simulator.book()
        told: dict[str, Any] = {"paused": False}
        while not told["paused"] or not book.is_blocked.is_set():  # until its queue is full and Claude waits
            async with client.get(f"{service.url}/api/stream/{stream.headers['X-Stream-Id']}/gauges") as response:
                assert response.status == 200
                told = await response.json()
    assert told["basis"] == "estimated"
    assert 0 < told["queue_bytes"] <= told["queue_max_bytes"]
    assert told["queue_items"] > 0
    assert told["generated_tokens"] >= told["delivered_tokens"] >= 0
    assert told["generated_chars"]["text"] > 0
    assert 0 < told["unshown_bytes"] <= told["credit_bytes"] + 4096  # what one batch may be
    assert told["saved_usd"] is None, "no answer has finished yet"
    assert told["cost_usd"] > told["generated_tokens"] * told["output_usd_per_token"] > 0
    # What was not generated of the 64,000 tokens asked for by default, at the price of output.
    assert told["saved_usd_upper"] > 0


async def test_a_model_without_a_price_has_no_dollars(
    client: aiohttp.ClientSession, service: Running, simulator: Simulator
) -> None:
    body = {"prompt": "{{tokens=500 rate=100}}", "model": "claude-unheard-of"}
    async with (
        client.post(f"{service.url}/api/stream", json=body) as stream,
        client.get(f"{service.url}/api/stream/{stream.headers['X-Stream-Id']}/gauges") as response,
    ):
        told = await response.json()
    assert told["cost_usd"] is None
    assert told["saved_usd_upper"] is None
    assert told["output_usd_per_token"] is None


async def test_gauges_are_for_the_caller_whose_stream_it_is(
    client: aiohttp.ClientSession, serve: Serve, simulator: Simulator
) -> None:
    service = await serve(api_keys="one,two")
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    async with client.post(
        f"{service.url}/api/stream", json={"prompt": "{{tokens=500 rate=100}}"}, headers=one
    ) as stream:
        path = f"{service.url}/api/stream/{stream.headers['X-Stream-Id']}/gauges"
        for headers, wanted in ((one, 200), (two, 204), ({}, 401)):
            async with client.get(path, headers=headers) as response:
                assert response.status == wanted
    async with client.get(f"{service.url}/api/stream/st_none/gauges", headers=one) as response:
        assert response.status == 204
