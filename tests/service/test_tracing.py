"""Spans on the wire: a real collector's port is told of each answer, and of no word in it; and nothing where it is off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.conftest import Serve
from tests.support.collector import Collector, collecting
from tests.support.readers import eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as taking:
        yield taking


def told(span: Span) -> dict[str, Any]:
    def value(any_value: Any) -> Any:
        kind = any_value.WhichOneof("value")
        found = getattr(any_value, kind)
        return [value(inner) for inner in found.values] if kind == "array_value" else found

    return {pair.key: value(pair.value) for pair in span.attributes}


def question(directive: str, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"canary {{{{{directive}}}}}"}
    return {"model": "claude-opus-4-8", "max_tokens": 50, "messages": [message], "system": "canary", **more}


async def test_each_answer_is_one_span_at_the_collector_and_none_holds_a_word_of_it(
    serve: Serve, client: aiohttp.ClientSession, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-collector")
    service = await serve(otlp_endpoint=collector.url, api_keys=("shop:canary-key",), retries=0)
    client.headers.update({"x-api-key": "canary-key", "traceparent": f"00-{TRACE}-{PARENT}-00"})
    ids = []
    for path, body in [
        ("/api/stream", question("tokens=7")),
        ("/v1/messages", question("tokens=7", stream=True)),
        ("/v1/messages", question("tokens=7")),
        ("/api/stream", question("fault=overloaded")),
        ("/v1/messages", question("fault=overloaded")),
    ]:
        async with client.post(f"{service.url}{path}", json=body) as response:
            await response.read()
            ids.append(response.headers["X-Request-Id"])
    del client.headers["traceparent"]
    left = await client.post(f"{service.url}/api/stream", json=question("tokens=60000 rate=50"))
    (session,) = service.streams.live.values()
    await eventually(lambda: session.page.first_token_s is not None)
    left.close()
    await eventually(lambda: len(collector.spans) == 6)

    spans = {str(told(span).get("sluiceway.request.id")): span for span in collector.spans}
    plain, streamed, whole, failed, whole_failed = (told(spans.pop(request_id)) for request_id in ids)
    (cut,) = spans.values()
    for said in (plain, streamed, whole):
        assert (said["sluiceway.outcome"], said["gen_ai.usage.output_tokens"], said["sluiceway.caller"]) == (
            "completed",
            7,
            "shop",
        )
        assert said["gen_ai.response.id"].startswith("msg_")
        assert said["sluiceway.claude.request.id"]
    assert [said["gen_ai.request.stream"] for said in (plain, streamed, whole)] == [True, True, False]
    assert failed["error.type"] == whole_failed["error.type"] == "overloaded_error"
    assert told(cut)["sluiceway.outcome"] == "disconnected"
    assert told(cut)["gen_ai.usage.output_tokens"] > 0
    assert told(cut)["sluiceway.cost.usd"] > 0
    assert cut.parent_span_id == b""
    own = [span for span in collector.spans if span is not cut and span.parent_span_id]
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in own} == {(TRACE, PARENT)}
    assert len(own) == 5
    assert all(span.start_time_unix_nano < span.end_time_unix_nano for span in collector.spans)
    assert set(collector.keys) == {"Bearer of-the-collector"}
    assert not any(b"canary" in body or b"sk-ant" in body for body in collector.bodies)


async def test_a_collector_that_is_away_holds_up_nothing_and_is_said_once(
    serve: Serve, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    service = await serve(otlp_endpoint=f"http://127.0.0.1:{unused_tcp_port}")
    for _ in range(3):
        async with client.post(f"{service.url}/api/stream", json=question("tokens=7")) as response:
            assert '"done"' in await response.text()
    await eventually(lambda: any("spans were lost" in line for line in caplog.messages))
    lines = [line for line in caplog.messages if "otlp" in line or "span" in line.lower()]
    assert len(lines) == 1
    assert "ConnectionError" in lines[0]


async def test_where_no_span_is_wanted_nothing_of_it_is_imported() -> None:
    """The extra need not be there, and costs neither memory nor a start's time."""
    script = (
        "import sys, asyncio\n"
        "from app.settings import Settings\n"
        "from app.web.credentials import Credentials\n"
        "from app.web.runner import running\n"
        "async def main():\n"
        "    settings = Settings.model_validate({'port': 0, 'admin_port': 0})\n"
        "    async with running(settings, Credentials('simulated', 'http://127.0.0.1:9', True)):\n"
        "        print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'app.telemetry.tracing'))])\n"
        "asyncio.run(main())\n"
    )
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


async def test_spans_without_the_extra_are_refused_by_name(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.settings import SettingsError

    monkeypatch.delitem(sys.modules, "app.telemetry.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"otlp_endpoint: .*pip install 'sluiceway\[otel\]'"):
        await serve(otlp_endpoint="http://127.0.0.1:4318")
