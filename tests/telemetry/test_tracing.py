"""Spans: what one says of an answer, by the conventions' names, and what becomes of them where nobody takes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.answer.outcome import Outcome
from app.money.entry import Entry
from app.money.ledger import Ledger
from app.telemetry.ending import Ending
from app.telemetry.trace_parent import TraceParent
from app.telemetry.tracing import Tracing
from tests.support.books import MODEL, PRICES, STOP, end, settled, start, text

CLAUDE = ("api.anthropic.com", 443)
NOW_NS = 1_790_000_000_000_000_000


def span_of(ending: Ending) -> ReadableSpan:
    kept = InMemorySpanExporter()
    tracing = Tracing(kept, CLAUDE, lambda: NOW_NS)
    tracing.ended(ending)
    tracing.close()
    (span,) = kept.get_finished_spans()
    return span


def told(entry: Entry, **more: Any) -> dict[str, Any]:
    return dict(span_of(Ending(entry, **more)).attributes or {})


CACHED: dict[str, Any] = {"input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 30}


def completed(**usage: Any) -> Entry:
    return settled(
        Ledger(PRICES), Outcome.COMPLETED, start(**CACHED, **usage), text(40), end(12, **CACHED, **usage), STOP
    )


def cut(outcome: Outcome = Outcome.DISCONNECTED) -> Entry:
    return settled(Ledger(PRICES), outcome, start(**CACHED), text(400))


def test_a_finished_answer_has_the_conventions_names() -> None:
    span = span_of(
        Ending(completed(), stream_id="st0_x", caller="shop", request_id="sw_1", claude_request_id="req_1",
               message_id="msg_1", max_tokens=500, first_token_s=0.25)
    )  # fmt: skip
    assert (span.name, span.kind, span.status.status_code) == (f"chat {MODEL}", SpanKind.CLIENT, StatusCode.UNSET)
    assert (span.end_time, span.start_time) == (NOW_NS, NOW_NS - 1_000_000_000)
    said = dict(span.attributes or {})
    cost = said.pop("sluiceway.cost.usd")
    assert isinstance(cost, float)
    assert cost > 0
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 500,
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ("end_turn",),
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 60,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.cache_write.input_tokens": 30,
        "gen_ai.usage.output_tokens": 12,
        "server.address": "api.anthropic.com",
        "server.port": 443,
        "sluiceway.stream.id": "st0_x",
        "sluiceway.caller": "shop",
        "sluiceway.request.id": "sw_1",
        "sluiceway.claude.request.id": "req_1",
        "sluiceway.outcome": "completed",
        "sluiceway.phase": "done",
        "sluiceway.reader.pauses": 0,
        "sluiceway.reader.paused_s": 0.0,
        "sluiceway.queue.peak_bytes": 0,
        "sluiceway.tokens.basis": "exact",
        "sluiceway.tokens.wasted": 12,
        "sluiceway.cost.wasted_usd": said["sluiceway.cost.wasted_usd"],
    }


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.aborts])
def test_an_answer_that_was_cut_has_its_usage_its_cost_and_what_was_avoided(outcome: Outcome) -> None:
    said = told(cut(outcome), stream_id="st0_x")
    assert said["gen_ai.response.finish_reasons"] == ("error",)
    assert said["sluiceway.outcome"] == outcome.value
    assert said["gen_ai.usage.input_tokens"] == 60
    assert said["gen_ai.usage.output_tokens"] > 0
    assert said["sluiceway.tokens.basis"] == "estimated"
    assert said["sluiceway.cost.usd"] > 0
    assert said["sluiceway.tokens.avoided.upper"] > 0
    assert "error.type" not in said, "a reader that left is no error"


@pytest.mark.parametrize("outcome", [Outcome.UPSTREAM_ERROR, Outcome.INTERNAL_ERROR, Outcome.REJECTED])
def test_a_failed_answer_is_an_error_with_its_type(outcome: Outcome) -> None:
    span = span_of(Ending(cut(outcome), stream_id="st0_x", error_type="overloaded_error"))
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "overloaded_error"


def test_a_whole_answer_says_that_it_is_no_stream() -> None:
    said = told(completed(), first_token_s=0.1)
    assert said["gen_ai.request.stream"] is False
    assert "sluiceway.stream.id" not in said
    assert "gen_ai.response.time_to_first_chunk" not in said, "nothing of it came before the rest"


def test_thinking_is_told_where_claude_counted_it() -> None:
    said = told(completed(output_tokens_details={"thinking_tokens": 7}))
    assert said["gen_ai.usage.reasoning.output_tokens"] == 7


@pytest.mark.parametrize(("upstream", "word"), [("bedrock", "aws.bedrock"), ("vertex", "gcp.vertex_ai"), ("x", "x")])
def test_the_provider_has_the_conventions_word(upstream: str, word: str) -> None:
    entry = settled(Ledger(PRICES), Outcome.COMPLETED, start(), end(1), STOP, upstream=upstream)
    assert told(entry)["gen_ai.provider.name"] == word


def test_an_unpriced_answer_has_no_cost_and_no_null() -> None:
    entry = settled(Ledger(PRICES), Outcome.COMPLETED, start("who-knows"), end(1), STOP, model="who-knows")
    said = told(entry)
    assert not any("usd" in name for name in said)
    assert None not in said.values()


def test_the_span_is_a_child_of_the_callers_own() -> None:
    parent = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    span = span_of(Ending(completed(), parent=parent))
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == parent.trace_id
    assert (f"{span.parent.span_id:016x}", span.parent.is_remote) == (parent.span_id, True)
    assert span_of(Ending(completed())).parent is None


def test_a_model_of_any_length_makes_no_long_name() -> None:
    entry = settled(Ledger(PRICES), Outcome.COMPLETED, start(), end(1), STOP, model="m" * 100_000)
    span = span_of(Ending(entry))
    assert len(span.name) <= 210
    assert len(str((span.attributes or {})["gen_ai.request.model"])) <= 200


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert span_of(Ending(completed())).resource.attributes["service.name"] == "sluiceway"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front-door")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=blue")
    resource = span_of(Ending(completed())).resource.attributes
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("front-door", "blue")


class Away(SpanExporter):
    """A collector that takes nothing, and an exporter that says so each time with a key in its words."""

    def __init__(self) -> None:
        self.tried = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.tried += 1
        logging.getLogger(__name__).error("Failed: %s", ValueError("the header is 'Bearer sk-secret'"))
        return SpanExportResult.FAILURE


def test_spans_that_nobody_takes_are_said_once_without_what_the_exporter_would_say(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Away()
    tracing = Tracing(away, CLAUDE, lambda: NOW_NS)
    for _ in range(2000):
        tracing.ended(Ending(completed()))
    tracing.close()
    (line,) = [line for line in caplog.messages if "spans were lost" in line][-1:]
    assert "(ValueError)" in line
    assert "sk-secret" not in caplog.text
    assert len(caplog.messages) <= 2, "the first that were lost, and the rest at the end"
    assert sum(int(line.split()[0]) for line in caplog.messages) == 2000
    tracing.close()  # again changes nothing
