"""What a place has counted is one sum over all processes that had it, and never falls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.telemetry.inherited import Inherited


class Process:
    """One that counts, with a gauge of what it has and one of how it stands."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.spent = Counter("sluiceway_spent_usd", "Money.", ("model",), registry=self.registry)
        self.active = Gauge("sluiceway_streams_active", "Streams.", registry=self.registry)
        self.saturation = Gauge("sluiceway_saturation", "How full.", registry=self.registry)
        self.gap = Histogram("sluiceway_gap_seconds", "Gaps.", buckets=(1, 2), registry=self.registry)

    @property
    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def value(self, inherited: Inherited, name: str, **labels: str) -> float | None:
        samples = [sample for family in inherited.added_to(self.registry.collect()) for sample in family.samples]
        found = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
        assert len(found) <= 1, "each series is there once"
        return found[0] if found else None


def test_counts_are_added_while_both_live_and_stay_when_the_older_one_is_gone() -> None:
    older, newer, inherited = Process(), Process(), Inherited()
    older.spent.labels("a").inc(5)
    older.active.inc(3)
    older.saturation.set(0.9)
    older.gap.observe(0.5)
    newer.spent.labels("a").inc(1)
    newer.spent.labels("b").inc(1)
    newer.active.inc(2)
    newer.saturation.set(0.1)
    newer.gap.observe(1.5)
    inherited.living("older", older.text)
    assert newer.value(inherited, "sluiceway_spent_usd_total", model="a") == 6
    assert newer.value(inherited, "sluiceway_spent_usd_total", model="b") == 1
    assert newer.value(inherited, "sluiceway_streams_active") == 5
    assert newer.value(inherited, "sluiceway_saturation") == 0.1
    assert newer.value(inherited, "sluiceway_gap_seconds_bucket", le="1.0") == 1
    assert newer.value(inherited, "sluiceway_gap_seconds_bucket", le="2.0") == 2
    assert newer.value(inherited, "sluiceway_gap_seconds_sum") == 2

    older.spent.labels("c").inc(2)
    inherited.gone("older")  # asked in vain: as it was last known
    assert newer.value(inherited, "sluiceway_spent_usd_total", model="a") == 6
    assert newer.value(inherited, "sluiceway_streams_active") == 2
    inherited.gone("older", older.text)  # its last figures, once
    assert newer.value(inherited, "sluiceway_spent_usd_total", model="a") == 6
    assert newer.value(inherited, "sluiceway_spent_usd_total", model="c") == 2
    assert newer.value(inherited, "sluiceway_streams_active") == 2
    older.spent.labels("c").inc(5)
    inherited.gone("older", older.text)  # left behind once more, later
    assert newer.value(inherited, "sluiceway_spent_usd_total", model="c") == 7


def test_an_answer_that_is_read_after_the_last_figures_does_not_take_their_place() -> None:
    older, newer, inherited = Process(), Process(), Inherited()
    older.active.inc(1)
    answer = older.text
    older.spent.labels("a").inc(5)
    inherited.gone("older", older.text)
    inherited.living("older", answer)
    newer.active.inc(2)
    newer.spent.labels("a").inc(1)
    assert newer.value(inherited, "sluiceway_spent_usd_total", model="a") == 6
    assert newer.value(inherited, "sluiceway_streams_active") == 2


def test_who_inherits_no_more_keeps_what_is_gone_and_forgets_what_lives() -> None:
    first, second, third, inherited = Process(), Process(), Process(), Inherited()
    for process in (first, second):
        process.spent.labels("a").inc(2)
        process.active.set(1)
    inherited.living("first", first.text)
    inherited.living("second", second.text)
    inherited.gone("first")
    inherited.forget_living()
    assert third.value(inherited, "sluiceway_spent_usd_total", model="a") == 2
    assert third.value(inherited, "sluiceway_streams_active") == 0


def test_what_another_version_counts_and_this_one_does_not_know_is_left_out() -> None:
    newer, inherited = Process(), Inherited()
    inherited.living("older", "# TYPE old counter\nold_total 5\n# TYPE sluiceway_gap_seconds counter\n")
    assert newer.value(inherited, "old_total") is None
    assert newer.value(inherited, "sluiceway_streams_active") == 0
