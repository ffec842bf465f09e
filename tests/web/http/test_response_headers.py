"""Whatever is answered, no browser takes it for a page, frames it, or keeps it, and no library is named.

The playground has a policy of its own.
"""

from __future__ import annotations

import re

import aiohttp
import pytest

from app.web.routes.pages import Pages
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader

KEY = {"x-api-key": "the-callers-own-key"}


def check(headers: dict[str, str]) -> None:
    """`headers` by lower-case names."""
    assert re.fullmatch("sw_[0-9a-f]{24}", headers["x-request-id"])
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"]
    assert headers["server"] == "Sluiceway"


def lowered(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


@pytest.mark.parametrize("headers", [{}, KEY])
async def test_every_route_guards_what_it_answers(
    headers: dict[str, str], serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(api_keys=("the-callers-own-key",))
    pages = {route.path for route in Pages().routes({})}
    for url, app in ((service.url, service.service.app), (service.admin_url, service.service.admin)):
        for route in app.router.routes():
            assert route.resource is not None, "it has a path"
            path = route.resource.canonical.replace("{", "").replace("}", "")
            async with client.request(route.method, url + path, headers=headers) as response:
                check(lowered(response))
                if path not in pages:
                    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                    streams = response.content_type == "text/event-stream"
                    assert response.headers["Cache-Control"] == ("no-cache" if streams else "no-store")


async def test_so_do_errors_that_meet_no_route_and_streams(service: Running, client: aiohttp.ClientSession) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/api/chat", 405), ("GET", "/v1/nothing", 404)):
        async with client.request(method, service.url + path) as response:
            assert response.status == status
            check(lowered(response))
        async with client.request(method, service.admin_url + path) as response:
            assert response.status == 404
            check(lowered(response))
    async with client.post(f"{service.url}/api/stream", json={"prompt": "{{tokens=2}}"}) as response:
        assert response.status == 200
        check(lowered(response))
        assert response.headers["Cache-Control"] == "no-cache", "a proxy that reads no-store may hold it back"


@pytest.mark.parametrize("raw", [b"no HTTP at all\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"])
async def test_so_does_the_answer_to_what_is_no_request(raw: bytes, service: Running) -> None:
    for url in (service.url, service.admin_url):
        reader = await Reader.connect(url)
        await reader.send(raw)
        assert await reader.head() == 400
        check(reader.headers)
        reader.leave()
