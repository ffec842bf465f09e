"""The way to the Messages API: what is asked through it, and the keys that it asks with."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anthropic
import httpx2

from .. import __version__
from ..answer.refusals import without_secrets
from ..errors import UpstreamTimeout
from ..settings.sections import RetryRule, UpstreamOptions
from .answer import Answer
from .failures import FAILURES, described, refused, translated
from .pacing import Pacer
from .pool import Pool
from .resting_socket import Window
from .transport import Transport

log = logging.getLogger(__name__)

# The SDK describes itself with these headers. They are left out, because the request is the client's and not the SDK's.
_SDKS_OWN = ("accept", "content-type", "user-agent", "anthropic-version", "x-stainless-")
_SDKS_OWN_PER_CALL = ("x-stainless-timeout", "x-stainless-read-timeout", "x-stainless-retry-count")


class Claude:
    """The way to the Messages API: one connection pool for all streams.

    Args:
        options: how it is reached.
        window_s: seconds between two batches of a stream; its socket need not be read more often.
        api_key: None leaves it to the SDK's own environment variables.
        base_url: None for Claude's own.
        on_retry: told of every request that is sent again.

    Attributes:
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
        self._pool = Pool(Window(options.receive_buffer_bytes), options.connect_timeout_s)
        # No cookies are kept, because one caller's would go up with another's request.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._transport = Transport(self._pool, self.hide)
        http = httpx2.AsyncClient(transport=self._transport, cookies=no_cookies)
        for name in ("accept", "accept-encoding", "connection", "user-agent"):
            del http.headers[name]  # the client sends these itself, or nobody does
        self.sdk = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            http_client=http,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=options.connect_timeout_s),
            # Only uncompressed bytes can be read at our own pace, and a whole answer is not decompressed on the event
            # loop.
            default_headers={"accept-encoding": "identity"},
        )
        self.own_headers = {
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": f"sluiceway/{__version__}",
            "anthropic-version": str(self.sdk.default_headers["anthropic-version"]),
        }

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

        The SDK says where to and with which key. It carries the request only where its tokens are fetched and renewed:
        its own way takes as long as all else that a short answer needs (measured: 1.1 of 3.4 ms).

        Args:
            path: below the base URL, with its query.
            body: what to POST, as it goes up.
            headers: all that goes up beside the key.

        Raises:
            UpstreamError: there was none. Cancelling ends the connection to Claude.
        """
        try:
            if self.sdk.custom_auth is not None:
                # Not `messages.create()`, which would read the body and write it anew. The SDK hands on a `Response`
                # as it is, not yet read, though its types promise a stream of the SDK's own.
                answered: Any = await self.sdk.post(
                    path,
                    cast_to=httpx2.Response,
                    content=body,
                    options={"headers": self.sdk_headers(headers)},
                    stream=True,
                    stream_cls=anthropic.AsyncStream[Any],
                )
                response: httpx2.Response = answered
            else:
                request = httpx2.Request("POST", self.url(path), headers=self.headers_up(headers), content=body)
                response = await self._transport.handle_async_request(request)
        except FAILURES as error:
            raise translated(error) from error
        if not response.is_success:
            raise refused(response)
        return response

    def url(self, path: str) -> httpx2.URL:
        """Where `path` is, with its query, below the base URL."""
        return _below(self.sdk.base_url, path)

    def headers_up(self, headers: Mapping[str, str]) -> httpx2.Headers:
        """`headers` and the key, by lower-case names, as they go up where the SDK does not carry the request."""
        own = {name.lower(): value for name, value in self.sdk.default_headers.items()}
        up = own | {name.lower(): value for name, value in self.sdk_headers(headers).items()}
        sent = {name: value for name, value in up.items() if not isinstance(value, anthropic.Omit)}
        return httpx2.Headers(sent, encoding="utf-8")  # ASCII would refuse an app's name that is not

    def sdk_headers(self, headers: Mapping[str, str]) -> dict[str, str | anthropic.Omit]:
        """`headers` as the SDK is to send them: with its key, and without the words in which it describes itself."""
        own = [
            name
            for name in self.sdk.default_headers
            if name.lower().startswith(_SDKS_OWN) and name.lower() != "accept-encoding"
        ]
        return {**dict.fromkeys((*own, *_SDKS_OWN_PER_CALL), anthropic.omit), **headers}

    async def fetch(self, path: str, headers: Mapping[str, str], body: bytes | None = None) -> httpx2.Response:
        """Claude's whole answer to one request, as it came; never asked for twice.

        Args:
            path: below the base URL, with its query.
            headers: all that goes up beside the key.
            body: what to POST, as it goes up; None for a GET.

        Raises:
            UpstreamError: it came to none. Cancelling ends the connection to Claude.
        """
        how: Any = {"headers": self.sdk_headers(headers)}
        timeout_s = self.options.progress_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if body is None:
                    return await self.sdk.get(path, cast_to=httpx2.Response, options=how)
                return await self.sdk.post(path, cast_to=httpx2.Response, content=body, options=how)
        except TimeoutError as error:
            raise UpstreamTimeout(f"Claude did not answer within {timeout_s:g} s") from error
        except FAILURES as error:
            failure = translated(error)
            log.warning("a request to %s failed: %s", path, described(failure))
            raise failure from error

    async def keep_warm(self, most: int) -> None:
        """Keeps up to `most` connections ready before they are asked for. Runs until cancelled."""
        await self._pool.keep_warm(self.sdk.base_url, most)

    def hide(self, said: bytes) -> bytes:
        """What Claude's side said, without the keys that we ask with, and others."""
        keys = (self.sdk.api_key, self.sdk.auth_token)
        return without_secrets(said, [key.encode() for key in keys if key])

    async def close(self) -> None:
        """Closes the connection pool. Answers must have been closed before."""
        await self.sdk.close()


@lru_cache(maxsize=64)  # nearly all requests go to one path, and parsing it takes longer than sending it
def _below(base: httpx2.URL, path: str) -> httpx2.URL:
    return base.copy_with(raw_path=base.raw_path.rstrip(b"/") + path.encode("ascii"))
