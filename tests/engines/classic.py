"""Browsers driven by WebDriver (W3C): WebKit, the engine of Safari, as Debian has it for GTK, and Debian's Chromium."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.engines.engine import PageError, Tab, called
from tests.support.browser import QUIET
from tests.support.far import Far
from tests.support.readers import eventually

_PORT = 4444  # in a network namespace of its own


class _Session:
    """The connection to the driver; commands go to the window that is chosen, one at a time."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client
        self._path = ""
        self._chosen = ""

    async def begin(self, **wanted: Any) -> dict[str, Any]:
        """Starts the browser; returns what it is."""
        made = await self.ask("POST", "/session", capabilities={"alwaysMatch": wanted})
        self._path = f"/session/{made['sessionId']}"
        capabilities: dict[str, Any] = made["capabilities"]
        return capabilities

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        """The value of a command. Raises PageError."""
        async with self._client.request(method, self._path + path, json=body if method == "POST" else None) as response:
            value = (await response.json())["value"]
        if response.status != 200:
            raise PageError(f"{path}: {value['error']}: {value['message']}")
        return value

    async def choose(self, handle: str) -> None:
        """The next commands are for this window."""
        if handle != self._chosen:
            await self.ask("POST", "/window", handle=handle)
            self._chosen = handle


class ClassicTab:
    """One tab, a window of WebDriver's."""

    def __init__(self, session: _Session, handle: str) -> None:
        self._session = session
        self._handle = handle

    async def _ask(self, method: str, path: str, **body: Any) -> Any:
        await self._session.choose(self._handle)
        return await self._session.ask(method, path, **body)

    async def goto(self, url: str) -> None:
        await self._ask("POST", "/url", url=url)

    async def reload(self) -> None:
        await self._ask("POST", "/refresh")

    async def back(self) -> None:
        await self._ask("POST", "/back")

    async def hide(self) -> None:
        try:
            await self._ask("POST", "/window/minimize")
        except PageError:  # Chromium wants a window manager for that: another tab comes in front instead
            other = await self._ask("POST", "/window/new", type="tab")
            await self._session.choose(other["handle"])

    async def run(self, body: str, arg: object = None) -> Any:
        script = f"{called(body, arg)}.then((v) => arguments[0]([v]), (e) => arguments[0](String(e)))"
        said = await self._ask("POST", "/execute/async", script=script, args=[])
        if not isinstance(said, list):
            raise PageError(str(said))
        return json.loads(said[0])

    async def close(self) -> None:
        await self._ask("DELETE", "/window")


class Classic:
    """A running browser.

    Args:
        name: with its version.
        first: the window that it began with, from which the others are opened: it stays.
    """

    def __init__(self, session: _Session, name: str, first: str) -> None:
        self._session = session
        self._first = first
        self.name = name

    async def tab(self) -> Tab:
        await self._session.choose(self._first)
        made = await self._session.ask("POST", "/window/new", type="window")
        return ClassicTab(self._session, made["handle"])


@asynccontextmanager
async def _display() -> AsyncIterator[str]:
    """An X display in memory."""
    reads, writes = os.pipe()
    process = await asyncio.create_subprocess_exec(
        "Xvfb", "-displayfd", str(writes), "-screen", "0", "1280x900x24", "-nolisten", "tcp",
        pass_fds=[writes], stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writes)
    try:
        with os.fdopen(reads) as said:  # once it is ready
            yield f":{(await asyncio.to_thread(said.readline)).strip()}"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _windows(display: str) -> AsyncIterator[None]:
    """Somebody who manages the windows of a display: without, Chromium cannot be minimized."""
    process = await asyncio.create_subprocess_exec(
        "openbox", env={**os.environ, "DISPLAY": display}, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _driven(far: Far, folder: Path, name: str, driver: str, **wanted: Any) -> AsyncIterator[Classic]:
    """A browser and its driver, in a network namespace, for as long as the block lasts."""
    async with _display() as display, _windows(display):
        process = await asyncio.create_subprocess_exec(
            *far.run(driver, f"--port={_PORT}"),
            env={**os.environ, "DISPLAY": display, "HOME": str(folder), "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await eventually(lambda: _listens(far))
            connector = aiohttp.TCPConnector(socket_factory=lambda _address: far.socket())
            async with aiohttp.ClientSession(f"http://127.0.0.1:{_PORT}", connector=connector) as client:
                session = _Session(client)
                capabilities = await session.begin(**wanted)
                yield Classic(session, f"{name} {capabilities['browserVersion']}", await session.ask("GET", "/window"))
                await session.ask("DELETE", "")
        finally:
            process.terminate()
            await process.wait()


def webkit(far: Far, folder: Path) -> AbstractAsyncContextManager[Classic]:
    """A WebKit in a network namespace, with its files in `folder`."""
    options = {"binary": str(_mini_browser()), "args": ["--automation"]}
    return _driven(far, folder, "WebKitGTK", "WebKitWebDriver", **{"webkitgtk:browserOptions": options})


def chromium(far: Far, folder: Path) -> AbstractAsyncContextManager[Classic]:
    """A Chromium in a network namespace, with a profile in `folder`."""
    options = {"args": [*QUIET, f"--user-data-dir={folder}/profile"]}
    return _driven(far, folder, "Chromium", "chromedriver", **{"goog:chromeOptions": options})


def _mini_browser() -> Path:
    """Debian keeps it in a folder that has the machine's kind in its name."""
    (found,) = Path("/usr/lib").glob("*/webkit2gtk-4.1/MiniBrowser")
    return found


def _listens(far: Far) -> bool:
    with far.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", _PORT)) == 0
