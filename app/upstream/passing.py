"""Requests that pass to Claude and back as they are: files, batches, and what else the API has. Nothing is held.

They have connections of their own: an answer that is streamed rests in a small receive buffer, which would carry a file
across an ocean at some 3 MB/s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass

import httpx2

from ..answer.refusals import refusal
from ..errors import UpstreamCut, UpstreamError, UpstreamTimeout
from .claude import Claude
from .pool import Pool
from .transport import Carrier
from .window import Window

# The receive buffer of each connection. It lets 13 MB/s through over a round trip of 20 ms. Linux doubles it.
_RECEIVE_BUFFER_BYTES = 262_144
# This much is taken from it at once, so that no more lies between the two sockets.
_READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Passed:
    """An answer that passes.

    Attributes:
        status: the answer's.
        headers: the answer's, as pairs.
        _response: what it is read from.
        _idle_s: how long Claude's side may be silent, in seconds.
    """

    status: int
    headers: list[tuple[str, str]]
    _response: httpx2.Response
    _idle_s: float

    @property
    def failure(self) -> UpstreamError | None:
        """What Claude's side refused with, where it did."""
        if self.status < 400:
            return None
        return refusal(self._response.content, self.status, self._response.headers)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes; whoever does not ask for the next piece makes Claude's side wait.

        Raises:
            UpstreamCut: it broke off. UpstreamTimeout: it was silent for too long.
        """
        body = self._response.extensions.get("body")
        if body is None:  # an error's, which was taken in: without the service's keys, should it repeat them
            yield self._response.content
            return
        try:
            while not body.complete:
                if piece := body.take(_READ_BYTES):
                    yield piece
                    await asyncio.sleep(0)  # else all others would wait while both peers are as fast as we are
                elif not body.complete:
                    async with asyncio.timeout(self._idle_s):
                        await body.readable()
        except TimeoutError as error:
            raise UpstreamTimeout(f"Claude sent nothing for {self._idle_s:g} s") from error
        except httpx2.TransportError as error:
            raise UpstreamCut("Claude's answer was cut off") from error

    async def close(self) -> None:
        """Ends the connection to Claude unless the body has ended. Idempotent."""
        await self._response.aclose()


class Passing:
    """The way to Claude for whatever passes.

    Args:
        claude: whose keys and address are used.
    """

    def __init__(self, claude: Claude) -> None:
        self._claude = claude
        self._pool = Pool(Window(_RECEIVE_BUFFER_BYTES), claude.options.connect_timeout_s)
        self._carrier = Carrier(self._pool, claude.hide)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: AsyncIterator[bytes] | None
    ) -> Passed:
        """Sends a request, and returns when the head of its answer is here. Cancelling ends the connection to Claude.

        Args:
            method: as the client said it.
            path: below the base URL, with its query, encoded.
            headers: all that goes up beside the key; a `content-length` where the body's is known.
            body: read only as fast as Claude takes it.

        Raises:
            UpstreamError: there was no answer; whatever `body` raises.
        """
        sent = self._claude.headers_up(headers)
        if body is not None and "content-length" not in sent:
            sent["transfer-encoding"] = "chunked"
        request = httpx2.Request(method, self._claude.url(path), headers=sent, content=body)
        idle_s = self._claude.options.progress_timeout_s
        try:
            response = await self._claude.send(request, self._carrier)
        except UpstreamError as failure:
            self._tell(failure)
            raise
        passed = Passed(response.status_code, response.headers.multi_items(), response, idle_s)
        if passed.status >= 500 and (refused := passed.failure) is not None:
            self._tell(refused)
        return passed

    def _tell(self, failure: UpstreamError) -> None:
        self._claude.failed(
            "a request that passes failed", failure, logging.WARNING
        )  # without its path, which has names

    async def keep(self) -> None:
        """Closes connections that were idle for long. Runs until cancelled."""
        await self._pool.keep_warm(self._claude.identity.base_url, 0)

    async def close(self) -> None:
        """Closes the connections."""
        await self._carrier.close()
