"""Every error this service reports, each with its HTTP status, wire code and whether trying again can help.

    SluicewayError
    ├── CallerError             theirs: the request
    │   ├── BadRequest 400 · Malformed 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · NotServed 404
    │   ├── MethodNotAllowed 405 · SlowRequest 408 · TooLarge 413 · WrongMediaType 415
    │   └── TooManyConnections 429 · HeadTooLarge 431
    ├── UpstreamError           Claude's side; keeps the status it came with
    │   ├── UpstreamRefused     an error status, or an `error` event in mid-stream
    │   └── UpstreamUnreachable 502 · UpstreamCut 502 · UpstreamGarbled 502 · UpstreamTimeout 504
    ├── EndedError              ours, on purpose: the last event of a stream that a rule ended
    │   ├── TakenOver 409 · Stopped 410 · Expired 410
    │   ├── BudgetCut 402 ── BudgetExhausted 402, where nothing was started · BudgetAway 503
    │   └── ShuttingDown 503 ── Draining 503, where nothing was started
    ├── Overloaded 503          ours: no room for one more ── Lagging 503 · KeysUnreachable 503
    ├── RateLimited 429         ours: the caller asks too much ── NoPlace 429, or at once
    ├── BudgetHeld 429          ours: what is left of a budget is held for streams that run
    └── InternalError 500       ours, a defect ── WorkerLost 500, where another worker's is

Wire codes are the Messages API's where it has one (Messages API, Errors). Foreign exceptions are translated once,
at the edge that meets them. No message holds a key or a prompt. More: `fleet/errors.py`, `upstream/failures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import Any, Literal


class Refusal(Enum):
    """Why a request was turned away before anything was started for it: the one list, for metrics and logs alike."""

    FULL = "full"  # every place is taken (`max_streams`)
    RATE = "rate"  # more requests or tokens a minute than the caller, or all together, may ask
    PLACES = "places"  # more streams at once than the caller, or all together, may have
    BUDGET = "budget"  # a budget is spent
    BUDGET_HELD = "budget_held"  # what is left of a budget is held for streams that run
    BUDGET_AWAY = "budget_away"  # nobody knows what is left of a budget: its file cannot be used
    FLEET_AWAY = "fleet_away"  # the fleet's Redis cannot be reached, and is needed for this
    LAG = "lag"  # the event loop is late (`max_lag_s`)
    DRAINING = "draining"  # the service goes down
    AUTH = "auth"  # no caller's key, or an unknown one
    FORBIDDEN = "forbidden"  # another site's page, or a stream without its stop token
    INVALID = "invalid"  # a field is wrong
    NOT_FOUND = "not_found"  # no such path, or no such stream
    NOT_SERVED = "not_served"  # a path of Claude's API that is not passed on
    METHOD = "method"  # the path takes other methods
    EXPIRED = "expired"  # the stream is no longer kept
    HEAD_TOO_LARGE = "head_too_large"  # the head is above `max_head_bytes`
    TOO_LARGE = "too_large"  # the body is above its bound
    SLOW = "slow"  # the head or the body did not come in time
    CONNECTIONS = "connections"  # one client has as many as it may (`max_connections_per_client`)
    MEDIA_TYPE = "media_type"  # the body is not JSON by its content type
    MALFORMED = "malformed"  # not HTTP as this server takes it
    FAILED = "failed"  # a defect of ours, where no stream was begun; the log has the cause


class SluicewayError(Exception):
    """Something that a caller is told.

    Attributes:
        status: the HTTP status, where none has been sent yet.
        type: the wire code.
        retryable: whether the same request may succeed later.
        source: whose word it is, this service's or Claude's side: the same code asks other people to act.
        field: the input field at fault, if it was one.
        retry_after_s: seconds after which trying again makes sense, if known.
        refusal: why nothing was started; None where something was, so that its stream's outcome counts it.
        api_type: the wire code on the Messages API's paths, where that has a word for it and `type` is ours.
        facts: what else is told, beside the message: which limit, how much of it, until when.
        limit_headers: how a limit stands, by the Messages API's own header names.
    """

    status = 500
    type = "api_error"
    retryable = False
    source: Literal["service", "upstream"] = "service"
    refusal: Refusal | None = None
    api_type: str | None = None
    facts: Mapping[str, Any] = {}
    limit_headers: Mapping[str, str] = {}

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def as_dict(self) -> dict[str, Any]:
        """The error as the plain protocol tells it."""
        told: dict[str, Any] = {
            "error": self.message, "type": self.type, "retryable": self.retryable, "source": self.source
        }  # fmt: skip
        if self.field is not None:
            told["field"] = self.field
        return {**told, **self.facts}


class CallerError(SluicewayError):
    """The request is at fault; nothing was started upstream."""

    status = 400
    type = "invalid_request_error"
    refusal = Refusal.INVALID


class BadRequest(CallerError):
    """A field is missing, of the wrong type, unknown or out of bounds."""


class Unauthorized(CallerError):
    """No caller's key, or an unknown one."""

    status = 401
    type = "authentication_error"
    refusal = Refusal.AUTH


class Forbidden(CallerError):
    """The caller may not do this, or another site's page tried."""

    status = 403
    type = "permission_error"
    refusal = Refusal.FORBIDDEN


class NotFound(CallerError):
    """Nothing lives at this path."""

    status = 404
    type = "not_found_error"
    refusal = Refusal.NOT_FOUND


class NotServed(CallerError):
    """Claude's API has this path, or may have it; this service does not pass it on."""

    status = 404
    type = "not_served"
    refusal = Refusal.NOT_SERVED


class MethodNotAllowed(CallerError):
    """The path exists, the method does not."""

    status = 405
    refusal = Refusal.METHOD


class SlowRequest(CallerError):
    """The request, its head or its body, did not arrive in time."""

    status = 408
    type = "timeout_error"
    refusal = Refusal.SLOW


class TooLarge(CallerError):
    """The request body is above its bound."""

    status = 413
    type = "request_too_large"
    refusal = Refusal.TOO_LARGE


class HeadTooLarge(CallerError):
    """The request's head is above its bound."""

    status = 431
    type = "request_too_large"
    refusal = Refusal.HEAD_TOO_LARGE


class TooManyConnections(CallerError):
    """The client has as many connections as one may have."""

    status = 429
    type = "rate_limit_error"
    retryable = True
    refusal = Refusal.CONNECTIONS


class WrongMediaType(CallerError):
    """The body is not JSON by its content type."""

    status = 415
    refusal = Refusal.MEDIA_TYPE


class Malformed(CallerError):
    """It is no HTTP request as this server takes it."""

    refusal = Refusal.MALFORMED


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A response of Claude's side that was no good one, as it came; secrets are taken out.

    Attributes:
        headers: as pairs.
        body: its beginning, where it was a long one.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


class UpstreamError(SluicewayError):
    """The way to Claude, or Claude itself, failed.

    Attributes:
        headers: of the good response that turned out to be this error; none where there was none.
        response: the one that said so with its status; None where there was none, or it was a good one.
    """

    status = 502
    retryable = True
    source = "upstream"
    headers: Sequence[tuple[str, str]] = ()
    response: ErrorResponse | None = None


@dataclass(eq=False, repr=False)
class UpstreamRefused(UpstreamError):
    """Claude answered with an error, before the stream or within it.

    Args:
        message: what Claude said.
        type: Claude's error code, such as `overloaded_error`.
        status: the status it came with; in mid-stream the one that belongs to the code.
        retryable: whether trying again may help.
        callers_fault: the request itself is wrong, as a field or a model's name; neither the operator's key nor Claude.
        retry_after_s: from `retry-after`, if sent.
        request_id: Claude's id for the request, for its support.
        said: its body, or its event's data, as it came; secrets are taken out.
    """

    message: str
    _: KW_ONLY
    type: str
    status: int
    retryable: bool
    callers_fault: bool = False
    retry_after_s: float | None = None
    request_id: str | None = None
    said: bytes = b""

    def __post_init__(self) -> None:
        super().__init__(self.message, retry_after_s=self.retry_after_s)


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
    refusal = Refusal.FULL


class Lagging(Overloaded):
    """The event loop is late: one more stream would slow down all the others."""

    refusal = Refusal.LAG


class KeysUnreachable(Overloaded):
    """The published keys of a token's issuer cannot be had."""

    refusal = Refusal.AUTH


class RateLimited(SluicewayError):
    """The caller, or all callers together, have asked as much as they may for now."""

    status = 429
    type = "rate_limit_error"
    retryable = True
    refusal = Refusal.RATE


class NoPlace(RateLimited):
    """The caller, or all callers together, have as many streams at once as they may."""

    refusal = Refusal.PLACES


class BudgetHeld(SluicewayError):
    """A budget is not spent, but what is left of it is held for streams that run."""

    status = 429
    type = "budget_held"
    api_type = "rate_limit_error"
    retryable = True
    refusal = Refusal.BUDGET_HELD


class InternalError(SluicewayError):
    """A defect of this service; the log has the cause."""

    retryable = True


class WorkerLost(InternalError):
    """The worker that has the stream cannot be reached."""

    refusal = Refusal.FAILED


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
    refusal = Refusal.EXPIRED


class BudgetCut(EndedError):
    """A budget is spent, and the stream was cut."""

    status = 402
    type = "budget_exhausted"
    api_type = "billing_error"


class BudgetExhausted(BudgetCut):
    """A budget is spent, so that nothing was started."""

    refusal = Refusal.BUDGET


class BudgetAway(EndedError):
    """What is left of a budget cannot be read or written now, and nothing is spent that nobody counts."""

    status = 503
    type = "budget_unavailable"
    api_type = "overloaded_error"
    retryable = True
    refusal = Refusal.BUDGET_AWAY


class ShuttingDown(EndedError):
    """The service goes down; another one, or this one later, will serve."""

    status = 503
    type = "shutdown"
    retryable = True


class Draining(ShuttingDown):
    """The service goes down and starts nothing new."""

    refusal = Refusal.DRAINING
