"""What the ledger learned survives a restart."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from app.money.ledger import Ledger
from app.money.ledger_file import LedgerFile
from app.money.prices import load_prices
from tests.support.ledger_streams import finish_one


def test_what_was_learned_is_back_after_a_restart(tmp_path: Path) -> None:
    before, after = Ledger(load_prices()), Ledger(load_prices())
    for _ in range(60):
        finish_one(before, chars=400, tokens=200)
    path = tmp_path / "ledger.json"
    LedgerFile(path, before).save(now=1000.0)
    LedgerFile(path, after).load(now=5.0)
    model = "claude-opus-4-8"
    assert after.tokens_each(model) == pytest.approx(before.tokens_each(model), rel=1e-3)
    assert after.tokens_each(model) != Ledger(load_prices()).tokens_each(model)


def test_a_missing_file_is_a_first_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LedgerFile(tmp_path / "none.json", Ledger(load_prices())).load(now=0.0)
    assert not caplog.records


@pytest.mark.parametrize("text", ["", "{", "[]", '{"saved_at": 1}', '{"saved_at": 1, "ledger": {"version": 9}}'])
def test_a_broken_file_is_said_and_changes_nothing(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(text)
    ledger = Ledger(load_prices())
    with caplog.at_level(logging.WARNING):
        LedgerFile(path, ledger).load(now=0.0)
    assert "begins anew" in caplog.text
    assert ledger.dump(0.0)["models"] == {}


def test_a_folder_that_is_not_there_is_said_and_nothing_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LedgerFile(tmp_path / "none" / "ledger.json", Ledger(load_prices())).save(now=0.0)
    assert "could not be saved" in caplog.text


def test_a_save_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    ledger = Ledger(load_prices())
    file = LedgerFile(path, ledger)
    file.save(0.0)
    file.save(1.0)
    assert json.loads(path.read_text())["ledger"]["version"] == 1
    assert list(tmp_path.iterdir()) == [path]
