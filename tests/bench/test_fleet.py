"""Crowds at a process that read another one's streams: all are served in time, over two connections to Redis a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.fleet import crowd, fleet, with_and_without
from tests.bench.measures import cost
from tests.bench.ratios import Middle

# In which a page is given text by default, in seconds.
WINDOW_S = 0.1
# What a token may cost where its stream is mirrored, to where it is not; each pair takes half a minute.
STREAMS, TOKENS, RATE, PAIRS = 400, 400, 50.0, 5
DEARER = 1.05

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("reached", [True, False], ids=["through", "redis"])
@pytest.mark.parametrize(("readers", "rate", "for_s"), [(1000, 5.0, 20.0), (5000, 0.2, 30.0)])
def test_a_crowd_at_another_process_is_served_whole_over_two_connections(
    readers: int, rate: float, for_s: float, reached: bool, tmp_path: Path
) -> None:
    """From Redis a token waits for the owner's next round and for this process's next look.

    The bench shares the machine with all that it measures; by how much it is late itself, it finds the text late.
    """
    with fleet(tmp_path, rate, reached=reached) as running:
        found = crowd(running, readers, for_s)
    print(found)
    assert (found.reading, found.lost) == (readers, [])
    assert found.connections == 4, "two of each process"
    assert found.gap_s(0.99) <= 1 / rate + 2 * WINDOW_S + found.late_p99_s


def test_a_token_of_a_mirrored_stream_costs_little_more(tmp_path: Path) -> None:
    """Every stream can be resumed; one process writes them to Redis, the other one has none."""
    ratios = []
    with with_and_without(tmp_path) as (above, mirrored, alone):
        for number in range(PAIRS):
            pair = (mirrored, alone) if number % 2 else (alone, mirrored)
            costs = {one.name: cost(one, above, STREAMS, TOKENS, RATE, resumable=True) for one in pair}
            print(f"{costs['mirrored'].cpu_us:.1f} us with the mirror, {costs['alone'].cpu_us:.1f} us without")
            assert {one.delivered for one in costs.values()} == {1.0}
            ratios.append(costs["mirrored"].cpu_us / costs["alone"].cpu_us)
    print(Middle.of(ratios))
    assert Middle.of(ratios).median <= DEARER
