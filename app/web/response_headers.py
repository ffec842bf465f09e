"""What each response tells browsers beside its content: take it for nothing else, frame it nowhere, keep it nowhere."""

from __future__ import annotations

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


def guard(headers: MutableMapping[str, str]) -> None:
    """Adds to a response's headers what they do not say themselves. Idempotent."""
    for name, value in _GUARDS.items():
        headers.setdefault(name, value)


async def guard_response(_request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: guards each response of an application, whoever made it."""
    guard(response.headers)
