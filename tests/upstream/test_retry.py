"""Retrying: bounded in count and in time, and only where it can help."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import (
    BadRequest,
    InternalError,
    SluicewayError,
    UpstreamCut,
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.settings.sections import RetryRule
from app.upstream.retry import retry_delay_s

RULE = RetryRule(retries=2, retry_after_max_s=10)


def refused(*, retryable: bool = True, retry_after_s: float | None = None) -> UpstreamRefused:
    return UpstreamRefused("m", type="t", status=529, retryable=retryable, retry_after_s=retry_after_s)


errors = st.sampled_from(
    [refused(), refused(retryable=False), UpstreamUnreachable("m"), UpstreamCut("m"), UpstreamTimeout("m")]
) | st.builds(lambda seconds: refused(retry_after_s=seconds), st.floats(0, 1e6))


@settings(deadline=None)
@given(errors, st.integers(0, 5), st.integers(1, 12), st.floats(0, 60), st.floats(0, 1, exclude_max=True))
def test_no_error_is_retried_too_often_or_waited_for_too_long(
    error: SluicewayError, retries: int, attempt: int, longest_s: float, jitter: float
) -> None:
    delay_s = retry_delay_s(RetryRule(retries, longest_s), error, attempt, jitter)
    assert delay_s is None or (attempt <= retries and error.retryable and 0 <= delay_s <= longest_s)


@settings(deadline=None)
@given(st.integers(1, 6), st.floats(0, 1, exclude_max=True))
def test_the_back_off_doubles_and_is_spread_over_its_upper_half(attempt: int, jitter: float) -> None:
    delay_s = retry_delay_s(RetryRule(10, 1000, backoff_s=0.5), UpstreamUnreachable("m"), attempt, jitter)
    assert delay_s == pytest.approx(0.5 * 2 ** (attempt - 1) * (0.5 + jitter / 2))


@pytest.mark.parametrize(
    ("error", "attempt", "delay_s"),
    [
        (refused(), 1, 0.25),
        (refused(), 2, 0.5),
        (refused(), 3, None),
        (refused(retryable=False), 1, None),
        (refused(retryable=False, retry_after_s=1), 1, None),
        (refused(retry_after_s=3), 1, 3),
        (refused(retry_after_s=0), 1, 0),
        (refused(retry_after_s=10), 2, 10),
        (refused(retry_after_s=10.1), 1, None),
        (refused(retry_after_s=3), 3, None),
        (UpstreamUnreachable("m"), 1, 0.25),
        (UpstreamCut("m"), 1, 0.25),
        (UpstreamTimeout("m"), 1, None),  # the deadline has been waited for once; a second one is the caller's choice
        (UpstreamGarbled("m"), 1, None),
        (InternalError("m"), 1, None),
        (BadRequest("m"), 1, None),
    ],
)
def test_what_is_retried_and_when(error: SluicewayError, attempt: int, delay_s: float | None) -> None:
    assert retry_delay_s(RULE, error, attempt, jitter=0.0) == delay_s


def test_without_retries_every_error_is_reported() -> None:
    assert retry_delay_s(RetryRule(0, 10), refused(retry_after_s=0), 1, 0.0) is None
