"""Every error this service reports, each with its HTTP status, wire code and whether trying again can help.

    SluicewayError
    ├── CallerError             theirs: the request
    │   ├── BadRequest 400 · Unauthorized 401 · Forbidden 403 · NotFound 404
    │   └── MethodNotAllowed 405 · TooLarge 413 · WrongMediaType 415
    ├── UpstreamError           Claude's side; keeps the status it came with
    │   ├── UpstreamRefused     an error status, or an `error` event in mid-stream
    │   ├── UpstreamUnreachable 502 · UpstreamCut 502 · UpstreamGarbled 502
    │   └── UpstreamTimeout 504
    ├── EndedError              ours, on purpose: the last event of a stream that a rule ended
    │   ├── TakenOver 409 · Stopped 410 · Expired 410
    │   └── ShuttingDown 503
    ├── Overloaded 503          ours: no room for one more
    └── InternalError 500       ours, a defect

Wire codes are the Messages API's where it has one (Messages API, Errors). Foreign exceptions are translated once,
at the edge that meets them. No message holds a key or a prompt.
"""

from __future__ import annotations

from typing import Any


class SluicewayError(Exception):
    """Something that a caller is told.

    Attributes:
        status: the HTTP status, where none has been sent yet.
        type: the wire code.
        retryable: whether the same request may succeed later.
        field: the input field at fault, if it was one.
        retry_after_s: seconds after which trying again makes sense, if known.
    """

    status = 500
    type = "api_error"
    retryable = False

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def as_dict(self) -> dict[str, Any]:
        """The error as the plain protocol tells it."""
        told: dict[str, Any] = {"error": self.message, "type": self.type, "retryable": self.retryable}
        if self.field is not None:
            told["field"] = self.field
        return told


class CallerError(SluicewayError):
    """The request is at fault; nothing was started upstream."""

    status = 400
    type = "invalid_request_error"


class BadRequest(CallerError):
    """A field is missing, of the wrong type, unknown or out of bounds."""


class Unauthorized(CallerError):
    """No caller's key, or an unknown one."""

    status = 401
    type = "authentication_error"


class Forbidden(CallerError):
    """The caller may not do this, or another site's page tried."""

    status = 403
    type = "permission_error"


class NotFound(CallerError):
    """Nothing lives at this path."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(CallerError):
    """The path exists, the method does not."""

    status = 405


class TooLarge(CallerError):
    """The request body is above its bound."""

    status = 413
    type = "request_too_large"


class WrongMediaType(CallerError):
    """The body is not JSON by its content type."""

    status = 415


class UpstreamError(SluicewayError):
    """The way to Claude, or Claude itself, failed."""

    status = 502
    retryable = True


class UpstreamRefused(UpstreamError):
    """Claude answered with an error, before the stream or within it.

    Args:
        message: what Claude said.
        type: Claude's error code, such as `overloaded_error`.
        status: the status it came with; in mid-stream the one that belongs to the code.
        retryable: whether trying again may help.
        retry_after_s: from `retry-after`, if sent.
        request_id: Claude's id for the request, for its support.
    """

    def __init__(
        self,
        message: str,
        *,
        type: str,
        status: int,
        retryable: bool,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.type = type
        self.status = status
        self.retryable = retryable
        self.request_id = request_id


class UpstreamUnreachable(UpstreamError):
    """No connection to Claude could be had, or it broke before an answer began."""

    type = "upstream_unreachable"


class UpstreamCut(UpstreamError):
    """The answer ended without its last event (`message_stop`)."""

    type = "upstream_cut"


class UpstreamGarbled(UpstreamError):
    """What came is no stream of Messages API events: another content type, or broken JSON."""

    type = "upstream_garbled"


class UpstreamTimeout(UpstreamError):
    """Claude was silent, or made no progress, beyond its deadline."""

    status = 504
    type = "timeout_error"


class Overloaded(SluicewayError):
    """The service serves as many as it can."""

    status = 503
    type = "overloaded_error"
    retryable = True


class InternalError(SluicewayError):
    """A defect of this service; the log has the cause."""

    retryable = True


class EndedError(SluicewayError):
    """The stream was ended by a rule or on request, not by a fault."""


class TakenOver(EndedError):
    """Another reader reads this stream now; going on here would be a tug of war."""

    status = 409
    type = "taken_over"


class Stopped(EndedError):
    """Someone who may stopped the stream."""

    status = 410
    type = "stopped"


class Expired(EndedError):
    """The stream, or the part of it asked for, is no longer kept."""

    status = 410
    type = "expired"


class ShuttingDown(EndedError):
    """The service goes down; another one, or this one later, will serve."""

    status = 503
    type = "shutdown"
    retryable = True
