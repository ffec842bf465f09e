"""Where an error becomes a response: the one place for each protocol's shape."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from multidict import CIMultiDict

from ...errors import (
    InternalError,
    MethodNotAllowed,
    NotFound,
    SluicewayError,
    UpstreamCut,
    UpstreamError,
    UpstreamGarbled,
    UpstreamRefused,
)
from ...upstream.headers import headers_down
from ...wire.messages import error_body
from .leaving import has_left
from .response_headers import guard
from .slashes import one_slash

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error_response(error: SluicewayError, path: str) -> web.Response:
    """An error before a stream has begun, in the shape of what lives at the path: the Messages API's, or our own.

    There an error of Claude's own passes as it came.
    """
    said = error.response if isinstance(error, UpstreamError) else None
    if said is not None and isinstance(error, UpstreamRefused) and one_slash(path).startswith("/v1/"):
        return web.Response(status=said.status, body=said.body, headers=CIMultiDict(headers_down(said.headers)))
    headers: CIMultiDict[str] = CIMultiDict()
    guard(headers)  # what is no request meets no signal of the application's
    if error.retry_after_s is not None:
        headers["Retry-After"] = f"{error.retry_after_s:.0f}"
    headers.update(error.limit_headers)
    began = isinstance(error, UpstreamCut | UpstreamGarbled | UpstreamRefused)
    if (began or (isinstance(error, UpstreamError) and not error.retryable)) and said is None:
        # The SDKs ask again by themselves at this status, but an answer had begun, and a second one would be paid too; or
        # it would come to none again.
        headers["x-should-retry"] = "false"
    if not one_slash(path).startswith("/v1/"):
        return web.json_response(error.as_dict(), status=error.status, headers=headers)
    of_head = error.headers if isinstance(error, UpstreamError) else ()
    ours = {*map(str.lower, headers), "content-type"}  # Claude's content-type describes a body that is replaced
    headers.extend((name, value) for name, value in headers_down(of_head) if name.lower() not in ours)
    body = error_body(error)
    return web.json_response(body, status=error.status, headers=headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers with whatever went wrong; what was not foreseen goes to the log, but for a reader that left meanwhile."""
    try:
        return await handler(request)
    except SluicewayError as error:
        return error_response(error, request.path)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        told = MethodNotAllowed(f"{request.method} is not for this path; it takes {allowed}")
        response = error_response(told, request.path)
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return error_response(NotFound("nothing lives at this path"), request.path)
    except web.HTTPException:
        raise
    except Exception as error:
        if isinstance(error, ConnectionError) and has_left(request):
            log.info("the reader of %s %s left before its answer was whole", request.method, request.path)
            return web.Response(status=499, reason="Client Closed Request")  # nginx's word for it; nobody reads it
        log.exception("%s %s failed", request.method, request.path)
        return error_response(InternalError("the service failed; its log has the cause"), request.path)
