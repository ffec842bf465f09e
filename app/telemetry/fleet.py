"""The Prometheus names of a fleet: on the registry only where there is one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_REDIS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)


class FleetMetrics:
    """What this process tells of the fleet.

    Args:
        registry: where they live.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._away = Gauge(
            "sluiceway_fleet_redis_away",
            "1 while the fleet's Redis cannot be reached, or refuses limits, budgets or a process.",
            registry=registry,
        )
        self._took = Histogram(
            "sluiceway_fleet_redis_seconds", "How long Redis took to answer.", buckets=_REDIS_S, registry=registry
        )
        self._lag = Gauge(
            "sluiceway_fleet_mirror_lag_seconds",
            "For how long frames of resumable streams have waited to be written to Redis.",
            registry=registry,
        )
        self._lost = Counter(
            "sluiceway_fleet_redis_lost_frames", "Frames that had been in Redis and were gone.", registry=registry
        )
        self._healed = Counter(
            "sluiceway_fleet_redis_healed_frames", "Those of them that were written again.", registry=registry
        )
        self._refused = Counter(
            "sluiceway_fleet_redis_refused", "Writes that Redis refused: most likely it is full.", registry=registry
        )
        self._relayed = Gauge(
            "sluiceway_fleet_relayed_readers", "Readers whose stream another process has.", registry=registry
        )
        self._copied = Gauge("sluiceway_fleet_copied_readers", "Readers that are served from Redis.", registry=registry)
        self._lost_workers = Counter(
            "sluiceway_fleet_lost_streams", "Streams of dead processes that this one has ended.", registry=registry
        )
        self._away.set(1)

    def redis_away(self, away: bool) -> None:
        """Redis went away or began to refuse, or neither any more."""
        self._away.set(away)

    def redis_took(self, seconds: float) -> None:
        """Redis answered after so long."""
        self._took.observe(seconds)

    def mirrored(self, lag_s: float, lost: int, healed: int) -> None:
        """A round of the mirror is over."""
        self._lag.set(lag_s)
        self._lost.inc(lost)
        self._healed.inc(healed)

    def mirror_refused(self) -> None:
        """Redis refused a write."""
        self._refused.inc()

    def relayed(self, change: int) -> None:
        """A reader begins (+1) or ends (-1) to be served by another process through this one."""
        self._relayed.inc(change)

    def copied(self, change: int) -> None:
        """A reader begins (+1) or ends (-1) to be served from Redis."""
        self._copied.inc(change)

    def owner_lost(self) -> None:
        """A stream of a dead process was ended."""
        self._lost_workers.inc()
