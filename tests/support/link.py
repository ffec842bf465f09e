"""A link between the browser and the service that a test can cut, as a phone's may be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Link:
    """A TCP relay with small buffers.

    Attributes:
        url: where the browser finds the service.
        up: whether connections are taken; while False new ones are closed at once.
    """

    def __init__(self, target: str, host: str = "127.0.0.1") -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._own_host = host
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.url = ""
        self.up = True

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._writers) // 2

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._own_host, 0, limit=4096)
        self.url = f"http://{self._own_host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Resets every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port, limit=4096)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass_on(reader, far_writer))
                tasks.create_task(_pass_on(far_reader, writer))
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def link(target: str, host: str = "127.0.0.1") -> AsyncIterator[Link]:
    """A link to `target`, an http URL, on this address of ours, for as long as the block lasts."""
    made = Link(target, host)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
