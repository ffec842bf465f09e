"""Cross-origin requests: which sites' pages may call, and what they may send and see (Fetch standard, CORS protocol)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# What the SDKs, the AI SDK and our own client.js send; a preflight's own wish is not echoed. The last is any other one:
# a header that Claude learns tomorrow, or that `forward_headers` names. It does not stand for `authorization`.
_REQUEST_HEADERS = ", ".join(
    (
        "accept", "authorization", "content-type", "last-event-id", "user-agent", "x-api-key", "x-stop-token",
        "anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access",
        "anthropic-user-profile-id", "anthropic-workspace-id", "idempotency-key",
        *(f"x-stainless-{name}" for name in (
            "arch", "async", "helper", "helper-method", "lang", "os", "package-version", "poll-helper", "raw-response",
            "read-timeout", "retry-count", "runtime", "runtime-version", "stream-helper", "timeout",
        )),
        "*",
    )
)  # fmt: skip
_RATE_LIMITS = (f"ratelimit-{kind}" for kind in ("requests", "tokens", "input-tokens", "output-tokens"))
_BUDGETS = (*_RATE_LIMITS, "priority-input-tokens", "priority-output-tokens")
_EXPOSED = ", ".join(
    (
        "request-id", "x-request-id", "retry-after", "x-stream-id", "x-stop-token", "x-resumable", "x-should-retry",
        "anthropic-organization-id", "anthropic-workspace-id",
        *(f"anthropic-{budget}-{part}" for budget in _BUDGETS for part in ("limit", "remaining", "reset")),
        "*",
    )
)  # fmt: skip
_PREFLIGHT_S = 7200  # the longest that Chromium remembers one


class Cors:
    """Lets the pages of some sites call. With none, no header is ever added.

    Args:
        origins: such as `https://chat.example`; `*` lets any.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origins)

    def install(self, app: web.Application) -> None:
        """Adds the headers to each response of `app`, streamed ones too."""
        if self._origins:
            app.on_response_prepare.append(self._mark)

    @property
    def middlewares(self) -> list[Middleware]:
        """What answers preflights; it must come before whatever asks for a key, which no preflight carries."""
        return [self._preflight] if self._origins else []

    async def _mark(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self._any:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and (self._any or origin in self._origins):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*" if self._any else origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    @property
    def _preflight(self) -> Middleware:
        @web.middleware
        async def preflight(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            asked = hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
            if request.method != hdrs.METH_OPTIONS or not asked:
                return await handler(request)
            headers = {
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _REQUEST_HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_S),
            }
            return web.Response(status=204, headers=headers)

        return preflight
