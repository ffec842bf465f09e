"""Slow readers beside fast ones, for as long as it takes to see that memory does not grow."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.tools.load import new_event_loop
from app.tools.load.findings import Findings
from app.tools.load.plan import Kind, Plan
from app.tools.load.presets import PRESETS
from app.tools.load.run import run
from app.tools.load.subject import Subject
from tests.bench.measures import question
from tests.bench.processes import TLS, Contender, Upstream, service, upstream

# As long as it takes for slow readers to hold their producers: 550 bytes/s come, and what lies between takes in some 14 kB.
TOKENS, RATE = 4000, 50.0
STREAMS = 500
# Half as fast, a reader with a small receive buffer tells its kernel's peer of room once a minute, because on loopback that
# waits for half a buffer: it cannot be told from one that takes nothing for `stall_timeout_s`.
SLOW_BYTES_PER_S = 200
MINUTES = 10
BESIDE_S = 90
GAP_WITHIN = 1.1
# Between the means of two halves of the test: what an allocator wobbles by.
GROWN_WITHIN = 1.03

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture
def above() -> Iterator[Upstream]:
    with upstream() as running:
        running.set(tokens=TOKENS, rate=RATE)
        yield running


@pytest.fixture
def ours(above: Upstream) -> Iterator[Contender]:
    with service(above, TLS) as running:
        yield running


def slow_readers(duration_s: float) -> Plan:
    """The preset's, more of them."""
    plan = PRESETS["slow-readers"].plan
    return replace(plan, streams=STREAMS, duration_s=duration_s, slow_bytes_per_s=SLOW_BYTES_PER_S)


def loaded(contender: Contender, plan: Plan, memory_bytes: list[int]) -> Findings:
    """Runs the plan, and notes the service's memory once a second."""
    target, asked = question(contender)

    def look(*_: Any) -> None:
        memory_bytes.append(contender.memory_bytes())

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(
            run(plan, target, asked, where=contender.url, subject=Subject.HELD, timeout_s=600, progress=look)
        )


def gap_p99_s(found: Findings) -> float:
    assert found.bottleneck == ""
    gap_s = found.fast[1].at(0.99)
    assert gap_s is not None, "there are fast readers"
    return gap_s


def test_fast_readers_do_not_notice_slow_ones(ours: Contender) -> None:
    """The same fast readers, alone and beside as many slow and stalling ones."""
    plan = slow_readers(BESIDE_S)
    fast = plan.kinds().count(Kind.FAST)
    alone = loaded(ours, replace(plan, streams=fast, mix={Kind.FAST: 1}), [])
    beside = loaded(ours, plan, [])
    for found in (alone, beside):
        assert found.figures.errors == 0, found.figures.ends
    assert beside.shown[0].happened, beside.shown[0].sentence
    print(f"gaps of the fast readers, p99: alone {gap_p99_s(alone):.3f} s, beside slow ones {gap_p99_s(beside):.3f} s")
    assert gap_p99_s(beside) <= gap_p99_s(alone) * GAP_WITHIN


def test_memory_stays_flat_under_slow_readers(ours: Contender) -> None:
    memory_bytes: list[int] = []
    found = loaded(ours, slow_readers(MINUTES * 60), memory_bytes)
    assert found.figures.errors == 0, found.figures.ends
    assert found.shown[0].happened, found.shown[0].sentence
    # Without the minute in which everyone comes, and without the readers' end.
    steady = memory_bytes[60 : MINUTES * 60]
    middle = len(steady) // 2
    before, after = (statistics.mean(half) / 2**20 for half in (steady[:middle], steady[middle:]))
    print(f"memory, means of the halves: {before:.1f} MB, {after:.1f} MB")
    assert after <= before * GROWN_WITHIN
