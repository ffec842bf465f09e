"""A Claude that is far away, over a link that loses packets: nothing of an answer is lost, and little time."""

from __future__ import annotations

import pytest

from tests.bench.far import Distance, far_away
from tests.bench.processes import TLS
from tests.bench.ratios import OURS, STRAIGHT, Middle

PAIRS = 20
LOSS = 0.01
FAR = Distance(round_trip_s=0.2, rate=400, tokens=1200)
SLOWER_WITHIN = 1.2

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def test_one_per_cent_of_loss_costs_no_token_and_little_time() -> None:
    """Each answer is compared with what Claude said, token by token; which packets are lost is seeded."""
    with far_away(FAR, LOSS, (TLS,)) as far:
        pairs = [far.pair(TLS, straight_first=number % 2 == 0) for number in range(PAIRS)]
    ours, straight = (Middle.of(pair[who].all_s for pair in pairs) for who in (OURS, STRAIGHT))
    print(f"{FAR}, {LOSS:.0%} lost: straight {straight} s, through the service {ours} s")
    assert ours.median <= straight.median * SLOWER_WITHIN
