"""The exceptions of the HTTP below us as errors of our own: the one place that knows them."""

from __future__ import annotations

import os
import re
import socket
import ssl

import httpx2

from ..answer.refusals import came_with, no_stream, refusal
from ..errors import (
    ErrorResponse,
    SluicewayError,
    UpstreamCut,
    UpstreamError,
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamUnreachable,
)
from .exchange import BrokeOff
from .identity import NoToken
from .ways import ProxyFailed, ProxySilent

# What kept a connection from being made, for the log: a class alone, since a resolver's or a proxy's words may tell names.
_FAULTS: dict[type[BaseException], str] = {
    socket.gaierror: "its name could not be looked up (DNS)",
    ConnectionRefusedError: "refused",
    ConnectionResetError: "reset",
    TimeoutError: "timed out",
}
# How a failure of the system is told, and each of several where a name has several addresses.
_NUMBER = re.compile(r"\[Errno (\d+)\]")
# TLS 1.3 lets a client finish its handshake first, and says this instead of an answer (RFC 8446, section 6.2).
_CERTIFICATE_WANTED = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
# What Claude says of the key and the account before it looks at a request, which it then cannot repeat.
_OF_THE_ACCOUNT = frozenset(
    {"authentication_error", "billing_error", "permission_error", "rate_limit_error", "overloaded_error"}
)


class UpstreamBarred(UpstreamUnreachable):
    """No connection to Claude can be had until a person mends it: a certificate is refused, or a proxy lets nobody through."""

    type = "upstream_barred"
    retryable = False


def _fault(number: str) -> str:
    said = OSError(int(number), os.strerror(int(number)))
    return _FAULTS.get(type(said)) or str(said.strerror).lower()


def translated(cause: httpx2.HTTPError) -> UpstreamError:
    """Why a request came to nothing, as what a caller is told."""
    if isinstance(cause, NoToken):
        return UpstreamUnreachable(f"the service could get no token to ask Claude with: {cause}")
    if isinstance(cause, httpx2.DecodingError):
        return UpstreamGarbled(f"Claude's side could not be read: {cause}")
    if isinstance(cause, httpx2.RemoteProtocolError):
        return UpstreamGarbled("Claude's side answered with something that is no HTTP")
    if isinstance(cause, BrokeOff):
        return UpstreamCut("Claude's answer was cut off")
    if isinstance(cause, httpx2.ConnectTimeout):
        return UpstreamUnreachable("no connection to Claude in time")
    if isinstance(cause, httpx2.ConnectError):
        return _unreachable(cause.__cause__)
    return _broken(cause.__cause__)


def _broken(by: BaseException | None) -> UpstreamUnreachable:
    if not isinstance(by, ssl.SSLError):
        return UpstreamUnreachable("the connection to Claude broke before its answer was here")
    if by.reason == _CERTIFICATE_WANTED:
        return UpstreamBarred("Claude's side wants a certificate from whoever asks, and the service has none")
    return UpstreamUnreachable(f"the connection to Claude broke before its answer was here: {by.reason or 'no TLS'}")


def _unreachable(kept_away: BaseException | None) -> UpstreamUnreachable:
    if isinstance(kept_away, ssl.SSLCertVerificationError):
        # Why is for the log: nobody but who runs the service can act on it, and it may name an internal host.
        return UpstreamBarred("Claude could not be reached: the certificate on the way is refused")
    if isinstance(kept_away, ssl.SSLError):
        return UpstreamUnreachable(f"Claude could not be reached: no TLS: {kept_away.reason or 'it broke off'}")
    if isinstance(kept_away, ProxyFailed):
        barred = UpstreamBarred if kept_away.lasting else UpstreamUnreachable
        return barred(f"Claude could not be reached: {kept_away}")
    return UpstreamUnreachable("Claude could not be reached")


def refused(response: httpx2.Response) -> UpstreamError:
    """A response that is no good one, with its body taken in, as what a caller is told."""
    status, headers, said = response.status_code, response.headers, response.content
    error: UpstreamError
    if response.is_redirect:
        error = no_stream(said, status, headers, str(response.extensions.get("location", "")))
        came_with(error, headers)
    else:
        error = refusal(said, status, headers)
    error.response = ErrorResponse(status, headers.multi_items(), said)
    return error


def described(error: SluicewayError) -> str:
    """An error for the log: its status, its type, and its words where they are ours or of the account; and what kept a connection away.

    What Claude, or a gateway before it, says of a request may repeat it: that is for whoever asked, and not for the log.
    """
    told = error.message
    if isinstance(error, UpstreamRefused) and error.type not in _OF_THE_ACCOUNT:
        return f"{error.status} {error.type}"
    if isinstance(error, UpstreamGarbled):
        told = told.partition(": ")[0]
    kept_away = _kept_away(error) if isinstance(error, UpstreamUnreachable) else ""
    return f"{error.status} {error.type}: {told}{kept_away}"


def _kept_away(error: BaseException) -> str:
    """What kept a connection away, by the first of its causes that tells; and which proxy did."""
    at, cause = "", error.__cause__
    while cause is not None:
        if isinstance(cause, ProxyFailed):
            at = f" ({cause.proxy})"
        if isinstance(cause, ProxySilent):
            return at
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{at}: {cause.verify_message}"
        for kind, fault in _FAULTS.items():
            if isinstance(cause, kind):
                return f"{at}: {fault}"
        if numbers := dict.fromkeys(_NUMBER.findall(str(cause))):
            return f"{at}: {', '.join(map(_fault, numbers))}"
        cause = cause.__cause__
    return at
