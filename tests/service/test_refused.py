"""Every reader for whom nothing was started leaves a trace: counted once, by its reason, whatever it spoke."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from app.streams.registry import Streams
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader, eventually
from tests.support.scrape import scrape

KEY = "sk-caller"
MESSAGES = [{"role": "user", "content": "hello"}]
CHAT = {"id": "c1", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]}

# What starts an answer, on each protocol: a name, the path, the body.
QUESTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("plain", "/api/stream", {"prompt": "hello"}),
    ("messages, streamed", "/v1/messages", {"model": "m", "max_tokens": 9, "messages": MESSAGES, "stream": True}),
    ("messages, whole", "/v1/messages", {"model": "m", "max_tokens": 9, "messages": MESSAGES}),
    ("chat", "/api/chat", CHAT),
]
COUNTED = ("count_tokens", "/v1/messages/count_tokens", {"model": "m", "messages": MESSAGES})
JSON = "application/json"

Ask = Callable[..., Awaitable[int]]


@pytest.fixture
def ask(client: aiohttp.ClientSession) -> Ask:
    """Sends one request and reads all of its answer; gives the status."""

    async def send(service: Running, path: str, body: Any = None, *, method: str = "POST", **headers: str) -> int:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes | None):
            sent: dict[str, Any] = {"data": body}
        else:
            sent = {"json": body}
        async with client.request(method, f"{service.url}{path}", headers=given, **sent) as response:
            await response.read()
            return response.status

    return send


async def refused(service: Running) -> dict[str, float]:
    return (await scrape(service)).by("refused_total", "reason")


@pytest.mark.parametrize(("path", "body"), [case[1:] for case in (*QUESTIONS, COUNTED)])
async def test_what_is_wrong_with_a_question_is_counted_on_each_protocol(
    path: str, body: dict[str, Any], serve: Serve, ask: Ask, simulator: Simulator
) -> None:
    service = await serve(api_keys=(KEY,), max_body_bytes=1024, max_messages_bytes=1024)
    told = [
        await ask(service, path, body),
        await ask(service, path, body, x_api_key="another"),
        await ask(service, path, b"{no", x_api_key=KEY, Content_Type=JSON),
        await ask(service, path, b"a,b", x_api_key=KEY, Content_Type="text/csv"),
        await ask(service, path, b"{}", x_api_key=KEY, Content_Type="text/plain", Sec_Fetch_Site="cross-site"),
        await ask(service, path, body | {"system": "x" * 2000}, x_api_key=KEY),
        await ask(service, path, method="PUT", x_api_key=KEY),
    ]
    assert told == [401, 401, 400, 415, 403, 413, 405]
    assert await refused(service) == {
        "auth": 2, "invalid": 1, "media_type": 1, "forbidden": 1, "too_large": 1, "method": 1,
    }  # fmt: skip
    assert (await scrape(service)).value("streams_total") == 0
    assert not simulator.books


async def test_who_asks_for_what_is_not_here_is_counted(serve: Serve, ask: Ask) -> None:
    service = await serve()
    assert await ask(service, "/nothing", method="GET") == 404
    assert await ask(service, "/api/stream/st0_unknown", method="GET") == 404
    assert await ask(service, "/api/stream/st0_unknown/stop") == 404
    assert await ask(service, "/api/chat/unknown/stop") == 404
    assert await refused(service) == {"not_found": 4}


async def test_an_answer_that_was_not_kept_for_its_reader_is_counted_as_expired(serve: Serve, ask: Ask) -> None:
    service = await serve(replay_bytes=1024, replay_total_bytes=4096)
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=3000 text=numbered", resumable=True)
    await reader.head()
    await reader.rest()
    path = f"/api/stream/{reader.headers['x-stream-id']}"
    assert await ask(service, path, method="GET", Last_Event_ID="1") == 410
    assert await refused(service) == {"expired": 1}
    reader.leave()


@pytest.mark.parametrize(("path", "body"), [case[1:] for case in QUESTIONS])
async def test_a_reader_without_a_place_is_counted_on_each_protocol(
    path: str, body: dict[str, Any], serve: Serve, ask: Ask
) -> None:
    service = await serve(max_streams=1)
    first = await Reader.connect(service.url)
    await first.ask("tokens=60000 rate=50 text=numbered")
    await first.head()
    for _ in range(3):
        assert await ask(service, path, body) == 503
    found = await scrape(service)
    assert found.by("refused_total", "reason") == {"full": 3}
    assert found.value("streams_active") == 1
    assert found.value("streams_total") == 0
    first.leave()


@pytest.mark.parametrize(("path", "body"), [case[1:] for case in QUESTIONS])
async def test_a_late_event_loop_is_a_reason_of_its_own(
    path: str, body: dict[str, Any], serve: Serve, ask: Ask
) -> None:
    service = await serve(max_lag_s=1e-9)
    statuses: Counter[int] = Counter()
    while not statuses[503]:  # the loop is late by more than a nanosecond, as soon as that was measured
        statuses[await ask(service, path, body)] += 1
    assert await refused(service) == {"lag": 1}


@pytest.mark.parametrize(("path", "body"), [case[1:] for case in QUESTIONS])
async def test_a_service_that_goes_down_counts_whom_it_turns_away_and_ends_its_streams_apart(
    path: str, body: dict[str, Any], serve: Serve, ask: Ask
) -> None:
    service = await serve()
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=60000 rate=50 text=numbered ttft_s=60")
    await eventually(lambda: bool(service.streams.live))
    service.streams.accepting = False
    assert await ask(service, path, body) == 503
    assert await refused(service) == {"draining": 1}
    service.streams.patience.hurry()
    await service.streams.drain()
    await eventually(lambda: not service.streams.live)
    found = await scrape(service)
    assert found.by("refused_total", "reason") == {"draining": 1}
    assert found.by("streams_total", "outcome") == {"shutdown": 1}
    reader.leave()


@pytest.mark.parametrize("directive", ["fault=http_400", "fault=http_404", "fault=http_413"])
@pytest.mark.parametrize(("path", "body"), [case[1:] for case in QUESTIONS])
async def test_what_claude_refuses_for_the_requests_sake_is_rejected_and_no_refusal_of_ours(
    path: str, body: dict[str, Any], directive: str, service: Running, ask: Ask, simulator: Simulator
) -> None:
    simulator.defaults = simulator.defaults.with_knobs(dict([directive.split("=")]))
    assert await ask(service, path, body) == int(directive[-3:])
    await eventually(lambda: not service.streams.live)
    found = await scrape(service)
    assert found.by("streams_total", "outcome") == {"rejected": 1}
    assert found.by("refused_total", "reason") == {}


@pytest.mark.parametrize("status", [401, 403, 429, 529])
async def test_the_operators_key_and_an_overload_are_errors(
    status: int, serve: Serve, ask: Ask, simulator: Simulator
) -> None:
    service = await serve(retries=0)
    simulator.defaults = simulator.defaults.with_knobs({"fault": f"http_{status}"})
    for _, path, body in QUESTIONS:
        assert await ask(service, path, body) == status
    await eventually(lambda: not service.streams.live)
    found = await scrape(service)
    assert found.by("streams_total", "outcome") == {"upstream_error": len(QUESTIONS)}
    assert found.by("refused_total", "reason") == {}


async def test_a_defect_where_nothing_was_started_is_counted_and_logged(
    service: Running, ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_given: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Streams, "find", fails)
    assert await ask(service, "/api/stream/st0_x/stop") == 500
    assert await refused(service) == {"failed": 1}
    assert [record.levelno for record in caplog.records if "turned a request away: failed" in record.getMessage()] == [
        logging.WARNING
    ]


async def test_a_defect_within_a_whole_answer_is_its_outcome_and_not_refused_too(
    service: Running, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_given: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("app.web.routes.messages_api.events_of", fails)
    _, path, body = QUESTIONS[2]
    assert await ask(service, path, body) == 500
    found = await scrape(service)
    assert found.by("streams_total", "outcome") == {"internal_error": 1}
    assert found.by("refused_total", "reason") == {}


HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nCookie: session=secret\r\n"
TYPE = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize("path", ["/api/stream", "/v1/messages", "//v1/messages", "/api/chat"])
@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", None),
        (HEAD + b"no colon\r\n\r\n", None),
        (HEAD + b"Content-Length: secret\r\n\r\n", "Content-Length"),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n", "Content-Length"),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        (HEAD + TYPE + TYPE + b"Content-Length: 2\r\n\r\n{}", "Content-Type"),
        (HEAD + b"Host: y\r\n\r\n", "Host"),
        (b"POST %b HTTP/1.1\r\nCookie: secret\r\n\r\n", "Host"),
    ],
    ids=[
        "TLS", "no colon", "no length", "two lengths", "length and chunks", "two types",
        "two hosts", "no host",
    ],
)  # fmt: skip
async def test_what_is_no_http_is_refused_with_a_typed_error_and_nothing_of_it_is_said(
    raw: bytes, field: str | None, path: str, service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reader = await Reader.connect(service.url)
    await reader.send(raw.replace(b"%b", path.encode()))
    assert await reader.head() == 400
    body = await reader.rest()
    reader.leave()
    told = json.loads(body)
    error = told["error"] if "v1" in path and b"%b" in raw else told
    assert error["type"] == "invalid_request_error"
    assert told.get("field") == (field if error is told else None)
    assert (field or "") in str(told)
    assert await refused(service) == {"malformed": 1}
    assert "turned a request away: malformed" in caplog.messages
    assert "secret" not in caplog.text + body.decode()
    assert "Traceback" not in caplog.text


async def test_the_admin_port_refuses_what_is_no_http_alike(service: Running) -> None:
    reader = await Reader.connect(service.admin_url)
    await reader.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
    assert await reader.head() == 400
    assert json.loads(await reader.rest())["field"] == "Host"
    reader.leave()
