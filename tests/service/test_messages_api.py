"""`/v1` as Anthropic's Python SDK sees it, unchanged but for its base URL: the same objects as straight from Claude."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import pytest
from aiohttp import web

from app.settings import Settings
from app.tools.simulator.scenario import HTTP_FAULTS
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.conftest import Serve
from tests.support.answers import NAMES
from tests.support.anthropic_sdk import (
    KEY,
    MODEL,
    Ask,
    asking,
    both,
    final,
    helper_events,
    joined,
    outcome,
    plain,
    raw_events,
    sdk,
    whole,
)


@pytest.fixture
async def once(serve: Serve) -> Running:
    """The service without retries of its own, so that each fault is met once."""
    return await serve(retries=0)


# --- recorded answers ----------------------------------------------------------------------------------------------


async def test_the_events_of_every_stream_are_the_same(service: Running, simulator: Simulator) -> None:
    async def compared(name: str) -> None:
        straight, through = await both(raw_events, f"transcript={name} chunking=random", service, simulator)
        assert joined(through) == joined(straight), name

    await asyncio.gather(*map(compared, NAMES))  # at once, since each rests between its reads


@pytest.mark.parametrize("ask", [final, helper_events, whole])
async def test_helpers_and_whole_messages_give_the_same_objects(
    ask: Ask, service: Running, simulator: Simulator
) -> None:
    for name in NAMES:
        straight, through = await both(ask, f"transcript={name}", service, simulator)
        assert through == straight, name


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
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "retries": 0, "max_lag_s": 60})
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
            return web.json_response(body, status=status, headers={"x-brand-new": "for callers"})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            settings = Settings.model_validate({"port": 0, "admin_port": 0, "retries": 0, "max_lag_s": 60})
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
        "X-Stainless-Raw-Response": "stream",
        "User-Agent": "Anthropic/JS 9.9",
    }
    async with (
        upstream.behind_the_service(refusal, 429) as url,
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/messages?beta=true", json=asked | {"stream": stream}, headers=headers) as response,
    ):
        assert response.status == 429
        assert await response.json() == refusal
        assert response.headers["x-brand-new"] == "for callers"

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
    assert sent.get("x-stainless-raw-response") != "stream", "that one is between our SDK and us"


async def test_the_sdk_over_its_own_transport_too(service: Running) -> None:
    async with sdk(service.url, http_client=anthropic.DefaultAioHttpClient()) as client:
        message = await final(client, "tokens=40 text=numbered chunking=random")

    assert message["content"][0]["text"].endswith("token0040")
