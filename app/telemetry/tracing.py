"""Spans by OpenTelemetry: one an answer, made when it has ended, so that the way of the tokens pays nothing.

Imported only where they are wanted, since it takes the extra `otel`. `gen_ai.…` are the names of OpenTelemetry's semantic
conventions for generative AI, 0.1.0 (open-telemetry/semantic-conventions-genai, `gen-ai-spans.md`), all in
development: they change here alone. What they have no name for is `sluiceway.…`. No span holds a word of what was asked or
answered, and no key: `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from .. import __version__
from ..answer.outcome import Outcome
from ..answer.usage import count
from ..money.entry import Entry
from .ending import Ending
from .sparing import Sparing
from .trace_parent import TraceParent

log = logging.getLogger(__name__)

# What waits for the collector, in spans of some 2 kB: two minutes of 30 answers a second. More is dropped, and said.
_QUEUE_SPANS = 4096
_BATCH_SPANS = 512
_EVERY_MS = 2000
# An attempt to send, and the last one at the exit, in seconds: a collector that is away must not hold up a restart.
_SEND_S = 3.0
# A caller may name any model, of any length.
_NAME_CHARS = 200

# The conventions' own words for who answers.
_PROVIDERS = {"bedrock": "aws.bedrock", "vertex": "gcp.vertex_ai"}
# A failure of the answer. A reader that left is none.
_FAILED = frozenset({Outcome.UPSTREAM_ERROR, Outcome.INTERNAL_ERROR, Outcome.REJECTED})


def attributes(ending: Ending, server: tuple[str, int]) -> dict[str, Any]:
    """What a span says of an answer. Pure.

    Args:
        ending: the answer.
        server: the host and port that Claude was asked at.
    """
    entry = ending.entry
    provider = entry.upstream.lower()
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
        "gen_ai.request.model": entry.model[:_NAME_CHARS],
        "gen_ai.request.stream": bool(ending.stream_id),
        "gen_ai.request.max_tokens": count(ending.max_tokens) or None,
        "gen_ai.response.id": ending.message_id,
        "gen_ai.response.model": entry.served_model,
        # An answer that was cancelled, or ended before its final event, says so by this word.
        "gen_ai.response.finish_reasons": [entry.stop_reason or "unknown" if entry.finished else "error"],
        "gen_ai.response.time_to_first_chunk": ending.first_token_s if ending.stream_id else None,
        "server.address": server[0],
        "server.port": server[1],
        "error.type": ending.error_type,
        "sluiceway.stream.id": ending.stream_id or None,
        "sluiceway.caller": ending.caller or None,
        "sluiceway.request.id": ending.request_id or None,
        "sluiceway.claude.request.id": ending.claude_request_id,
        "sluiceway.outcome": entry.outcome.value,
        "sluiceway.phase": entry.phase.value,
        "sluiceway.reader.pauses": ending.pauses,
        "sluiceway.reader.paused_s": ending.paused_s,
        "sluiceway.queue.peak_bytes": ending.queue_peak_bytes,
        **_usage(entry),
    }
    return {name: value for name, value in told.items() if value is not None}


def _usage(entry: Entry) -> dict[str, Any]:
    """Tokens and money, of answers that were cut too: `sluiceway.tokens.basis` says whether Claude told or they are estimated."""
    fresh, read, written = (
        count(entry.usage.get(name))
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    thinking = entry.usage.get("output_tokens_details")
    return {
        # The conventions count what was read from and written to the cache as input too (note 28).
        "gen_ai.usage.input_tokens": None if fresh is None else fresh + (read or 0) + (written or 0),
        "gen_ai.usage.cache_read.input_tokens": read,
        "gen_ai.usage.cache_write.input_tokens": written,
        "gen_ai.usage.output_tokens": entry.generated,
        "gen_ai.usage.reasoning.output_tokens": count(thinking.get("thinking_tokens"))
        if isinstance(thinking, Mapping)
        else None,
        "sluiceway.tokens.basis": entry.basis,
        "sluiceway.tokens.wasted": entry.wasted,
        "sluiceway.tokens.avoided.expected": entry.avoided.expected if entry.aborted else None,
        "sluiceway.tokens.avoided.upper": entry.avoided.upper if entry.aborted else None,
        "sluiceway.cost.usd": entry.spent_usd.total if entry.priced else None,
        "sluiceway.cost.wasted_usd": entry.wasted_usd if entry.priced else None,
        "sluiceway.cost.saved_usd": entry.saved_usd if entry.priced and entry.aborted else None,
    }


class Tracing:
    """Makes the spans and sends them.

    Args:
        exporter: where they go, such as `to_collector()`.
        server: the host and port that Claude is asked at.
        clock_ns: what time it is, in nanoseconds since 1970.
    """

    def __init__(self, exporter: SpanExporter, server: tuple[str, int], clock_ns: Callable[[], int]) -> None:
        self._server = server
        self._clock_ns = clock_ns
        self._exporter = _Told(exporter, lambda: clock_ns() / 1e9)
        resource = Resource.create({"service.name": "sluiceway", "service.version": __version__})
        # What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say wins over ours.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=_QUEUE_SPANS,
                max_export_batch_size=_BATCH_SPANS,
                schedule_delay_millis=_EVERY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("sluiceway", __version__)

    def ended(self, ending: Ending) -> None:
        """Makes the span of an answer that has just ended; it waits for a thread that sends it."""
        now_ns = self._clock_ns()
        span = self._tracer.start_span(
            f"chat {ending.entry.model[:_NAME_CHARS]}",
            context=None if ending.parent is None else _context(ending.parent),
            kind=SpanKind.CLIENT,
            attributes=attributes(ending, self._server),
            start_time=now_ns - round(ending.entry.duration_s * 1e9),
        )
        if ending.entry.outcome in _FAILED:
            span.set_status(Status(StatusCode.ERROR, ending.error_type))
        span.end(now_ns)

    def close(self) -> None:
        """Sends what waits, if the collector takes it. Blocks for 6 s at most; idempotent."""
        self._exporter.closing = True
        self._provider.shutdown()


def to_collector(url: str) -> SpanExporter:
    """Sends spans to the collector at `url`, by OTLP over HTTP; what `OTEL_EXPORTER_OTLP_…` says of headers and TLS holds."""
    return OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=_SEND_S)


def _context(parent: TraceParent) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED)
    span = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())


class _Told(SpanExporter):  # type: ignore[misc, unused-ignore]  # where the extra is not installed
    """Says once a while that spans are lost and why, in place of the exporter, which says it at every attempt.

    Attributes:
        closing: from the first failure on nothing more is tried.
    """

    def __init__(self, exporter: SpanExporter, clock_s: Callable[[], float]) -> None:
        self._exporter = exporter
        self._clock_s = clock_s
        self._sparing = Sparing()
        self._lost = 0  # spans, since it was said last
        self._away = False
        self._reason = _Reason()
        own = logging.getLogger(type(exporter).__module__)
        own.handlers, own.propagate = [self._reason], False
        self.closing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not (self.closing and self._away):
            self._reason.told = ""
            result = self._exporter.export(spans)
            self._away = result is not SpanExportResult.SUCCESS
            if not self._away:
                return result
        self._lost += len(spans)
        if self.closing or self._sparing.due("lost", self._clock_s()) is not None:
            log.warning(
                "%d spans were lost: the collector at otlp_endpoint did not take them (%s)",
                self._lost,
                self._reason.told,
            )
            self._lost = 0
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Reason(logging.Handler):
    """Keeps the first reason that the exporter names: a status, or an exception's kind, whose text may hold a secret header."""

    told = ""

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args if isinstance(record.args, tuple) else ()
        words = [type(arg).__name__ if isinstance(arg, Exception) else str(arg) for arg in args if arg is not None]
        self.told = self.told or ", ".join(words)[:_NAME_CHARS]
