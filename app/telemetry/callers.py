"""The Prometheus names that tell callers apart: what each spends and may spend, and how often it is refused or cut.

Callers beyond a number that is set are one, `other`, because each is a dozen series. Budgets are those of all workers, as
each of them last read it: take the largest of a caller's, not their sum.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from ..errors import Refusal

OTHER = "other"
# The label of all callers together, which no caller can be called.
ALL = "*"
# What a caller is refused for, of all that is refused.
CALLER_REFUSALS = (Refusal.RATE, Refusal.PLACES, Refusal.BUDGET, Refusal.BUDGET_HELD, Refusal.BUDGET_AWAY)


class CallerMetrics:
    """Every series of callers, on one registry.

    Args:
        registry: where they live.
        most: how many callers have a name; the first that come.
        names: of those that are known from the start, so that their series are there at zero.
    """

    def __init__(self, registry: CollectorRegistry, most: int = 50, names: Iterable[str] = ()) -> None:
        self._most = most
        self._labels: dict[str, str] = {}
        self._spent = Counter(
            "sluiceway_caller_spent_usd", "US dollars charged to a caller's budgets, or to all callers' (`*`).",
            ("caller",), registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "sluiceway_caller_refused", "Requests refused for a caller's limits or budgets, or for all callers'.",
            ("caller", "reason"), registry=registry,
        )  # fmt: skip
        self._cut = Counter(
            "sluiceway_budget_cuts", "Answers cut because a budget was spent.", ("caller",), registry=registry
        )
        self._limit = Gauge(
            "sluiceway_budget_usd", "A budget, in US dollars a day or a month (UTC).", ("caller", "span"),
            registry=registry,
        )  # fmt: skip
        self._left = Gauge(
            "sluiceway_budget_left_usd", "What is not spent of a budget.", ("caller", "span"), registry=registry
        )
        self._warned = Gauge(
            "sluiceway_budget_warned", "1 from the share of a budget on at which answers warn.", ("caller", "span"),
            registry=registry,
        )  # fmt: skip
        self._unsettled = Counter(
            "sluiceway_budget_unsettled_usd", "US dollars drawn by processes that died, and booked as spent.",
            registry=registry,
        )  # fmt: skip
        self._away = Gauge(
            "sluiceway_budget_state_away", "1 while the file of budgets cannot be used.", registry=registry
        )
        for name in names:
            self._label(name)

    def _label(self, name: str) -> str:
        if not name:
            return ALL
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= self._most:
                return OTHER
            label = self._labels[name] = name
            self._spent.labels(label)
            self._cut.labels(label)
            for refusal in CALLER_REFUSALS:
                self._refused.labels(label, refusal.value)
        return label

    def refused(self, name: str, refusal: Refusal) -> None:
        """A caller was refused."""
        self._refused.labels(self._label(name), refusal.value).inc()

    def cut(self, name: str) -> None:
        """An answer of this caller was cut."""
        self._cut.labels(self._label(name)).inc()

    def spent(self, name: str, usd: float) -> None:
        """A caller's answer has cost so much; of all callers' where there is no name."""
        if usd > 0:
            self._spent.labels(self._label(name)).inc(usd)

    def budget(self, name: str, span: str, limit_usd: float, left_usd: float, *, warned: bool) -> None:
        """How a budget stands. Those of callers without a label of their own are not shown."""
        label = self._label(name)
        if label == OTHER:
            return
        self._limit.labels(label, span).set(limit_usd)
        self._left.labels(label, span).set(left_usd)
        self._warned.labels(label, span).set(warned)

    def unsettled(self, usd: float) -> None:
        """A process died with so much drawn."""
        self._unsettled.inc(usd)

    def away(self, away: bool) -> None:
        """Whether the file of budgets cannot be used."""
        self._away.set(away)
