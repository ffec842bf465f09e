"""Clients' connections: what is no HTTP as this server takes it is refused in the service's own words.

No handler and no middleware sees such a request: aiohttp answers it with its parser's words, in plain text, which repeat
the request, cookies and keys too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from ..errors import Malformed
from .errors import error_response
from .refusals import Refusals

# A request's first line begins with one of these. Only its path is needed, so no more of the line is kept than that
# takes.
_METHODS = (b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"PUT ", b"PATCH ", b"DELETE ")
_LINE_BYTES = 256
# The header that the parser names, in its first line; what follows is the request's.
_FIELD = re.compile(
    r"Duplicate '([\w-]+)' header|Missing '([\w-]+)' header|\b(Content-Length|Transfer-Encoding)\b", re.IGNORECASE
)


class ClientConnection(web.RequestHandler):
    """One client's connection.

    Args:
        server: whose handlers answer.
        refusals: hears of what is no HTTP.
    """

    __slots__ = ("_line",)

    def __init__(self, server: web.Server, refusals: Refusals) -> None:
        # auto_decompress: aiohttp would unpack a compressed body before anyone has asked whose it is.
        # access_log: one line a stream is logged by the session.
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=refusals.server_log,  # type: ignore[arg-type]  # an adapter has all of a logger that is used
            access_log=None,  # type: ignore[arg-type]  # as aiohttp's own documentation has it
            auto_decompress=False,
        )
        self._line = b""  # of the newest request, as far as it is known

    def data_received(self, data: bytes) -> None:
        """Takes in what came."""
        if data.startswith(_METHODS):
            self._line = data[:_LINE_BYTES]
        super().data_received(data)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is no request, in the shape of what lives at its path."""
        response = super().handle_error(request, status, exc, message)  # counts it, too
        if not isinstance(exc, HttpProcessingError):
            return response
        line = self._line.decode("latin-1").split(" ")
        response = error_response(malformed(exc), line[1] if len(line) > 1 else "/")
        response.force_close()
        return response


class Runner(web.AppRunner):
    """Runs an application on such connections.

    Args:
        app: what answers.
        refusals: hears of what is no HTTP.
    """

    __slots__ = ("_refusals",)

    def __init__(self, app: web.Application, refusals: Refusals) -> None:
        # handler_cancellation: without it a handler that waits is not told of a disconnect; aiohttp's test server sets
        # it by itself, so that tests with that one prove nothing.
        super().__init__(app, handler_cancellation=True, shutdown_timeout=1.0)
        self._refusals = refusals

    @property
    def server(self) -> web.Server | None:
        """What its sites make connections with: all that they use of a server."""
        server = super().server
        if server is None:
            return None
        connect: Callable[[], ClientConnection] = lambda: ClientConnection(server, self._refusals)  # noqa: E731
        return cast("web.Server", connect)


def malformed(error: HttpProcessingError) -> Malformed:
    """What aiohttp's parser refused, without its words, which repeat the request. Pure."""
    if isinstance(error, LineTooLong):
        return Malformed(f"a line of the request's head is above {error.args[1]} bytes")
    found = _FIELD.search(error.message.partition("\n")[0])
    if found is None:
        return Malformed("this is no HTTP request as this server takes it")
    duplicate, missing, other = found.groups()
    if duplicate:
        return Malformed(f"the request has more than one {duplicate.title()} header", field=duplicate.title())
    if missing:
        return Malformed(f"the request has no {missing.title()} header", field=missing.title())
    return Malformed(f"the request's {other.title()} header cannot be read", field=other.title())
