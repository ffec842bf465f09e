"""Real clients, unmodified but for their base URL: the same straight from Claude and through the service.

Each is driven once both ways through all that its driver can ask; a test is a client in a scenario.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import NODE

from .clients import CLIENTS, Client
from .matrix import Cell, Installation, drive
from .scenarios import SCENARIOS
from .table import MADE, ROOT, markdown

pytestmark = pytest.mark.clients

# Made by `make clients` from the locks beside this file.
INSTALLED = ROOT / "build" / "clients"
INSTALLATION = Installation(INSTALLED / "py" / "bin" / "python", NODE, INSTALLED / "js")


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[Client, dict[str, Cell]]]:
    """The clients that have been driven; once all have, their table is written."""
    driven: dict[Client, dict[str, Cell]] = {}
    yield driven
    if len(driven) == len(CLIENTS):
        Path(MADE).write_text(markdown(driven), "utf-8")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.package)
async def test_a_client_sees_and_asks_the_same_through(
    client: Client, scenario: str, rows: dict[Client, dict[str, Cell]]
) -> None:
    if client not in rows:
        rows[client] = await drive(client, INSTALLATION)
    cell = rows[client].get(scenario)

    assert cell is not None or scenario == "structured", "only the wanted shape is a thing that not every client has"
    assert cell is None or cell.wrong() == []
