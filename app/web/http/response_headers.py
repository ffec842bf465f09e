"""What each response says beside its content: whose it is in our log, and to browsers: take it for nothing else, keep it nowhere."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping

from aiohttp import hdrs, web

# What a page that navigates to an answer may do with it: nothing. The playground's files have a policy of their own, and
# the content of a caller's file, which passes from Claude, may be a page.
_GUARDS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    hdrs.CACHE_CONTROL: "no-store",
}

_REQUEST_ID = web.RequestKey("request_id", str)
# A request's own, which the log repeats. Claude's has the name `request-id`, and a client's is not read: it could be any.
_NAME = "X-Request-Id"


def request_id_of(request: web.BaseRequest) -> str:
    """Our own id of a request, that nobody else gave it."""
    if _REQUEST_ID not in request:
        request[_REQUEST_ID] = _new_request_id()
    return request[_REQUEST_ID]


def _new_request_id() -> str:
    return f"sw_{secrets.token_hex(12)}"


def guard(headers: MutableMapping[str, str]) -> None:
    """Adds to a response's headers what they do not say themselves, and names no library. Idempotent."""
    headers[hdrs.SERVER] = "Sluiceway"  # aiohttp names itself and Python, each with its version
    headers.setdefault(_NAME, _new_request_id())
    for name, value in _GUARDS.items():
        headers.setdefault(name, value)


async def guard_response(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: guards each response of an application, whoever made it, and names its request."""
    response.headers[_NAME] = request_id_of(request)
    guard(response.headers)
