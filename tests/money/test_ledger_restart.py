"""What the ledger learned, over a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.answer.outcome import Outcome
from app.money.ledger import Ledger
from tests.support.books import MODEL, PRICES, settled, start, text, warmed

DAY_S = 86400.0


def test_restored_after_a_restart_it_expects_the_same() -> None:
    ledger = warmed([*range(200, 700, 5)])
    saved = json.loads(json.dumps(ledger.dump(1.0)))
    again = Ledger(PRICES)
    again.restore(saved, now=77.0)
    assert again.dump(77.0) == ledger.dump(1.0)
    one, two = (book.open(model=MODEL, max_tokens=4096, now=now) for book, now in ((ledger, 1.0), (again, 77.0)))
    for account in (one, two):
        account.see(start())
        account.see(text(800))
    assert one.settle(Outcome.STOPPED, 1.0).avoided == two.settle(Outcome.STOPPED, 77.0).avoided


def test_time_spent_down_fades_what_was_learned() -> None:
    again = Ledger(PRICES)
    again.restore(warmed([400] * 80).dump(1.0), now=0.0, age_s=14 * DAY_S)
    entry = settled(again, Outcome.STOPPED, start(), text(400))
    assert not entry.avoided.enough


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"version": 2, "models": {}},
        {"version": 1, "models": []},
        {"version": 1, "models": {"m": {"rates": None, "curves": []}}},
        {"version": 1, "models": {"m": {"rates": {}, "curves": []}}},
    ],
)
def test_a_wrong_dump_is_refused_and_changes_nothing(data: dict[str, Any]) -> None:
    ledger = warmed()
    before = ledger.dump(1.0)
    with pytest.raises(ValueError, match=r"version|dump"):
        ledger.restore(data, now=1.0)
    assert ledger.dump(1.0) == before


def test_a_dump_with_an_unknown_class_is_refused() -> None:
    data = warmed().dump(1.0)
    data["models"][MODEL]["curves"][0]["class"] = 99
    with pytest.raises(ValueError, match="class 99"):
        Ledger(PRICES).restore(data, now=1.0)
