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
from tests.bench.processes import Contender, Upstream, service, upstream

TOKENS, RATE = 2000, 50.0  # as long as it takes for slow readers to hold their producers
STREAMS = 500
MINUTES = 10
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
    with service(above) as running:
        yield running


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
    plan = replace(PRESETS["slow-readers"].plan, streams=STREAMS, duration_s=60)
    fast = plan.kinds().count(Kind.FAST)
    alone = loaded(ours, replace(plan, streams=fast, mix={Kind.FAST: 1}), [])
    beside = loaded(ours, plan, [])
    assert (alone.figures.errors, beside.figures.errors) == (0, 0)
    assert beside.shown[0].happened
    assert gap_p99_s(beside) <= gap_p99_s(alone) * GAP_WITHIN


def test_memory_stays_flat_under_slow_readers(ours: Contender) -> None:
    memory_bytes: list[int] = []
    plan = replace(PRESETS["slow-readers"].plan, streams=STREAMS, duration_s=MINUTES * 60)
    found = loaded(ours, plan, memory_bytes)
    assert found.figures.errors == 0
    assert found.shown[0].happened
    # Without the minute in which everyone comes, and without the readers' end.
    steady = memory_bytes[60 : MINUTES * 60]
    middle = len(steady) // 2
    assert statistics.mean(steady[middle:]) <= statistics.mean(steady[:middle]) * GROWN_WITHIN
