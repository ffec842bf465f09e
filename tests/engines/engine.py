"""What a test needs of a browser, whichever engine it has."""

from __future__ import annotations

import json
from typing import Any, Protocol


class Tab(Protocol):
    """One tab. Its calls are made one after the other."""

    async def goto(self, url: str) -> None:
        """Loads a page, and waits for it."""

    async def reload(self) -> None:
        """Loads the page again, and waits for it."""

    async def back(self) -> None:
        """Goes back to the page before."""

    async def hide(self) -> None:
        """Makes the tab one that nobody sees."""

    async def run(self, body: str, arg: object = None) -> Any:
        """Runs the body of an async function of `arg` in the page; returns what it returns, by way of JSON.

        Raises:
            PageError: it threw.
        """

    async def close(self) -> None:
        """Closes it, as its reader would."""


class Engine(Protocol):
    """A running browser.

    Attributes:
        name: with its version, as the table has it.
    """

    name: str

    async def tab(self) -> Tab:
        """A new tab, in front."""


class PageError(Exception):
    """What a page's script threw, or a driver said."""


def called(body: str, arg: object) -> str:
    """The expression whose promise is what `body` returns, as JSON."""
    return f"(async (arg) => {{ {body} }})({json.dumps(arg)}).then((value) => JSON.stringify(value ?? null))"
