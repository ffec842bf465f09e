"""How a stream can end. The words are the same in events, metrics and logs."""

from __future__ import annotations

from enum import Enum

from ..errors import InternalError, SluicewayError, UpstreamRefused


class Outcome(Enum):
    """What ended a stream. All but `completed`, `upstream_error`, `rejected` and `internal_error` abort it."""

    COMPLETED = "completed"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    VANISHED = "vanished"
    STOPPED = "stopped"
    TAKEN_OVER = "taken_over"
    EXPIRED = "expired"
    BUDGET = "budget"
    FENCED = "fenced"
    SHUTDOWN = "shutdown"
    UPSTREAM_ERROR = "upstream_error"
    REJECTED = "rejected"
    INTERNAL_ERROR = "internal_error"

    @classmethod
    def of(cls, error: SluicewayError, *, began: bool) -> Outcome:
        """What ends a stream that failed by itself.

        Args:
            error: what it failed with.
            began: Claude had begun to answer: whatever then goes wrong was not the request.
        """
        if isinstance(error, InternalError):
            return cls.INTERNAL_ERROR
        if isinstance(error, UpstreamRefused) and error.callers_fault and not began:
            return cls.REJECTED
        return cls.UPSTREAM_ERROR

    @property
    def aborts(self) -> bool:
        """Whether it stops an answer that would have gone on. A failure does not: none counts as a saving."""
        return self not in _NO_ABORT


_NO_ABORT = frozenset({Outcome.COMPLETED, Outcome.UPSTREAM_ERROR, Outcome.REJECTED, Outcome.INTERNAL_ERROR})
