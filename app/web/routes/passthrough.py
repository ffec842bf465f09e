"""The Messages API's other paths: what a setting allows passes to Claude and back as it is, and is not booked.

Method, query, headers and body pass, the body piece by piece in both directions: whoever does not take the next one makes
the other side wait. A client that leaves ends the request to Claude.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import quote, unquote

from aiohttp import hdrs, web
from multidict import CIMultiDict

from ...errors import BadRequest, NotServed, Overloaded, SlowRequest, SluicewayError, UpstreamError
from ...settings.sections import SendBuffers
from ...streams.limiter import Asking, Limiter, settled
from ...streams.registry import Streams
from ...upstream.headers import HeadersUp, headers_down
from ...upstream.passing import Passed, Passing
from ..entrance.way_in import CALLER, Body, Route
from ..http.bodies import BodyBound, give_leave, too_large, too_slow
from ..http.bounds import check_passing
from ..http.operation import Answer, Operation
from ..http.slashes import one_slash
from ..readers.sse_connection import bound_buffers

log = logging.getLogger(__name__)

# All paths but those that have a handler of their own.
_PATH = r"{path:(?!messages$|messages/count_tokens$)[^/]+(?:/[^/]+)*/?}"
# Other methods do not pass: a TRACE would be answered with the request as Claude's side was sent it, with the service's
# key (RFC 9110, 9.3.8). GET stands for HEAD too.
_METHODS = (
    hdrs.METH_GET, hdrs.METH_POST, hdrs.METH_PUT, hdrs.METH_PATCH, hdrs.METH_DELETE, hdrs.METH_OPTIONS
)  # fmt: skip
# The buffers towards the client are as large as those towards Claude: files need throughput. Linux doubles the first.
_BUFFERS = SendBuffers(send_buffer_bytes=262_144, notsent_lowat_bytes=131_072)
# A batch names the address of its results at Claude's host. It is rewritten, or an SDK would take the caller's key
# there.
_RESULTS_URL = re.compile(rb'("results_url"\s*:\s*")https?://[^/"]*(?:/[^"]*?)?(/v1/messages/batches/)')
# A list of batches is held whole to be rewritten. A thousand of them, the API's largest page, are some 1 MB.
_MOST_BATCHES_BYTES = 4_194_304
_TOLD = Operation(
    "Other paths of Claude's API, passed on as they are",
    "Those that the setting `pass_through` names, with all below them: `{path}` may have slashes. They are not booked.",
    {200: Answer("As Claude answered", "*/*")},
    errors=(NotServed,),
    starts=True,
)


@dataclass(frozen=True, slots=True)
class PassThrough:
    """What the handler works with.

    Attributes:
        passing: the way to Claude.
        streams: among which it has a place while it passes.
        limiter: lets it in.
        headers_up: chooses which of a request's headers go to Claude.
        allowed: the paths that pass, each with everything below it.
        bound: of a body; its time is what the next piece may take, in either direction.
    """

    passing: Passing
    streams: Streams
    limiter: Limiter
    headers_up: HeadersUp
    allowed: Iterable[str]
    bound: BodyBound

    def routes(self) -> list[Route]:
        """Whatever is below `/v1/` and is not served in another way."""
        return [Route(method, f"/v1/{_PATH}", self.pass_on, body=Body.STREAMED, told=_TOLD) for method in _METHODS]

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Passes a request on.

        Raises:
            NotServed: its path is not allowed. Forbidden: not to this caller. BadRequest: it is none. SluicewayError: it failed before its answer began.
        """
        path = allowed_path(one_slash(request.rel_url.raw_path), self.allowed)
        check_passing(request[CALLER], request.method, path)
        query = request.rel_url.raw_query_string
        if (request.content_length or 0) > self.bound.max_bytes:
            raise too_large(self.bound)
        method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
        up = self.headers_up.of(request.headers.items(), as_client=True, with_body=True)
        body = self._pieces(request) if request.body_exists else None
        self.streams.check_room()
        async with settled(await self.limiter.admit(Asking(request[CALLER]))), self.streams.passing():
            try:
                passed = await self.passing.send(method, f"{path}?{query}" if query else path, up, body)
                if (failure := passed.failure) is not None:
                    self.streams.unbooked_failed(failure)
                try:
                    return await self._answer(request, path, passed)
                finally:
                    await passed.close()
            except UpstreamError as error:
                self.streams.unbooked_failed(error)
                raise

    async def _pieces(self, request: web.Request) -> AsyncGenerator[bytes, None]:
        await give_leave(request)
        size_bytes, waited_s = 0, 0.0  # for the client: what Claude's side takes is not the client's fault
        loop = asyncio.get_running_loop()
        while True:
            began_at = loop.time()
            left_s = self.bound.slow_after_s(size_bytes) - waited_s
            try:
                async with asyncio.timeout(min(self.bound.timeout_s, left_s)):
                    piece = await request.content.readany()
            except TimeoutError:
                if left_s < self.bound.timeout_s:
                    raise too_slow(self.bound) from None
                raise SlowRequest(f"nothing of the body came for {self.bound.timeout_s:g} s") from None
            except web.RequestPayloadError as error:
                raise BadRequest("the body broke off, or its framing is not HTTP's") from error
            if not piece:
                return
            waited_s += loop.time() - began_at
            size_bytes += len(piece)
            if size_bytes > self.bound.max_bytes:
                raise too_large(self.bound)
            yield piece

    async def _answer(self, request: web.Request, path: str, passed: Passed) -> web.StreamResponse:
        headers = CIMultiDict(headers_down(passed.headers))
        length = next((int(value) for name, value in passed.headers if name.lower() == "content-length"), None)
        if path.startswith("/v1/messages/batches") and "json" in headers.get(hdrs.CONTENT_TYPE, ""):
            return await _batches(passed, headers)
        response = web.StreamResponse(status=passed.status, headers=headers)
        response.content_length = length
        bound_buffers(request, _BUFFERS)
        await response.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return response
        whole = False
        try:
            async with aclosing(passed.pieces()) as pieces:
                async for piece in pieces:
                    async with asyncio.timeout(self.bound.timeout_s):
                        await response.write(piece)
            whole = True
        except (SluicewayError, TimeoutError) as error:
            log.info("an answer that passed broke off: %s", error or "its client took no more")
            if isinstance(error, UpstreamError):
                self.streams.unbooked_failed(error)
        finally:
            # It was not written to its end, so the connection is cut: it must not look whole.
            if not whole and request.transport is not None:
                request.transport.abort()
        return response


async def _batches(passed: Passed, headers: CIMultiDict[str]) -> web.Response:
    """Batches, with the addresses of their results on this service: a path alone, which SDKs resolve as their own."""
    said = bytearray()
    async with aclosing(passed.pieces()) as pieces:
        async for piece in pieces:
            said += piece
            if len(said) > _MOST_BATCHES_BYTES:
                raise Overloaded(f"so many batches are above {_MOST_BATCHES_BYTES} bytes: ask for fewer at once")
    return web.Response(status=passed.status, headers=headers, body=_RESULTS_URL.sub(rb"\1\2", said))


def allowed_path(raw_path: str, allowed: Iterable[str]) -> str:
    """The path as it goes up: rebuilt from its segments, so that no server reads more into it than was looked at. Pure.

    Args:
        raw_path: as it came, encoded.
        allowed: such as `/v1/files`, each with everything below it.

    Raises:
        NotServed: it is not allowed. BadRequest: a segment is empty or `.`, begins with `..`, or holds a slash or what does not print.
    """
    segments = [_segment(segment) for segment in raw_path.removesuffix("/").split("/")[1:]]
    for prefix in allowed:
        parts = prefix.strip("/").split("/")
        if segments[: len(parts)] == parts:
            return "/" + "/".join(quote(segment, safe="~:@!$&'()*+,;=") for segment in segments)
    raise NotServed("this path of Claude's API is not served here; the setting pass_through names those that are")


def _segment(raw: str) -> str:
    try:
        segment = unquote(raw, errors="strict")
    except UnicodeDecodeError:
        segment = ""
    # Some servers cut a segment off at its semicolon (RFC 3986, 3.3), and take `..;` for `..`.
    is_dots = segment.partition(";")[0] in ("", ".") or segment.startswith("..")
    if not segment.isprintable() or is_dots or "/" in segment or "\\" in segment or "%" in segment:
        raise BadRequest("the path holds what no path of Claude's API holds")
    return segment
