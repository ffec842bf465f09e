"""Anthropic's own SDKs in every scenario of the clients' table, and that the README's table is of the locked versions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.node import JS, NODE, installed

from .clients import ANTHROPIC_JS, ANTHROPIC_PY, CLIENTS, Client
from .matrix import Place, drive
from .table import BEGIN, END, ROOT, heading, name_of

# What the other tests use.
PLACE = Place(Path(sys.executable), NODE, JS)


@pytest.mark.parametrize("client", [ANTHROPIC_PY, ANTHROPIC_JS], ids=lambda client: client.package)
async def test_anthropics_sdk_sees_and_asks_the_same_through_in_every_scenario(client: Client) -> None:
    await installed()
    cells = await drive(client, PLACE)

    assert len(cells) >= 11
    assert {name: cell.wrong() for name, cell in cells.items() if cell.wrong()} == {}
    (models,) = (cell for name, cell in cells.items() if name == "text")
    assert models.straight["raw"]["events"], "or nothing was compared"


def test_the_readmes_table_has_every_client_at_its_locked_version_and_every_scenario() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()

    assert table[0] == heading()
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2 : 2 + len(CLIENTS)]] == list(
        map(name_of, CLIENTS)
    )
    assert "differs" not in "\n".join(table)
