"""Readers whose stream is passed through from another process: bounded, and let go of, as those of this process's own streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from ...settings.sections import ReaderBounds
from ...streams.liveness import Liveness
from ...streams.watch import WATCH_S
from ..readers.reader_socket import sample_of
from ..readers.sse_connection import bound_buffers

log = logging.getLogger(__name__)


class Relayed:
    """One of them; a `Reader`.

    Args:
        request: the reader's.
        response: whose head was sent.
        writer: that sent it.
        liveness: follows what the reader takes.

    Attributes:
        response: as given.
        sent_id: the last frame that it has.
        ended: it has the last event.
    """

    def __init__(
        self, request: web.Request, response: web.StreamResponse, writer: AbstractStreamWriter, liveness: Liveness
    ) -> None:
        self._request = request
        self._writer = writer
        self._liveness = liveness
        self._written_bytes = 0
        number = request.headers.get(hdrs.LAST_EVENT_ID, "")
        self.response = response
        self.sent_id = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
        self.ended = False

    async def write(self, data: bytes) -> None:
        """Writes, and drains. Raises ConnectionError."""
        self._written_bytes += len(data)
        await self.response.write(data)
        await self._writer.drain()

    def look(self, now: float) -> None:
        """Lets go of it where it takes nothing any more, or acknowledges nothing, at loop time `now`."""
        transport = self._request.transport
        sample = sample_of(transport, self._written_bytes) if transport is not None else None
        finding = self._liveness.look(sample, now) if sample is not None else None
        if transport is not None and finding is not None:
            log.info("a reader through this process has %s", finding.value)
            transport.abort()


class RelayedReaders:
    """Those of this process.

    Args:
        bounds: of each one's connection.
    """

    def __init__(self, bounds: ReaderBounds) -> None:
        self._bounds = bounds
        self._readers: set[Relayed] = set()  # each has a connection, of which there are `max_connections`

    @asynccontextmanager
    async def begun(self, request: web.Request, response: web.StreamResponse) -> AsyncIterator[Relayed]:
        """Sends the head; the reader is looked after in the block, and until it has taken the end of the response.

        Raises:
            ConnectionError: it is gone. Where it is let go of, aiohttp cancels its handler.
        """
        bound_buffers(request, self._bounds)
        writer = await response.prepare(request)
        assert writer is not None, "it is prepared once"
        liveness = Liveness(self._bounds.stall_timeout_s, self._bounds.vanish_timeout_s)
        reader = Relayed(request, response, writer, liveness)
        self._readers.add(reader)
        try:
            yield reader
            await response.write_eof()
        finally:
            self._readers.remove(reader)

    async def run(self) -> None:
        """Looks at them until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(WATCH_S)
            for reader in list(self._readers):
                reader.look(now())
