"""The way to the Messages API: what is asked through it, and the keys that it asks with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import anthropic
import httpx2

from ..answer.refusals import without_secrets
from ..errors import UpstreamTimeout
from .answer import Answer
from .failures import FAILURES, described, translated
from .options import UpstreamOptions
from .pacing import Pacer
from .pool import Pool
from .resting_socket import Window
from .retry import RetryRule
from .transport import Transport

log = logging.getLogger(__name__)


class Claude:
    """The way to the Messages API: one connection pool for all streams.

    Args:
        options: how it is reached.
        on_retry: told of every request that is sent again.
    """

    def __init__(self, options: UpstreamOptions, on_retry: Callable[[], None] = lambda: None) -> None:
        self.options = options
        self.on_retry = on_retry
        self.pacer = Pacer()
        self._pool = Pool(Window(options.receive_buffer_bytes), options.connect_timeout_s)
        self.sdk = anthropic.AsyncAnthropic(
            api_key=options.api_key,
            base_url=options.base_url,
            http_client=httpx2.AsyncClient(transport=Transport(self._pool, self.hide)),
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=options.connect_timeout_s),
            # Bytes that nobody has coded can be read at our pace; and a whole answer is not decoded on the event loop.
            default_headers={"accept-encoding": "identity"},
        )

    def ask(
        self, params: Mapping[str, Any], headers: Mapping[str, str] | None = None, retry: RetryRule | None = None
    ) -> Answer:
        """An answer that has not been asked for yet; `open()` does.

        Args:
            params: the Messages API's request fields, without `stream`.
            headers: further request headers, such as `anthropic-beta`.
            retry: when it is asked for again; by default as the options say.
        """
        return Answer(self, dict(params), dict(headers or {}), retry or self.options.retry)

    async def fetch(
        self, path: str, *, headers: Mapping[str, str], query: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> httpx2.Response:
        """Claude's whole answer to one request, as it came; never asked for twice.

        Args:
            path: below the base URL.
            headers: further request headers.
            query: the parameters in the path's query.
            body: what to POST, as JSON; None for a GET.

        Raises:
            UpstreamError: it came to none. Cancelling ends the connection to Claude.
        """
        how: Any = {"headers": dict(headers), "params": dict(query)}
        timeout_s = self.options.progress_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if body is None:
                    return await self.sdk.get(path, cast_to=httpx2.Response, options=how)
                return await self.sdk.post(path, cast_to=httpx2.Response, body=dict(body), options=how)
        except TimeoutError as error:
            raise UpstreamTimeout(f"Claude did not answer within {timeout_s:g} s") from error
        except FAILURES as error:
            failure = translated(error)
            log.warning("a request to %s failed: %s", path, described(failure))
            raise failure from error

    async def keep_warm(self) -> None:
        """Keeps connections ready before they are asked for. Runs until cancelled."""
        await self._pool.keep_warm(self.sdk.base_url)

    def hide(self, said: bytes) -> bytes:
        """What Claude's side said, without the keys that we ask with, and others."""
        keys = (self.sdk.api_key, self.sdk.auth_token)
        return without_secrets(said, [key.encode() for key in keys if key])

    async def close(self) -> None:
        """Closes the connection pool. Answers must have been closed before."""
        await self.sdk.close()
