"""Whether, and when, a request that failed before its first event is sent again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SluicewayError, UpstreamCut, UpstreamRefused, UpstreamUnreachable


@dataclass(frozen=True, slots=True)
class RetryRule:
    """Bounded in count and in time.

    Attributes:
        retries: how often a request is sent again, at most.
        retry_after_max_s: a `retry-after` above this many seconds is not waited for: the caller is told instead.
        backoff_s: the first delay where Claude named none; it doubles with each attempt.
    """

    retries: int
    retry_after_max_s: float
    backoff_s: float = 0.5

    def delay_s(self, error: SluicewayError, attempt: int, jitter: float) -> float | None:
        """Seconds to wait before the next attempt, or None where the error is to be reported.

        Only for errors before the first event: after it, a second request would be a second bill and a second text.

        Args:
            error: what went wrong.
            attempt: how many requests have been sent, from 1.
            jitter: a random number in [0, 1): spreads retries over the upper half of the back-off.
        """
        if attempt > self.retries or not error.retryable:
            return None
        if not isinstance(error, UpstreamRefused | UpstreamUnreachable | UpstreamCut):
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= self.retry_after_max_s else None
        return min(self.backoff_s * 2.0 ** (attempt - 1) * (0.5 + jitter / 2), self.retry_after_max_s)


# For callers that retry by themselves, as the SDKs do: their attempts are not to be multiplied by ours.
NEVER = RetryRule(retries=0, retry_after_max_s=0.0)
