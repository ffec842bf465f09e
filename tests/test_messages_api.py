"""`/v1` as Anthropic's Python SDK sees it, unchanged but for its base URL: the same objects as straight from Claude."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import pytest
from aiohttp import web
from anthropic.types import MessageParam
from pydantic import BaseModel

from app.settings import Settings
from app.tools.scenario import HTTP_FAULTS
from app.tools.simulator import Simulator
from app.web.server import Credentials, Running, running

from .conftest import Serve, transcript_names
from .readers import Reader, eventually

KEY = "the-caller's-own-key"
MODEL = "claude-opus-4-8"
TRANSCRIPTS = transcript_names()


@asynccontextmanager
async def sdk(url: str, **options: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0, **options) as client:
        yield client


def asking(directive: str) -> list[MessageParam]:
    return [{"role": "user", "content": f"Go. {{{{{directive}}}}}"}]


async def raw_events(client: anthropic.AsyncAnthropic, directive: str) -> list[dict[str, Any]]:
    stream = await client.messages.create(model=MODEL, max_tokens=9999, messages=asking(directive), stream=True)
    return [event.model_dump(mode="json", warnings=False) async for event in stream]


async def final(client: anthropic.AsyncAnthropic, directive: str) -> dict[str, Any]:
    async with client.messages.stream(model=MODEL, max_tokens=9999, messages=asking(directive)) as stream:
        return plain(await stream.get_final_message())


async def whole(client: anthropic.AsyncAnthropic, directive: str) -> dict[str, Any]:
    return plain(await client.messages.create(model=MODEL, max_tokens=9999, messages=asking(directive)))


async def helper_events(client: anthropic.AsyncAnthropic, directive: str) -> list[Any]:
    """What the helper tells, with the deltas joined: text, thinking, tool input, citations, signatures, blocks."""
    told: list[Any] = []
    async with client.messages.stream(model=MODEL, max_tokens=9999, messages=asking(directive)) as stream:
        async for event in stream:
            match event.type:
                case "text" | "thinking" | "input_json":
                    piece = getattr(event, "partial_json" if event.type == "input_json" else event.type)
                    if told and told[-1][0] == event.type:
                        told[-1] = (event.type, told[-1][1] + piece)
                    else:
                        told.append((event.type, piece))
                case "content_block_delta":
                    continue
                case _:
                    told.append((event.type, plain(event)))
    return told


def plain(model: BaseModel) -> dict[str, Any]:
    data: dict[str, Any] = model.model_dump(mode="json", warnings=False)
    return data


def without_numbers(told: Any) -> Any:
    """The same without the requests' own numbers, which differ between two requests."""
    if isinstance(told, dict):
        return {name: without_numbers(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return type(told)(map(without_numbers, told))
    return re.sub(r"req_sim_\d+", "req_sim", told) if isinstance(told, str) else told


def joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The raw events with neighbouring deltas of one block and kind joined."""
    made: list[dict[str, Any]] = []
    for event in events:
        delta = event.get("delta", {})
        field = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}.get(
            delta.get("type")
        )
        last = made[-1] if made else {}
        if field and last.get("index") == event["index"] and last.get("delta", {}).get("type") == delta["type"]:
            last["delta"][field] += delta[field]
        else:
            made.append(event)
    return made


async def outcome(of: Awaitable[Any]) -> Any:
    """What came of it, so that two ways can be compared: the value, or what was raised."""
    try:
        return await of
    except anthropic.APIStatusError as error:
        return type(error), error.status_code, error.type, error.error_code, error.api_message, error.body
    except Exception as error:
        return type(error)


Ask = Callable[[anthropic.AsyncAnthropic, str], Awaitable[Any]]


async def both(ask: Ask, directive: str, service: Running, simulator: Simulator) -> tuple[Any, Any]:
    """What the SDK makes of it straight from the simulator, and through the service."""
    async with sdk(simulator.url) as direct, sdk(service.url) as through:
        straight = await outcome(ask(direct, directive))
        simulator.reset()
        return without_numbers(straight), without_numbers(await outcome(ask(through, directive)))


@pytest.fixture
async def once(serve: Serve) -> Running:
    """The service without retries of its own, so that each fault is met once."""
    return await serve(retries=0)


# --- recorded answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSCRIPTS)
async def test_the_events_of_a_stream_are_the_same(name: str, service: Running, simulator: Simulator) -> None:
    straight, through = await both(raw_events, f"transcript={name} chunking=random", service, simulator)

    assert joined(through) == joined(straight)


@pytest.mark.parametrize("name", TRANSCRIPTS)
@pytest.mark.parametrize("ask", [final, helper_events, whole])
async def test_helpers_and_whole_messages_give_the_same_objects(
    name: str, ask: Ask, service: Running, simulator: Simulator
) -> None:
    straight, through = await both(ask, f"transcript={name}", service, simulator)

    assert through == straight


@pytest.mark.parametrize("window_s", [0.0, 0.02, 0.5])
async def test_thinking_text_and_a_tool_call_in_every_window(
    window_s: float, serve: Serve, simulator: Simulator
) -> None:
    service = await serve(window_s=window_s)
    directive = "tokens=60 thinking=40 tool=30 rate=600 tokens_per_delta=1-4 newline=crlf comment pings_s=0.02"
    straight, through = await both(final, directive, service, simulator)

    assert through == straight
    assert [block["type"] for block in through["content"]] == ["thinking", "text", "tool_use"]


async def test_a_quarter_of_the_frames_is_enough_at_50_tokens_a_second(service: Running, simulator: Simulator) -> None:
    straight, through = await both(raw_events, "tokens=100 rate=50", service, simulator)

    def deltas(events: list[dict[str, Any]]) -> int:
        return sum(event["type"] == "content_block_delta" for event in events)

    assert deltas(straight) == 100
    assert deltas(through) <= 25


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", sorted(HTTP_FAULTS))
@pytest.mark.parametrize("ask", [raw_events, whole])
async def test_an_error_status_is_the_same_error(fault: str, ask: Ask, once: Running, simulator: Simulator) -> None:
    straight, through = await both(ask, f"fault={fault}", once, simulator)

    assert through == straight
    assert issubclass(through[0], anthropic.APIStatusError)


@pytest.mark.parametrize("directive", ["fault=overloaded after=7", "fault=refuse after=5 tokens=50"])
@pytest.mark.parametrize("ask", [raw_events, final, whole])
async def test_what_claude_says_in_mid_stream_is_said(
    directive: str, ask: Ask, once: Running, simulator: Simulator
) -> None:
    straight, through = await both(ask, directive, once, simulator)

    if ask is raw_events and isinstance(through, list):
        straight, through = joined(straight), joined(through)
    assert through == straight


async def test_an_error_as_the_first_event_gets_its_own_status(once: Running, simulator: Simulator) -> None:
    straight, through = await both(raw_events, "fault=error_first", once, simulator)

    assert straight[:3] == (anthropic.APIStatusError, 200, "overloaded_error")
    assert through[:3] == (anthropic.OverloadedError, 529, "overloaded_error")


@pytest.mark.parametrize(
    ("directive", "code"),
    [
        ("fault=cut after=5", "upstream_cut"),
        ("fault=cut_fin after=5", "upstream_cut"),
        ("fault=no_message_stop after=5", "upstream_cut"),
        ("fault=garbage after=5 rate=100", "upstream_garbled"),
    ],
)
async def test_an_answer_that_breaks_off_is_a_typed_error_where_the_sdk_alone_has_none(
    directive: str, code: str, once: Running, simulator: Simulator
) -> None:
    straight, through = await both(raw_events, directive, once, simulator)

    assert not isinstance(straight, tuple), "straight from Claude it is a bare transport or JSON error, or no error"
    assert through[:4] == (anthropic.APIStatusError, 200, "api_error", code)


@pytest.mark.parametrize("fault", ["silence", "ping_only"])
async def test_silence_is_a_timeout_error(fault: str, serve: Serve) -> None:
    service = await serve(retries=0, idle_timeout_s=1.2, progress_timeout_s=1.3)
    async with sdk(service.url) as client:
        streamed = await outcome(raw_events(client, f"fault={fault} after=5"))

    assert streamed[:3] == (anthropic.APIStatusError, 200, "timeout_error")


async def test_a_whole_message_that_never_comes_is_a_timeout_error(serve: Serve, simulator: Simulator) -> None:
    service = await serve(progress_timeout_s=0.3)
    async with sdk(service.url) as client:
        error = await outcome(whole(client, "tokens=1 first_event_s=9 ttft_s=9"))

    assert error[:3] == (anthropic.GatewayTimeoutError, 504, "timeout_error")
    book = await simulator.book()
    await book.ended.wait()
    assert book.gone_at is not None


@pytest.mark.parametrize("ask", [raw_events, whole])
async def test_a_web_page_instead_of_an_answer_is_an_error(ask: Ask, once: Running) -> None:
    async with sdk(once.url) as client:
        error = await outcome(ask(client, "fault=html"))

    assert error[:4] == (anthropic.InternalServerError, 502, "api_error", "upstream_garbled")


@pytest.mark.parametrize("ask", [raw_events, whole])
async def test_an_unreachable_claude_is_an_error(ask: Ask) -> None:
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "retries": 0})
    async with (
        running(settings, Credentials(api_key="k", base_url="http://127.0.0.1:9")) as service,
        sdk(service.url) as client,
    ):
        error = await outcome(ask(client, ""))

    assert error[:4] == (anthropic.InternalServerError, 502, "api_error", "upstream_unreachable")


# --- the rest of the API -------------------------------------------------------------------------------------------


async def test_counting_and_models_are_the_same(service: Running, simulator: Simulator) -> None:
    async def count(client: anthropic.AsyncAnthropic, _directive: str) -> Any:
        return plain(await client.messages.count_tokens(model=MODEL, messages=asking("x"), system="Be kind."))

    async def models(client: anthropic.AsyncAnthropic, _directive: str) -> Any:
        return [plain(model) async for model in client.models.list(limit=5)]

    async def model(client: anthropic.AsyncAnthropic, _directive: str) -> Any:
        return plain(await client.models.retrieve(MODEL))

    async def unknown(client: anthropic.AsyncAnthropic, _directive: str) -> Any:
        return await client.models.retrieve("no-such-model")

    for ask in (count, models, model, unknown):
        straight, through = await both(ask, "", service, simulator)
        assert through == straight
        assert straight


async def test_the_beta_side_of_the_sdk_works(service: Running, simulator: Simulator) -> None:
    async def ask(client: anthropic.AsyncAnthropic, directive: str) -> Any:
        asked = {"model": MODEL, "max_tokens": 99, "messages": asking(directive), "betas": ["a-beta"]}
        stream: Any = await client.beta.messages.create(**asked, stream=True)  # type: ignore[call-overload]
        return joined([event.model_dump(mode="json", warnings=False) async for event in stream])

    straight, through = await both(ask, "transcript=text", service, simulator)

    assert through == straight


async def test_headers_that_matter_come_down_with_streams_wholes_and_errors(once: Running) -> None:
    seen = []
    async with sdk(once.url) as client:
        asked = {"model": MODEL, "max_tokens": 9, "messages": asking("tokens=3")}
        async with client.messages.with_streaming_response.create(**asked, stream=True) as response:  # type: ignore[call-overload]
            seen.append(response.headers)
            await response.read()
        seen.append((await client.messages.with_raw_response.create(**asked)).headers)  # type: ignore[call-overload]
        with pytest.raises(anthropic.RateLimitError) as raised:
            await client.messages.create(**asked | {"messages": asking("fault=http_429 retry_after_s=7")})  # type: ignore[call-overload]
        seen.append(raised.value.response.headers)
        with pytest.raises(anthropic.RateLimitError) as raised:
            await client.messages.create(  # type: ignore[call-overload]
                **asked | {"messages": asking("fault=http_429 retry_after_s=7")}, stream=True
            )
        seen.append(raised.value.response.headers)

    for headers in seen:
        assert headers["request-id"].startswith("req_sim_")
        assert headers["anthropic-organization-id"]
        assert headers["anthropic-ratelimit-output-tokens-remaining"] == "399000"
    assert [headers.get("retry-after") for headers in seen] == [None, None, "7", "7"]
    assert raised.value.request_id
    assert raised.value.body["request_id"] == raised.value.request_id  # type: ignore[index]
    assert seen[0]["content-type"] == "text/event-stream"


class Upstream:
    """A Claude that notes what it is asked and answers as the test says."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []

    @asynccontextmanager
    async def behind_the_service(self, body: Any, status: int = 200) -> AsyncIterator[str]:
        async def handle(request: web.Request) -> web.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.requests.append((request.path_qs, headers, await request.json() if request.can_read_body else None))
            return web.json_response(body, status=status, headers={"x-internal": "not for callers"})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            settings = Settings.model_validate({"port": 0, "admin_port": 0, "retries": 0})
            async with running(settings, Credentials(api_key="sk-the-service", base_url=url)) as service:
                yield service.url
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("stream", [True, False])
async def test_what_goes_up_is_the_callers_request_with_the_services_key(stream: bool) -> None:
    details = {"error_code": "enforced_spend_limit_reached", "limit": 3}
    refusal = {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Spent.", "details": details},
        "request_id": "req_9",
        "brand_new": 1,
    }
    upstream = Upstream()
    asked = {"model": "claude-brand-new", "messages": "not a list", "brand_new_field": {"a": [1.5, None]}}
    headers = {
        "Authorization": f"Bearer {KEY}",
        "x-api-key": KEY,
        "Cookie": "session=1",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "one-beta,another-beta",
        "X-Stainless-Lang": "js",
        "X-Stainless-Helper-Method": "stream",
        "User-Agent": "Anthropic/JS 9.9",
    }
    async with (
        upstream.behind_the_service(refusal, 429) as url,
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/messages?beta=true", json=asked | {"stream": stream}, headers=headers) as response,
    ):
        assert response.status == 429
        assert await response.json() == refusal
        assert "x-internal" not in response.headers

    ((path, sent, body),) = upstream.requests
    assert path == "/v1/messages?beta=true"
    assert body == asked | {"stream": stream}
    assert sent["authorization"] == "Bearer sk-the-service"
    assert KEY not in "".join(sent.values())
    assert "cookie" not in sent
    assert sent["anthropic-version"] == "2023-06-01"
    assert sent["anthropic-beta"] == "one-beta,another-beta"
    assert sent["x-stainless-lang"] == "js"
    assert sent["x-stainless-helper-method"] == "stream"
    assert sent["user-agent"] == "Anthropic/JS 9.9"


# --- our own part --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "type"),
    [
        ("POST", "/v1/messages", "{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", "[]", 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", "", 400, "invalid_request_error"),
        ("GET", "/v1/messages", None, 405, "invalid_request_error"),
        ("GET", "/v1/nothing", None, 404, "not_found_error"),
        ("POST", "/v1/messages", json.dumps({"x": "y" * 2000}), 413, "request_too_large"),
    ],
)
async def test_our_own_errors_are_told_in_the_apis_shape(
    method: str, path: str, body: str | None, status: int, type: str, serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(max_body_bytes=1024)
    headers = {"Content-Type": "application/json"}
    async with client.request(method, f"{service.url}{path}", data=body, headers=headers) as response:
        told = await response.json()

    assert response.status == status
    assert told["type"] == "error"
    assert told["error"]["type"] == type
    assert told["error"]["message"]


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_callers_keys_are_taken_in_either_header(header: str, serve: Serve) -> None:
    service = await serve(api_keys=(KEY,))
    auth: dict[str, Any] = {} if header == "authorization" else {"Authorization": anthropic.omit, "X-Api-Key": KEY}
    async with (
        sdk(service.url, default_headers=auth) as client,
        anthropic.AsyncAnthropic(api_key="wrong", base_url=service.url, max_retries=0) as stranger,
    ):
        assert (await final(client, "tokens=2"))["stop_reason"] == "end_turn"
        assert (await whole(client, "tokens=2"))["stop_reason"] == "end_turn"
        for ask in (raw_events, whole):
            assert (await outcome(ask(stranger, "tokens=2")))[:3] == (
                anthropic.AuthenticationError,
                401,
                "authentication_error",
            )
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.models.list()
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.count_tokens(model=MODEL, messages=asking(""))


async def ask_raw(service: Running, directive: str, *, stream: bool) -> Reader:
    reader = await Reader.connect(service.url)
    body = {"model": MODEL, "max_tokens": 99999, "messages": asking(directive), "stream": stream}
    await reader.send(reader.request(json.dumps(body).encode(), path="/v1/messages"))
    return reader


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("directive", ["tokens=9 ttft_s=30", "tokens=9999 rate=50"])
async def test_a_reader_that_leaves_ends_the_answer_at_once(
    stream: bool, directive: str, service: Running, simulator: Simulator
) -> None:
    reader = await ask_raw(service, directive, stream=stream)
    book = await simulator.book()
    if "rate" in directive:
        await eventually(lambda: book.tokens > 2)
    reader.leave()
    await book.ended.wait()

    assert book.gone_at is not None
    assert book.gone_at - reader.left_at <= 0.1
    await eventually(lambda: not service.streams.live)


async def test_nothing_is_sent_before_claudes_own_headers(serve: Serve) -> None:
    service = await serve(commit_s=0.05, heartbeat_s=0.05, retries=0)
    reader = await ask_raw(service, "ttft_s=0.4 fault=http_529", stream=True)

    assert await reader.head() == 529
    reader.leave()


async def test_silence_in_a_stream_is_filled_with_pings(serve: Serve) -> None:
    service = await serve(heartbeat_s=0.1)
    reader = await ask_raw(service, "tokens=2 rate=2 text=numbered", stream=True)
    assert await reader.head() == 200
    body = await reader.rest()
    reader.leave()

    first, last = body.index(b"token0001"), body.index(b"token0002")
    assert 3 <= body[first:last].count(b'event: ping\ndata: {"type": "ping"}\n\n') <= 5
    assert b": keep-alive" not in body


@pytest.mark.parametrize(
    ("directive", "labels"),
    [
        ("tokens=50", 'outcome="completed",phase="done"'),
        ("fault=http_529", 'outcome="upstream_error",phase="before_first_event"'),
        ("fault=html", 'outcome="upstream_error",phase="before_first_event"'),
    ],
)
async def test_a_whole_message_is_in_the_ledger(
    directive: str, labels: str, service: Running, client: aiohttp.ClientSession
) -> None:
    async with sdk(service.url) as caller:
        told = await outcome(whole(caller, directive))
    async with client.get(f"{service.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()

    generated = told["usage"]["output_tokens"] if isinstance(told, dict) else 0
    assert f'sluiceway_streams_total{{model="{MODEL}",{labels}}} 1.0' in sorted_labels(lines)
    assert f'sluiceway_output_tokens_total{{basis="exact",model="{MODEL}"}} {generated:.1f}' in sorted_labels(lines)


def sorted_labels(lines: list[str]) -> list[str]:
    """The series with their labels in the alphabet's order, but the model first among three."""
    made = []
    for line in lines:
        name, _, rest = line.partition("{")
        labels, _, value = rest.partition("}")
        parts = sorted(labels.split(","))
        parts.sort(key=lambda part: not part.startswith("model=") if len(parts) == 3 else 0)
        made.append(f"{name}{{{','.join(parts)}}}{value}")
    return made


async def test_a_shutdown_ends_a_whole_message_that_does_not_come(serve: Serve, simulator: Simulator) -> None:
    service = await serve(drain_s=0.1)
    async with sdk(service.url) as client:
        waiting = asyncio.create_task(outcome(whole(client, "tokens=9 ttft_s=30")))
        await simulator.book()
        await service.drain()
        error = await waiting

    assert error[:4] == (anthropic.ServiceUnavailableError, 503, "api_error", "shutdown")


async def test_a_shutdown_waits_for_a_whole_message(serve: Serve, simulator: Simulator) -> None:
    service = await serve(drain_s=20.0)
    async with sdk(service.url) as client:
        waiting = asyncio.create_task(whole(client, "tokens=9 ttft_s=0.3"))
        await simulator.book()
        await service.drain()

    assert (await waiting)["stop_reason"] == "end_turn"


# --- other sites' pages --------------------------------------------------------------------------------------------

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


async def test_the_sdk_over_its_own_transport_too(service: Running) -> None:
    async with sdk(service.url, http_client=anthropic.DefaultAioHttpClient()) as client:
        message = await final(client, "tokens=40 text=numbered chunking=random")

    assert message["content"][0]["text"].endswith("token0040")
