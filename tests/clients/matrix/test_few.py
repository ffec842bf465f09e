"""Anthropic's own SDKs, of the tests' own lock, in every scenario of the clients' table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.node import JS, NODE, installed

from .clients import ANTHROPIC_JS, ANTHROPIC_PY, Client
from .matrix import Installation, drive

pytestmark = pytest.mark.clients
# What the other tests use.
INSTALLATION = Installation(Path(sys.executable), NODE, JS)


@pytest.mark.parametrize("client", [ANTHROPIC_PY, ANTHROPIC_JS], ids=lambda client: client.package)
async def test_anthropics_sdk_sees_and_asks_the_same_through_in_every_scenario(client: Client) -> None:
    await installed()
    cells = await drive(client, INSTALLATION)

    assert len(cells) >= 11
    assert {name: cell.wrong() for name, cell in cells.items() if cell.wrong()} == {}
    text = cells["text"].straight["raw"]
    assert text["events"], "or nothing was compared"
