"""Debian's Firefox, driven by WebDriver BiDi (W3C), which it speaks itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.engines.engine import PageError, Tab, called
from tests.support.far import Far

# Nothing is asked of anyone but the page's own server.
_PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.safebrowsing.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.systemAddon.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.telemetry.server": "data:,",
}


class _Session:
    """The connection to a Firefox, on which one command runs at a time."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0

    async def ask(self, method: str, **params: Any) -> Any:
        """The result of a command. Raises PageError."""
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._last:
                break
        if message["type"] == "error":
            raise PageError(f"{method}: {message['error']}: {message['message']}")
        return message["result"]


class FirefoxTab:
    """One tab, a browsing context of its own."""

    def __init__(self, session: _Session, context: str) -> None:
        self._session = session
        self._context = context

    async def goto(self, url: str) -> None:
        await self._session.ask("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def reload(self) -> None:
        await self._session.ask("browsingContext.reload", context=self._context, wait="complete")

    async def back(self) -> None:
        await self._session.ask("browsingContext.traverseHistory", context=self._context, delta=-1)

    async def hide(self) -> None:
        other = await self._session.ask("browsingContext.create", type="tab")
        await self._session.ask("browsingContext.activate", context=other["context"])

    async def run(self, body: str, arg: object = None) -> Any:
        said = await self._session.ask(
            "script.evaluate",
            expression=called(body, arg),
            target={"context": self._context},
            awaitPromise=True,
        )
        if said["type"] == "exception":
            raise PageError(said["exceptionDetails"]["text"])
        return json.loads(said["result"]["value"])

    async def close(self) -> None:
        await self._session.ask("browsingContext.close", context=self._context)


class Firefox:
    """A running Firefox."""

    def __init__(self, session: _Session, version: str) -> None:
        self._session = session
        self.name = f"Firefox {version}"

    async def tab(self) -> Tab:
        made = await self._session.ask("browsingContext.create", type="tab")
        await self._session.ask("browsingContext.activate", context=made["context"])
        return FirefoxTab(self._session, made["context"])


@asynccontextmanager
async def firefox(far: Far, folder: Path) -> AsyncIterator[Firefox]:
    """A headless Firefox in a network namespace, with a profile in `folder`, for as long as the block lasts."""
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in _PREFERENCES.items()]
    (folder / "user.js").write_text("\n".join(lines), "utf-8")
    command = far.run(
        "firefox-esr", "--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", str(folder)
    )
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "HOME": str(folder)}, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    url = ""
    async for line in process.stderr:  # its own word that it is ready
        if b"WebDriver BiDi listening on " in line:
            url = line.decode().partition(" listening on ")[2].strip()
            break
    assert url, "Firefox ended before it was ready"
    rest = asyncio.create_task(process.stderr.read())  # an unread pipe would stop it
    connector = aiohttp.TCPConnector(socket_factory=lambda _address: far.socket())
    async with aiohttp.ClientSession(connector=connector) as client, client.ws_connect(f"{url}/session") as socket:
        session = _Session(socket)
        capabilities = (await session.ask("session.new", capabilities={}))["capabilities"]
        try:
            yield Firefox(session, capabilities["browserVersion"])
        finally:
            await session.ask("browser.close")
            await process.wait()
            await rest
