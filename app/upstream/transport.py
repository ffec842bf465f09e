"""What carries every request to Claude, whoever asks; the pool beneath has the connections.

The body of an error is taken in, bounded and without secrets; a body in a coding that nobody asked for is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from ..answer.refusals import MOST_BODY_BYTES
from .exchange import Body
from .pool import Pool

# The body of an error is waited for this long, in seconds, because its beginning says what is wrong.
_ERROR_BODY_S = 0.5


class Carrier:
    """Carries requests to Claude, each as it is given, with nothing of its own.

    Args:
        pool: has the connections.
        hide: takes the secrets out of what Claude's side says.

    Attributes:
        http: a client that carries its requests the same way, for whoever wants one.
    """

    def __init__(self, pool: Pool, hide: Callable[[bytes], bytes]) -> None:
        self._transport = Transport(pool, hide)
        # No cookies are kept, because one caller's would go up with another's request.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self.http = httpx2.AsyncClient(transport=self._transport, cookies=no_cookies)
        for name in ("accept", "accept-encoding", "connection", "user-agent"):
            del self.http.headers[name]  # the client sends these itself, or nobody does

    async def send(self, request: httpx2.Request, auth: httpx2.Auth | None) -> httpx2.Response:
        """Sends it, and returns when the head of the answer is here. Cancelling aborts the connection.

        Args:
            request: all that goes up.
            auth: adds a token that is fetched and renewed; None where the key is in the request. That way is taken where
                it can be, because a client's takes as long as all else that a short answer needs.

        Raises:
            httpx2.HTTPError: there was no answer; and whatever `auth` raises.
        """
        if auth is None:
            return await self._transport.handle_async_request(request)
        return await self.http.send(request, stream=True, auth=auth)

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.aclose()


class Transport(httpx2.AsyncBaseTransport):
    """Sends requests over a pool. Each good response has its `Body` in its extensions, as `body`.

    Args:
        pool: carries the requests.
        hide: takes the secrets out of what Claude's side says.
    """

    def __init__(self, pool: Pool, hide: Callable[[bytes], bytes]) -> None:
        self._pool = pool
        self._hide = hide

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends it, and returns when the head of the answer is here. Cancelling aborts the connection.

        Raises:
            httpx2.TransportError: there was no answer. httpx2.DecodingError: it is in a coding that nobody asked for.
        """
        response = await self._pool.handle_async_request(request)
        body: Body = response.extensions["body"]
        try:
            if not response.is_success:
                return await self._taken_in(response, body, request)
            if coding := _coding(response):
                raise httpx2.DecodingError(f"the answer is coded as {coding}, though none was asked for")
        except BaseException:
            body.abort()
            raise
        return response

    async def aclose(self) -> None:
        """Closes the pool."""
        await self._pool.aclose()

    async def _taken_in(self, response: httpx2.Response, body: Body, request: httpx2.Request) -> httpx2.Response:
        """The same answer with what is worth keeping of its body; the rest is not read."""
        said = bytearray()
        with contextlib.suppress(TimeoutError, httpx2.TransportError):  # what came by then is what it said
            async with asyncio.timeout(_ERROR_BODY_S):
                async for chunk in body:
                    said += chunk
                    if len(said) >= MOST_BODY_BYTES:
                        break
        body.abort()  # if it has not ended, its connection cannot carry another request
        coding = _coding(response)
        headers = httpx2.Headers(response.headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            headers.pop(name, None)
        words = bytes(said[:MOST_BODY_BYTES])
        if coding and (decoded := _decoded(words, coding)) is not None:
            words = decoded
        elif coding:  # the text that replaces the body is no JSON
            words, headers["content-type"] = f"(a body coded as {coding})".encode("utf-8", "replace"), "text/plain"
        return httpx2.Response(
            response.status_code,
            # The header is taken away, because the SDK's client would parse it and fail if it is no address.
            extensions={"location": headers.pop("location", "")},
            headers=headers,
            content=self._hide(words),
            request=request,
        )


def _coding(response: httpx2.Response) -> str:
    coding = response.headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _decoded(said: bytes, coding: str) -> bytes | None:
    """The beginning of a coded body, at most as long as an uncoded one may be; None where it cannot be read."""
    for wbits in {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}.get(coding, ()):
        try:
            return zlib.decompressobj(wbits).decompress(said, MOST_BODY_BYTES)
        except zlib.error:
            continue
    return None
