"""A process that has served many streams is no larger than one that has served some."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from app.tools.load import new_event_loop
from app.tools.load.plan import Plan
from app.tools.load.run import run
from tests.bench.measures import question
from tests.bench.processes import TLS, Contender, Upstream, service, upstream

TOKENS = 40
AT_ONCE = 50
# Streams served: at first the allocators' pools grow, to where they stay from some 4,000 on (58.2 MB after 1,000, 60.1 after
# 2,000, 61.2 after 4,000, 61.3 after 10,000, with no more objects in them than after the first); then ten thousand more.
BEFORE, AFTER = 4_000, 14_000
# What an allocator wobbles by. A kilobyte kept of each stream would be 8 MB, some 15 %.
GROWN_WITHIN = 1.03
LOOKS, BETWEEN_S = 12, 0.25

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture
def above() -> Iterator[Upstream]:
    with upstream() as running:
        running.set(tokens=TOKENS, rate=0.0)
        yield running


@pytest.fixture
def ours(above: Upstream) -> Iterator[Contender]:
    with service(above, TLS) as running:
        yield running


def serve(contender: Contender, streams: int) -> None:
    """So many answers, some at a time."""
    target, asked = question(contender)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        for _ in range(streams // AT_ONCE):
            found = runner.run(run(Plan(AT_ONCE, 0.0), target, asked, where=contender.url, timeout_s=120))
            assert found.figures.errors == 0, found.figures.ends


def least_bytes(contender: Contender) -> int:
    """The least it holds within some seconds: what is being taken down does not count."""
    found = []
    for _ in range(LOOKS):
        found.append(contender.memory_bytes())
        time.sleep(BETWEEN_S)
    return min(found)


def test_ten_thousand_streams_leave_nothing_behind(ours: Contender, above: Upstream) -> None:
    serve(ours, BEFORE)
    before = least_bytes(ours)
    serve(ours, AFTER - BEFORE)
    after = least_bytes(ours)
    print(f"memory after {BEFORE:,} streams {before / 2**20:.1f} MB, after {AFTER:,} {after / 2**20:.1f} MB")
    assert above.books()["done"] == AFTER
    assert after <= before * GROWN_WITHIN
