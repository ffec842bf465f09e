"""Those of the clients that the tests' own locks have anyway, in every scenario of the clients' table."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.support.node import JS, NODE, installed

from .clients import CLIENTS, Client
from .matrix import Cell, Installation, drive
from .scenarios import SCENARIOS

# What the other tests use.
INSTALLATION = Installation(Path(sys.executable), NODE, JS)
NAMES = {"anthropic", "@anthropic-ai/sdk", "httpx-sse", "eventsource-parser", "@microsoft/fetch-event-source"}
FEW = [client for client in CLIENTS if client.package in NAMES]

pytestmark = pytest.mark.timeout(600)  # all of them are driven before the first one is looked at


@pytest.fixture(scope="module")
def rows() -> dict[Client, dict[str, Cell]]:
    """Two driven at once: most of their time they wait, for a slow answer or to ask again."""

    async def driven() -> list[dict[str, Cell]]:
        await installed()
        two = asyncio.Semaphore(2)

        async def one(client: Client) -> dict[str, Cell]:
            async with two:
                return await drive(client, INSTALLATION)

        return await asyncio.gather(*(one(client) for client in FEW))

    return dict(zip(FEW, asyncio.run(driven()), strict=True))


@pytest.mark.parametrize("client", FEW, ids=lambda client: client.package)
def test_a_client_sees_and_asks_the_same_through_in_every_scenario(
    client: Client, rows: dict[Client, dict[str, Cell]]
) -> None:
    cells = rows[client]

    assert cells.keys() >= SCENARIOS.keys() - {"structured"}, "only the wanted shape is not every client's"
    assert {name: cell.wrong() for name, cell in cells.items() if cell.wrong()} == {}
    assert all(cells["text"].straight.values()), "or nothing was compared"
