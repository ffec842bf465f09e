"""Whether, and when, a request that failed before its first event is sent again. Pure."""

from __future__ import annotations

from ..errors import SluicewayError, UpstreamCut, UpstreamRefused, UpstreamUnreachable
from ..settings.sections import RetryRule


def retry_delay_s(rule: RetryRule, error: SluicewayError, attempt: int, jitter: float) -> float | None:
    """Seconds to wait before the next attempt, or None where the error is to be reported.

    Only for errors before the first event: after it, a second request would be a second bill and a second text.

    Args:
        rule: how often, and how long, a request may be sent again.
        error: what went wrong.
        attempt: how many requests have been sent, from 1.
        jitter: a random number in [0, 1): spreads retries over the upper half of the back-off.
    """
    if attempt > rule.retries or not error.retryable:
        return None
    if not isinstance(error, UpstreamRefused | UpstreamUnreachable | UpstreamCut):
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= rule.retry_after_max_s else None
    return min(rule.backoff_s * 2.0 ** (attempt - 1) * (0.5 + jitter / 2), rule.retry_after_max_s)


# For callers that retry by themselves, as the SDKs do: their attempts are not to be multiplied by ours.
NEVER = RetryRule(retries=0, retry_after_max_s=0.0)
