"""The dashboard's row of a fleet: is Redis there, is it behind, who reads through another process, what was lost."""

from __future__ import annotations

from collections.abc import Iterator

from panels import (
    COUNT,
    SECONDS,
    TIMES_PER_SECOND,
    Query,
    gauge,
    lines_panel,
    metric,
    quantiles,
    rate,
    stat_panel,
    total,
)
from rows import Panel


def fleet() -> Iterator[Panel]:
    """Empty where each process is for itself."""
    yield stat_panel(
        "Processes without Redis",
        "Processes that cannot reach the fleet's Redis: their streams go on, and are read on their own machine only.",
        COUNT, f"sum({metric('fleet_redis_away')})", limit=1, span=4, absent="no fleet",
    )  # fmt: skip
    yield lines_panel(
        "How far Redis is behind",
        "For how long frames of resumable streams have waited to be written to Redis: what a process that is killed now "
        "would take with it.", SECONDS,
        [Query(f"max by (instance) ({metric('fleet_mirror_lag_seconds')})", "{{instance}}")], limit=5, span=10,
    )  # fmt: skip
    yield lines_panel(
        "How long Redis took",
        "From a question to its answer; nobody waits longer than `redis_timeout_s`.", SECONDS,
        quantiles("fleet_redis_seconds"), names=("p50", "p95", "p99"), span=10,
    )  # fmt: skip
    yield lines_panel(
        "Readers of other processes' streams",
        "Through this process from the owner itself, or from Redis where that is gone or cannot be reached.", COUNT,
        [Query(gauge("fleet_relayed_readers"), "from the owner"), Query(gauge("fleet_copied_readers"), "from Redis")],
        span=12,
    )  # fmt: skip
    yield lines_panel(
        "Frames that Redis lost, and got again",
        "After a restart, a failover or a flush the owner's memory writes them again; and writes that Redis refused, most "
        "likely because it is full.", TIMES_PER_SECOND,
        [Query(rate("fleet_redis_lost_frames_total"), "lost"), Query(rate("fleet_redis_healed_frames_total"), "healed"),
         Query(rate("fleet_redis_refused_total"), "refused")], span=8,
    )  # fmt: skip
    yield stat_panel(
        "Streams of dead processes",
        "Streams that were ended because the process that had them was gone: their readers were told so, and how far "
        "they got.", COUNT, total("fleet_lost_streams_total"), limit=1, span=4, absent="no fleet",
    )  # fmt: skip
