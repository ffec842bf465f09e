"""That the table of the clients in `tests/README.md` is of the locked versions, and of every scenario; it is made by a run."""

from __future__ import annotations

from .clients import CLIENTS, HERE
from .table import BEGIN, END, ROOT, heading, name_of, placed


def test_the_readmes_table_has_every_client_at_its_locked_version_and_every_scenario() -> None:
    table = (ROOT / "tests" / "README.md").read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()

    assert table[0] == heading()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table[2 : 2 + len(CLIENTS)]]
    assert rows == [name_of(client) for client in CLIENTS]
    assert "differs" not in "\n".join(table)


def test_a_new_table_takes_the_old_ones_place_alone() -> None:
    assert placed(f"a\n{BEGIN}\nold\n{END}\nb\n", "new\n") == f"a\n{BEGIN}\nnew\n{END}\nb\n"


def test_the_clients_locks_name_no_place_to_download_from() -> None:
    assert "://" not in (HERE / "requirements.lock").read_text("utf-8")
    assert '"resolved"' not in (HERE / "package-lock.json").read_text("utf-8")
