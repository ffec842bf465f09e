"""The way to the Messages API: what is asked through it, and the keys that it asks with."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import httpx2

from .. import __version__
from ..answer.refusals import without_secrets
from ..answer.sse import MAX_EVENT_BYTES
from ..errors import SluicewayError, UpstreamError, UpstreamGarbled, UpstreamTimeout
from ..settings.sections import RetryRule, UpstreamOptions
from ..telemetry.sparing import Sparing
from .answer import Answer
from .exchange import Body
from .failures import described, refused, translated
from .identity import API_VERSION, Identity
from .pacing import Pacer
from .pool import Pool
from .transport import Carrier
from .window import Window

log = logging.getLogger(__name__)

# Only uncompressed bytes can be read at our own pace, and a whole answer is not decompressed on the event loop.
_ENCODING = "identity"


class Claude:
    """The way to the Messages API: one connection pool for all streams.

    Args:
        options: how it is reached.
        window_s: seconds between two batches of a stream; its socket need not be read more often.
        api_key: None leaves it to the environment, as `Identity.of` reads it.
        base_url: None for Claude's own.
        on_retry: told of every request that is sent again.

    Attributes:
        identity: who asks.
        own_headers: what the service says where it asks in its own words.
    """

    def __init__(
        self,
        options: UpstreamOptions,
        window_s: float,
        api_key: str | None = None,
        base_url: str | None = None,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self.window_s = window_s
        self.on_retry = on_retry
        self.pacer = Pacer()
        self._sparing = Sparing()
        self._pool = Pool(Window(options.receive_buffer_bytes), options.connect_timeout_s)
        self._carrier = Carrier(self._pool, self.hide)
        self.identity = Identity.of(api_key, base_url, self._carrier.http)
        self._headers = dict(self.identity.headers) | {"accept-encoding": _ENCODING}
        own = {
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": f"sluiceway/{__version__}",
            "anthropic-version": API_VERSION,
        }
        self.own_headers = {name: value for name, value in own.items() if name not in self.identity.headers}

    def ask(self, params: Mapping[str, Any], retry: RetryRule | None = None) -> Answer:
        """An answer that has not been asked for yet; `open()` does.

        Args:
            params: the Messages API's request fields, without `stream`.
            retry: when it is asked for again; by default as the options say.
        """
        body = json.dumps({**params, "stream": True}).encode()
        return self.pass_on(body, self.own_headers, retry=retry)

    def pass_on(
        self, body: bytes, headers: Mapping[str, str], query: str = "", retry: RetryRule | None = None
    ) -> Answer:
        """The answer to a request that is there already; not asked for yet, as in `ask()`.

        Args:
            body: the Messages API's request, in JSON, as it goes up; it says `stream`.
            headers: all that goes up beside the key.
            query: of the path, without its question mark.
            retry: when it is asked for again; by default as the options say.
        """
        path = f"/v1/messages?{query}" if query else "/v1/messages"
        return Answer(self, path, body, headers, retry or self.options)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        """Sends a request and returns when the head of a good answer is here, with its `Body` in the extensions.

        Args:
            path: below the base URL, with its query.
            body: what to POST, as it goes up.
            headers: all that goes up beside the key.

        Raises:
            UpstreamError: there was none. Cancelling ends the connection to Claude.
        """
        response = await self.send(
            httpx2.Request("POST", self.url(path), headers=self.headers_up(headers), content=body)
        )
        if not response.is_success:
            raise refused(response)
        return response

    async def send(self, request: httpx2.Request, carrier: Carrier | None = None) -> httpx2.Response:
        """Sends what `url` and `headers_up` made, and returns when the head of an answer is here, good or not.

        The SDK is not asked to send: it would read each body and write it anew, and takes as long as all else that a
        short answer needs (measured: 1.1 of 3.4 ms).

        Args:
            request: with a key, where that is none that is renewed.
            carrier: has the connections; None for those of the streams.

        Raises:
            UpstreamError: there was no answer. Cancelling ends the connection to Claude.
        """
        try:
            return await (carrier or self._carrier).send(request, self.identity.auth)
        except httpx2.HTTPError as error:
            raise translated(error) from error

    def url(self, path: str) -> httpx2.URL:
        """Where `path` is, with its query, below the base URL."""
        return _below(self.identity.base_url, path)

    def headers_up(self, headers: Mapping[str, str]) -> httpx2.Headers:
        """`headers` and the key, by lower-case names, as they go up."""
        up = self._headers | {name.lower(): value for name, value in headers.items()}
        return httpx2.Headers(up, encoding="utf-8")  # ASCII would refuse an app's name that is not

    async def fetch(self, path: str, headers: Mapping[str, str], body: bytes) -> httpx2.Response:
        """Claude's whole answer to one request, as it came; never asked for twice.

        Args:
            path: below the base URL, with its query.
            headers: all that goes up beside the key.
            body: what to POST, as it goes up.

        Raises:
            UpstreamError: it came to none. Cancelling ends the connection to Claude.
        """
        timeout_s = self.options.progress_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                response = await self.post(path, body, headers)
                try:
                    said = await _whole(response.extensions["body"])
                except httpx2.HTTPError as error:
                    raise translated(error) from error
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise UpstreamTimeout(f"Claude did not answer within {timeout_s:g} s") from error
        except UpstreamError as failure:
            self.failed(f"a request to {path.partition('?')[0]} failed", failure, logging.WARNING)
            raise
        return httpx2.Response(response.status_code, headers=response.headers, content=said)

    async def keep_warm(self, most: int) -> None:
        """Keeps up to `most` connections ready before they are asked for. Runs until cancelled."""
        await self._pool.keep_warm(self.identity.base_url, most)

    def hide(self, said: bytes) -> bytes:
        """What Claude's side said, without the keys that we ask with, and others."""
        return without_secrets(said, [key.encode() for key in self.identity.keys])

    def failed(self, what: str, error: SluicewayError, level: int) -> None:
        """Tells the log of a failure of Claude's side; one that goes on once a minute, with how many there were."""
        told = f"{what}: {described(error)}"
        more = self._sparing.due(told, asyncio.get_running_loop().time())
        if more is not None:
            log.log(level, "%s%s", told, f" ({more} more like it since it was said last)" if more else "")

    async def close(self) -> None:
        """Closes the connection pool. Answers must have been closed before."""
        if self.identity.close is not None:
            await self.identity.close()
        await self._carrier.close()


async def _whole(body: Body) -> bytes:
    """All of a body.

    Raises:
        UpstreamGarbled: it is above what an answer can have. httpx2.TransportError: it was cut.
    """
    said = bytearray()
    async for piece in body:
        said += piece
        if len(said) > MAX_EVENT_BYTES:
            raise UpstreamGarbled(f"Claude's answer is above {MAX_EVENT_BYTES} bytes")
    return bytes(said)


@lru_cache(maxsize=64)  # nearly all requests go to one path, and parsing it takes longer than sending it
def _below(base: httpx2.URL, path: str) -> httpx2.URL:
    return base.copy_with(raw_path=base.raw_path.rstrip(b"/") + path.encode("ascii"))
