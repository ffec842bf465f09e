"""The Prometheus names of Sluiceway, nothing else: a contract for dashboards and alerts.

Series that an answer adds at its end come from its ledger `Entry` (`settled`); what is measured as it happens has a
method of its own. Label sets are bounded (a model outside the configured ones is `other`), and no call on the way of
the tokens pays for `labels()`.

`rate()` and `increase()` take a series' first value for where it began: what a series is born with, they never see. So
whatever an alert or a sum is made of exists at zero before it is counted: without a model from the start, with one from
the first stream that asks for it (`began`). The rest, such as who was taken over while thinking, is born when it happens.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

from .. import __version__
from ..answer.outcome import Outcome
from ..answer.tally import Phase
from ..errors import Refusal
from ..money.entry import Entry
from ..money.prices import SPENDING_TYPES, TOKEN_TYPES, Prices, undated

OTHER = "other"
BASES = ("exact", "estimated")

# The Messages API's error types (docs, api/errors), and our own words for what breaks below it.
ERROR_TYPES = (
    "invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error",
    "conflict_error", "request_too_large", "rate_limit_error", "api_error", "timeout_error", "overloaded_error",
    "upstream_unreachable", "upstream_barred", "upstream_cut", "upstream_garbled", OTHER,
)  # fmt: skip

# The outcomes by which a reader leaves, in the order of the dashboard.
LEFT = (Outcome.DISCONNECTED, Outcome.STALLED, Outcome.VANISHED, Outcome.EXPIRED, Outcome.STOPPED)
# What the alerts' ratios are made of: how streams end, and where in the answer they can.
_WATCHED = (
    (Outcome.COMPLETED, Phase.DONE),
    *((outcome, phase) for outcome in (Outcome.UPSTREAM_ERROR, Outcome.INTERNAL_ERROR, *LEFT) for phase in Phase),
    (Outcome.REJECTED, Phase.BEFORE_FIRST_EVENT),
)

# Every bound of a promise or an objective is a bucket, or an alert on it would interpolate: 2.5 s to the first token,
# 0.1 s to the upstream's close.
_FIRST_TOKEN_S = (0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 60)
_UPSTREAM_CLOSE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_GAP_S = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)  # few: the library walks them one by one, every batch
_STALL_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 900)  # readers are looked at twice a second: a shorter one is not seen
_DURATION_S = (0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 160, 320, 640)
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_BATCH_BYTES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
_QUEUE_BYTES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 262144)


class Metrics:
    """Every series, on one registry.

    Args:
        registry: where they live; one a worker, scraped on its own port.
        models: the configured models' ids; they and `other` are the values of the label `model`. An id and its dated
            snapshot are one model. The first is the one that is asked where a request names none.
        simulated: a simulated Claude answers, so that no money here is real.

    It is an `Observer`: what happens to streams is told by the methods of that protocol.

    Attributes:
        streams_active: gauge of sessions, with or without a reader.
        upstreams_active: gauge of open answers of Claude. Above `streams_active` something was orphaned.
        readers_stalled: gauge of readers that are connected and accept nothing.
        saturation: gauge of how full the process is, from 0 to 1.
    """

    def __init__(self, registry: CollectorRegistry, models: Iterable[str], *, simulated: bool = False) -> None:
        # `_created` would add a series to every child and is read by no dashboard here. The switch is the library's.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        self._models = (*dict.fromkeys(undated(model) for model in models if model != OTHER), OTHER)
        self._labels = {model: model for model in self._models}
        self._asked: set[str] = set()  # labels of models that were asked for
        self._prices: Prices | None = None
        self._make_stream_counters()
        self._make_money_counters()
        self._make_flow_series()
        self._make_upstream_series()
        self._make_refusal_series()
        self._simulated.set(simulated)
        self.began(self._models[0])

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sluiceway_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sluiceway_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(f"sluiceway_{name}", text, buckets=tuple(buckets), registry=self._registry)

    def _make_stream_counters(self) -> None:
        self._streams = self._counter(
            "streams", "Streams that ended, by how and where in the answer.", "model", "outcome", "phase"
        )
        self._output = self._counter(
            "output_tokens", "Output tokens generated; exact from usage, or estimated from text.", "model", "basis"
        )
        self._aborted = self._counter(
            "aborted_tokens", "Output tokens generated by streams that were then aborted.", "model", "reason"
        )
        self._wasted = self._counter("wasted_tokens", "Output tokens generated that reached no reader.", "model")
        self._avoided = self._counter(
            "avoided_tokens", "Estimate: tokens not generated because the stream was aborted, as expected.", "model"
        )
        self._avoided_upper = self._counter(
            "avoided_tokens_upper", "Upper bound of the avoided tokens: max_tokens less generated.", "model"
        )
        self._avoided_variance = self._counter(
            "avoided_tokens_variance",
            "Variance of the avoided tokens, in tokens squared: 1.81 times its root is half of a 90 % interval.",
            "model",
        )
        self._unestimated = self._counter(
            "avoided_unestimated_streams", "Aborted streams without enough data to expect what was avoided.", "model"
        )
        self._hidden = self._counter(
            "hidden_thinking_streams", "Streams that ended with an unknown amount of hidden thinking.", "model"
        )
        self._unpriced = self._counter("unpriced_streams", "Streams whose answers have no known price.", "model")
        self._unpriced_tokens = self._counter(
            "unpriced_tokens", "Tokens, of either side, that have no known price: they are in no sum of money.", "model"
        )
        self._unreadable = self._counter(
            "usage_unreadable", "Values of usage that could not be read, and are as if they had not come."
        )

    def _make_money_counters(self) -> None:
        self._spent = self._counter(
            "spent_usd",
            "US dollars spent, by type of token or as a fee, and by how the stream ended, at the price table.",
            "model", "type", "basis", "outcome",
        )  # fmt: skip
        self._left_usd = self._counter(
            "left_usd",
            "US dollars spent, on the prompt too, on streams that their reader left, by how and where in the answer.",
            "outcome", "phase",
        )  # fmt: skip
        for outcome in LEFT:
            for phase in Phase:
                self._left_usd.labels(outcome.value, phase.value)
        self._wasted_usd = self._counter("wasted_usd", "US dollars of output that reached no reader.", "model")
        self._saved_usd = self._counter("saved_usd", "Estimate: US dollars not spent, as expected.", "model")
        self._saved_upper_usd = self._counter("saved_usd_upper", "Upper bound of the US dollars not spent.", "model")
        self._simulated = self._gauge("simulated", "1 where a simulated Claude answers: no money here is real.")
        self._price = self._gauge("price_usd_per_mtok", "Price of a million tokens in US dollars.", "model", "type")

    def _make_flow_series(self) -> None:
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From the request to the first token handed to the reader.", _FIRST_TOKEN_S
        )
        self._upstream_close = self._histogram(
            "disconnect_to_upstream_close_seconds",
            "From noticing that the reader is gone to the upstream's connection closed.",
            _UPSTREAM_CLOSE_S,
        )
        self._batch_gap = self._histogram("batch_gap_seconds", "Between two batches of one stream.", _GAP_S)
        self._batch_bytes = self._histogram("batch_bytes", "Size of a batch as written.", _BATCH_BYTES)
        self._stall = self._histogram("stall_seconds", "How long a reader accepted nothing.", _STALL_S)
        self._duration = self._histogram("stream_duration_seconds", "From open to settled.", _DURATION_S)
        self._queue_peak = self._histogram("queue_peak_bytes", "The fullest the queue of a stream was.", _QUEUE_BYTES)
        self._loop_lag = self._histogram("event_loop_lag_seconds", "How late the event loop ran a timer.", _LAG_S)
        self._paused_s = self._counter("producer_paused_seconds", "Time that producers were held by backpressure.")
        self._pauses = self._counter("producer_pauses", "Times that a producer was held by backpressure.")
        self.streams_active = self._gauge("streams_active", "Sessions, with or without a reader.")
        self.upstreams_active = self._gauge("upstreams_active", "Open answers of Claude.")
        self.saturation = self._gauge(
            "saturation",
            "How full the process is, from 0 to 1: the fullest of its places for streams (of max_streams), the bodies that are "
            "arriving (of max_arriving_bytes) and its event loop's lag (of max_lag_s). At 1 it turns requests away.",
        )
        self.readers_stalled = self._gauge("readers_stalled", "Readers that are connected and accept nothing.")

    def _make_upstream_series(self) -> None:
        self._errors = self._counter(
            "upstream_errors", "Errors of the upstream, before or in an answer, whoever is at fault.", "type"
        )
        self._error_children = {kind: self._errors.labels(kind) for kind in ERROR_TYPES}
        self._retries = self._counter("upstream_retries", "Requests to the upstream that were tried again.")
        info = Info("sluiceway_build", "Version of the service.", registry=self._registry)
        info.info({"version": __version__, "python": platform.python_version()})

    def _make_refusal_series(self) -> None:
        refused = self._counter("refused", "Requests turned away before anything was started for them.", "reason")
        self._refused = {refusal: refused.labels(refusal.value) for refusal in Refusal}

    @property
    def models(self) -> tuple[str, ...]:
        """The values of the label `model`."""
        return self._models

    def model_label(self, model: str) -> str:
        """The label's value for a model: itself without its date if configured, else `other`."""
        return self._labels.get(model) or self._labels.get(undated(model), OTHER)

    def began(self, model: str) -> None:
        """A stream of this model is asked for: what its end may add to is there from now on, at zero."""
        label = self.model_label(model)
        if label in self._asked:
            return
        self._asked.add(label)
        for family in (
            self._wasted, self._avoided, self._avoided_upper, self._avoided_variance, self._unestimated, self._hidden,
            self._unpriced, self._unpriced_tokens, self._wasted_usd, self._saved_usd, self._saved_upper_usd,
        ):  # fmt: skip
            family.labels(label)
        for outcome, phase in _WATCHED:
            self._streams.labels(label, outcome.value, phase.value)
        for basis in BASES:
            self._output.labels(label, basis)
        for outcome in LEFT:
            self._aborted.labels(label, outcome.value)
            self._spent.labels(label, "output", "estimated", outcome.value)
        for outcome in (Outcome.COMPLETED, *LEFT):
            for kind in SPENDING_TYPES:
                self._spent.labels(label, kind, "exact", outcome.value)
        self._show_price(label)

    def settled(self, entry: Entry) -> None:
        """Adds one settled stream; call it once for each entry."""
        self.began(entry.model)
        model = self.model_label(entry.model)
        self._streams.labels(model, entry.outcome.value, entry.phase.value).inc()
        self._output.labels(model, entry.basis).inc(entry.generated)
        self._wasted.labels(model).inc(entry.wasted)
        self._duration.observe(entry.duration_s)
        if entry.aborted:
            self._aborted.labels(model, entry.outcome.value).inc(entry.generated)
            self._avoided.labels(model).inc(entry.avoided.expected)
            self._avoided_upper.labels(model).inc(entry.avoided.upper)
            self._avoided_variance.labels(model).inc(entry.avoided.variance)
            if not entry.avoided.enough:
                self._unestimated.labels(model).inc()
        if entry.hidden_thinking:
            self._hidden.labels(model).inc()
        self._unreadable.inc(entry.unreadable)
        self._unpriced_tokens.labels(model).inc(entry.unpriced_tokens)
        if not entry.priced and (entry.aborted or entry.phase is not Phase.BEFORE_FIRST_EVENT):
            self._unpriced.labels(model).inc()  # without an event nothing came that could be priced
        for kind, basis, usd in entry.spending:
            if usd:
                self._spent.labels(model, kind, basis, entry.outcome.value).inc(usd)
        if entry.outcome in LEFT:
            spent_usd = sum(usd for _, _, usd in entry.spending)
            self._left_usd.labels(entry.outcome.value, entry.phase.value).inc(spent_usd)
        self._wasted_usd.labels(model).inc(entry.wasted_usd)
        self._saved_usd.labels(model).inc(entry.saved_usd)
        self._saved_upper_usd.labels(model).inc(entry.saved_upper_usd)

    def batch(self, gap_s: float | None, size_bytes: int) -> None:
        """A batch was written.

        Args:
            gap_s: seconds since this stream's batch before; None for the first.
            size_bytes: the frame's size as written.
        """
        if gap_s is not None:
            self._batch_gap.observe(gap_s)
        self._batch_bytes.observe(size_bytes)

    def first_token(self, after_s: float) -> None:
        """The first token was handed to the reader `after_s` seconds after the request came."""
        self._first_token.observe(after_s)

    def started(self) -> None:
        """A stream runs."""
        self.streams_active.inc()

    def upstream_opened(self) -> None:
        """A connection to Claude is taken for an answer."""
        self.upstreams_active.inc()

    def upstream_closed(self, after_s: float | None) -> None:
        """It was closed, `after_s` seconds after that was decided, or given back by itself (None)."""
        self.upstreams_active.dec()
        if after_s is not None:
            self._upstream_close.observe(after_s)

    def paused(self, seconds: float) -> None:
        """A producer was held by backpressure for this long, and goes on or ended."""
        self._pauses.inc()
        self._paused_s.inc(seconds)

    def stalled(self, seconds: float) -> None:
        """A reader accepted nothing for this long, and goes on or was given up."""
        self._stall.observe(seconds)

    def stalled_now(self, readers: int) -> None:
        """So many readers are connected and accept nothing."""
        self.readers_stalled.set(readers)

    def ended(self, queue_peak_bytes: int) -> None:
        """A stream runs no more; its queue was never fuller than this."""
        self.streams_active.dec()
        self._queue_peak.observe(queue_peak_bytes)

    def loop_lag(self, seconds: float) -> None:
        """The event loop ran a timer this much too late."""
        self._loop_lag.observe(seconds)

    def upstream_error(self, kind: str) -> None:
        """The upstream failed; a type outside `ERROR_TYPES` counts as `other`."""
        self._error_children.get(kind, self._error_children[OTHER]).inc()

    def refused(self, refusal: Refusal) -> None:
        """A request was turned away, and nothing was started for it."""
        self._refused[refusal].inc()

    def upstream_retry(self) -> None:
        """A request to the upstream is tried again."""
        self._retries.inc()

    def show_prices(self, prices: Prices) -> None:
        """Shows the price of each model that is asked for, from now on, so that the sums can be checked."""
        self._prices = prices
        self._price.clear()
        for model in self._asked:
            self._show_price(model)

    def _show_price(self, model: str) -> None:
        """The model's price, by type; a tier above the first has types of its own, such as `input_above_100000`."""
        price = self._prices.find(model) if self._prices is not None else None
        if price is None:
            return
        bands = [("", price.usd_per_mtok)]
        bands += [(f"_above_{tier.above_prompt_tokens}", tier.usd_per_mtok) for tier in price.tiers]
        for suffix, rate in bands:
            for kind in TOKEN_TYPES:
                self._price.labels(model, kind + suffix).set(getattr(rate, kind))
