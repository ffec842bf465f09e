"""Entries counted anew, the rate of doing so, and sums."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.answer.outcome import Outcome
from app.money.entry import ReconcileLimit, Total
from app.money.ledger import Ledger
from tests.support.books import PRICES, STOP, end, opened, settled, start, text, warmed


def test_an_empty_total_is_zero() -> None:
    assert (Total().low, Total().expected, Total().high) == (0, 0, 0)


def test_reconciling_counts_anew_and_keeps_the_balance() -> None:
    account = opened(warmed(), start(), text(400))
    account.delivered(text=200)
    entry = account.settle(Outcome.STOPPED, 1.0)
    again = entry.reconciled(120)
    assert (again.generated, again.delivered, again.wasted, again.basis) == (120, 60, 60, "estimated")
    assert again.avoided.upper == 4096 - 120
    assert again.spent_usd.output == pytest.approx(120e-5)
    assert again.avoided.expected == entry.avoided.expected


@settings(deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_reconciling_keeps_every_bound(tokens: int, warm: bool) -> None:
    again = settled(warmed() if warm else Ledger(PRICES), Outcome.STOPPED, start(), text(400)).reconciled(tokens)
    avoided = again.avoided
    assert again.generated == again.delivered + again.wasted == tokens
    assert 0 <= avoided.low <= avoided.high <= avoided.upper
    assert avoided.expected <= avoided.upper


def test_reconciling_leaves_the_exact_alone() -> None:
    entry = settled(Ledger(PRICES), Outcome.COMPLETED, start(), text(400), end(100), STOP)
    assert entry.reconciled(90) is entry
    estimate = settled(Ledger(PRICES), Outcome.STOPPED, start(), text(9))
    assert all(estimate.reconciled(nonsense) is estimate for nonsense in (-1, 2**53, 10**400))


def test_reconciling_is_off_unless_given_a_rate_and_then_bounded() -> None:
    entry = settled(Ledger(PRICES), Outcome.STOPPED, start(), text(400))
    exact = settled(Ledger(PRICES), Outcome.COMPLETED, start(), text(400), end(100), STOP)
    assert not ReconcileLimit().allows(entry, 0.0)
    limit = ReconcileLimit(per_minute=6, burst=2)
    assert not limit.allows(exact, 0.0)
    assert [limit.allows(entry, now) for now in (0.0, 0.0, 0.0, 9.0, 10.5, 11.0)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
