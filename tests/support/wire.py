"""The wire between the processes of a fleet, which a test can cut."""

from __future__ import annotations

import asyncio
from types import TracebackType

from app.fleet.member import Member


class Wire:
    """Stands before a process's port for the others; it says in its lease that it is reached here. Use as a context manager.

    Attributes:
        carried: connections that went through.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True
        self.carried = 0

    async def __aenter__(self) -> Wire:
        assert self._member.address is not None, "the process listens"
        self._to = self._member.address
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self._member.address = self._server.sockets[0].getsockname()
        await self._member.beat()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Breaks every connection, and takes no new one."""
        self._open = False
        for task in self._tasks:
            task.cancel()

    def mend(self) -> None:
        """Takes connections again."""
        self._open = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        self._tasks.add(task)
        try:
            if not self._open:
                return
            self.carried += 1
            theirs = await asyncio.open_connection(*self._to)
            try:
                await asyncio.gather(_pump(reader, theirs[1]), _pump(theirs[0], writer))
            finally:
                theirs[1].transport.abort()
        except asyncio.CancelledError:
            pass  # it is cut
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
