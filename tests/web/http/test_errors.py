"""Errors become responses; that a reader has left is none."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from app.settings.connections import ConnectionBounds
from app.web.connection import Runner
from app.web.crowd import Crowd
from app.web.http.errors import errors_as_json
from app.web.refusals import Refusals

pytestmark = pytest.mark.real


async def prepares(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    _close(request)
    await response.prepare(request)
    return response


async def writes(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    _close(request)
    await response.write(b"x")
    return response


async def answers_whole(request: web.Request) -> web.StreamResponse:
    _close(request)
    return web.Response(text="x")


async def fails(_request: web.Request) -> web.StreamResponse:
    raise ConnectionRefusedError("another part of the service could not be reached")


def _close(request: web.Request) -> None:
    """As when the reader has closed, and the handler goes on before it is cancelled for that."""
    assert request.transport is not None
    request.transport.close()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application(middlewares=[errors_as_json])
    for handler in (prepares, writes, answers_whole, fails):
        app.router.add_post(f"/{handler.__name__}", handler)
    runner = Runner(app, Refusals(lambda _refusal: None), ConnectionBounds(), Crowd(100))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(("path", "lines"), [("prepares", 1), ("writes", 1), ("answers_whole", 0)])
async def test_a_reader_that_left_before_its_answer_is_a_line_at_most(
    path: str, lines: int, url: str, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(aiohttp.ClientError):
        async with client.post(f"{url}/{path}") as response:
            await response.read()
    told = [record for record in caplog.records if record.name != "aiohttp.access"]
    assert [(record.levelname, record.exc_info) for record in told] == [("INFO", None)] * lines


async def test_a_connection_of_the_services_own_that_fails_is_a_defect(
    url: str, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.post(f"{url}/fails") as response:
        assert (response.status, response.content_type) == (500, "application/json")
    assert "ConnectionRefusedError" in caplog.text
