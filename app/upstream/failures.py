"""The SDK's exceptions, and those of what lies below it, as errors of our own: the one place that knows them."""

from __future__ import annotations

import ssl

import anthropic
import httpx2

from ..answer.refusals import came_with, no_stream, refusal
from ..errors import SluicewayError, UpstreamError, UpstreamGarbled, UpstreamUnreachable
from .ways import ProxyRefused

# What a request by the SDK raises where it came to nothing. The second is met in a body that is read at once.
FAILURES = (anthropic.APIError, httpx2.HTTPError)


def translated(error: Exception) -> UpstreamError:
    """One of `FAILURES` as what a caller is told."""
    if isinstance(error, anthropic.APIStatusError):
        response = error.response
        if response.is_redirect:
            location = str(response.extensions.get("location", ""))
            redirected = no_stream(response.content, response.status_code, response.headers, location)
            came_with(redirected, response.headers)
            return redirected
        return refusal(response.content, response.status_code, response.headers)
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
    if isinstance(cause, httpx2.DecodingError):
        return UpstreamGarbled(f"Claude's side could not be read: {cause}")
    if isinstance(cause, httpx2.RemoteProtocolError):
        return UpstreamGarbled("Claude's side answered with something that is no HTTP")
    if isinstance(cause, httpx2.ConnectTimeout):
        return UpstreamUnreachable("no connection to Claude in time")
    if isinstance(cause, httpx2.ConnectError):
        # The operator is to read what is wrong with a certificate or a proxy; of the rest the reason is no one's help.
        reason = f": {cause}" if isinstance(cause.__cause__, ssl.SSLError | ProxyRefused) else ""
        return UpstreamUnreachable(f"Claude could not be reached{reason}")
    return UpstreamUnreachable("the connection to Claude broke before its answer was here")


def described(error: SluicewayError) -> str:
    """An error for the log: its status, its type, and its words, which hold no secrets."""
    return f"{error.status} {error.type}: {error.message}"
