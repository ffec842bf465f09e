"""Crowds at a process that read another one's streams, through it and from Redis: all are served, over two connections to Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.fleet import crowd, fleet

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("reached", [True, False], ids=["through", "redis"])
@pytest.mark.parametrize(("readers", "rate", "for_s"), [(1000, 5.0, 20.0), (5000, 0.2, 30.0)])
def test_a_crowd_at_another_process_is_served_whole_over_two_connections(
    readers: int, rate: float, for_s: float, reached: bool, tmp_path: Path
) -> None:
    """How long each waits for a token is told: it says as much of the machine as of the way."""
    with fleet(tmp_path, rate, reached=reached) as running:
        found = crowd(running, readers, for_s)
    print(found)
    assert (found.reading, found.lost) == (readers, [])
    assert found.connections == 4, "two of each process"
