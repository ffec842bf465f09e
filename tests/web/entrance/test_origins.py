"""Other sites' pages: none may call unless a setting lets them."""

from __future__ import annotations

import aiohttp
import pytest

from app.web.runner import Running
from tests.conftest import Serve
from tests.support.anthropic_sdk import (
    KEY,
    MODEL,
    asking,
)

PREFLIGHT = {
    "Origin": "https://chat.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def test_no_other_site_may_call_by_default(service: Running, client: aiohttp.ClientSession) -> None:
    async with client.options(f"{service.url}/v1/messages", headers=PREFLIGHT) as response:
        assert response.status == 405
        assert not any(name.lower().startswith("access-control") for name in response.headers)


@pytest.mark.parametrize(("allowed", "shown"), [("https://chat.example", "https://chat.example"), ("*", "*")])
async def test_a_site_that_may_call_is_let_in_with_keys_and_sees_the_headers(
    allowed: str, shown: str, serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(cors_origins=("https://other.example", allowed), api_keys=(KEY,))
    async with client.options(f"{service.url}/v1/messages", headers=PREFLIGHT) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == shown
        granted = response.headers["Access-Control-Allow-Headers"].split(", ")
        assert {"authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-lang"} <= set(granted)
    body = {"model": MODEL, "max_tokens": 9, "stream": True, "messages": asking("tokens=2")}
    headers = {"Origin": "https://chat.example", "x-api-key": KEY}
    async with client.post(f"{service.url}/v1/messages", json=body, headers=headers) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == shown
        assert "request-id" in response.headers["Access-Control-Expose-Headers"]
        assert b"message_stop" in await response.read()


async def test_a_site_that_may_not_call_gets_no_leave(serve: Serve, client: aiohttp.ClientSession) -> None:
    service = await serve(cors_origins=("https://chat.example",))
    async with client.options(
        f"{service.url}/v1/messages", headers=PREFLIGHT | {"Origin": "https://evil.example"}
    ) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"
