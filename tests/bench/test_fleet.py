"""Crowds at a process that read another one's streams, through it and from Redis: nobody waits longer for a token than the way takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.fleet import crowd, fleet

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

# What comes is sent once a window, and looked for in Redis as often.
WINDOW_S = 0.1


@pytest.mark.parametrize("reached", [True, False], ids=["through", "redis"])
@pytest.mark.parametrize(("readers", "rate", "for_s"), [(1000, 5.0, 20.0), (5000, 0.2, 30.0)])
def test_a_crowd_at_another_process_has_each_token_within_two_windows(
    readers: int, rate: float, for_s: float, reached: bool, tmp_path: Path
) -> None:
    with fleet(tmp_path, rate, reached=reached) as running:
        found = crowd(running, readers, for_s)
    print(found)
    assert (found.reading, found.lost) == (readers, [])
    assert found.connections == 4, "two of each process"
    assert found.gap_s(0.99) <= 1 / rate + 2 * WINDOW_S
