"""A wire that a test can cut, or lead elsewhere: between two processes of a fleet, or one of them and its Redis."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Wire:
    """Takes connections on a port of its own and leads them on. Use as a context manager.

    Args:
        to: where they lead.

    Attributes:
        to: where new ones lead.
        address: of its own port.
        carried: connections that went through.
    """

    def __init__(self, to: tuple[str, int]) -> None:
        self.to = to
        self.address = ("", 0)
        self.carried = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True
        self._flows = asyncio.Event()
        self._flows.set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)  # what was aborted is closed by the loop's next step

    def cut(self) -> None:
        """Breaks every connection, and takes no new one."""
        self._open = False
        for task in self._tasks:
            task.cancel()

    def stall(self) -> None:
        """Takes connections and breaks none, and carries nothing any more."""
        self._flows.clear()

    def mend(self) -> None:
        """Takes connections again, and carries what waits."""
        self._open = True
        self._flows.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        self._tasks.add(task)
        try:
            if not self._open:
                return
            self.carried += 1
            theirs = await asyncio.open_connection(*self.to)
            try:
                await asyncio.gather(self._pump(reader, theirs[1]), self._pump(theirs[0], writer))
            finally:
                theirs[1].transport.abort()
        except (asyncio.CancelledError, OSError):
            pass  # it is cut, or leads nowhere
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
