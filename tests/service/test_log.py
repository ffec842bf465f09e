"""What the log says of streams: one line each, found by any of its ids, and no word of what was said."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import pytest

from app.settings import Settings
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.conftest import Serve
from tests.support.readers import Reader, eventually


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.facts for record in log.records if hasattr(record, "facts")]


async def asked(service: Running, client: aiohttp.ClientSession, path: str, directive: str, **headers: str) -> Any:
    message = {"role": "user", "content": f"canary {{{{{directive}}}}}"}
    body: dict[str, Any] = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": [message]}
    if path.startswith("/v1/"):
        body["stream"] = True
    async with client.post(f"{service.url}{path}", json=body, headers=headers) as response:
        await response.read()
        return response.headers


@pytest.mark.parametrize("path", ["/api/stream", "/v1/messages"])
async def test_a_streams_line_has_the_ids_that_its_reader_was_told(
    path: str, serve: Serve, simulator: Simulator, client: aiohttp.ClientSession, log: pytest.LogCaptureFixture
) -> None:
    service = await serve(api_keys=("shop:the-key-of-the-shop",))
    key = {"x-api-key": "the-key-of-the-shop", "x-request-id": "forged"}
    headers = await asked(service, client, path, "tokens=7", **key)
    await eventually(lambda: bool(lines(log)))
    (told,) = lines(log)
    assert told["stream"] == headers["X-Stream-Id"]
    assert told["request_id"] == headers["X-Request-Id"] != "forged"
    assert told["claude_request_id"] == simulator.books[0].id
    assert (told["caller"], told["outcome"], told["tokens"]) == ("shop", "completed", 7)
    assert told["error_type"] is None
    assert told["cost_usd"] > 0
    (message,) = [text for text in log.messages if text.startswith("stream ")]
    assert all(told[name] in message for name in ("stream", "request_id", "claude_request_id", "caller"))
    assert "canary" not in log.text
    assert "the-key-of" not in log.text


@pytest.mark.parametrize(("directive", "outcome"), [("tokens=7", "completed"), ("fault=http_529", "upstream_error")])
async def test_an_answer_that_was_asked_for_whole_has_the_same_line(
    directive: str,
    outcome: str,
    serve: Serve,
    simulator: Simulator,
    client: aiohttp.ClientSession,
    log: pytest.LogCaptureFixture,
) -> None:
    service = await serve(api_keys=("shop:the-key-of-the-shop",), retries=0)
    headers = {"x-api-key": "the-key-of-the-shop", "traceparent": f"00-{'4b' * 16}-{'00f067aa' * 2}-01"}
    message = {"role": "user", "content": f"canary {{{{{directive}}}}}"}
    body = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": [message]}
    async with client.post(f"{service.url}/v1/messages", json=body, headers=headers) as response:
        request_id = response.headers["X-Request-Id"]
    (told,) = lines(log)
    assert (told["stream"], told["caller"], told["outcome"]) == (None, "shop", outcome)
    assert (told["request_id"], told["claude_request_id"]) == (request_id, simulator.books[0].id)
    assert told["trace_id"] == "4b" * 16
    assert (told["tokens"], told["error_type"]) == ((7, None) if outcome == "completed" else (0, "overloaded_error"))
    (message_said,) = [text for text in log.messages if text.startswith("a whole answer ended")]
    assert request_id in message_said
    assert "canary" not in log.text


async def test_the_line_of_a_failed_one_names_the_error_and_of_a_slow_readers_the_pauses(
    serve: Serve, client: aiohttp.ClientSession, log: pytest.LogCaptureFixture
) -> None:
    service = await serve(retries=0)
    await asked(service, client, "/api/stream", "fault=overloaded")
    await eventually(lambda: bool(lines(log)))
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.ask("tokens=60000 text=numbered")
    await reader.head()
    (session,) = service.streams.live.values()
    await eventually(lambda: session.channel.paused)
    reader.leave()
    await eventually(lambda: len(lines(log)) == 2)
    failed, left = lines(log)
    assert failed["error_type"] == "overloaded_error"
    assert failed["claude_request_id"]
    assert (left["outcome"], left["error_type"]) == ("disconnected", None)
    assert left["pauses"] >= 1
    assert left["wasted_tokens"] > 0


async def test_a_claude_that_is_away_is_said_once_however_many_ask(
    client: aiohttp.ClientSession, log: pytest.LogCaptureFixture
) -> None:
    settings = Settings.model_validate(
        {"port": 0, "admin_port": 0, "warm_connections": 0, "retries": 1, "max_lag_s": 60.0}
    )
    away = Credentials(api_key="none", base_url="http://127.0.0.1:1", simulated=True)
    async with running(settings, away) as service:
        await asyncio.gather(*(asked(service, client, "/api/stream", "tokens=1") for _ in range(50)))
        await eventually(lambda: len(lines(log)) == 50)
    said = [record for record in log.records if "Claude failed" in record.getMessage()]
    assert [record.levelname for record in said] == ["INFO", "WARNING"], "of the first try, and of the last"
    assert {told["error_type"] for told in lines(log)} == {"upstream_unreachable"}
