"""Failures of the HTTP below, as the log tells them."""

from __future__ import annotations

import socket

import httpx2
import pytest

from app.errors import UpstreamError, UpstreamGarbled, UpstreamRefused
from app.upstream.failures import described, translated


def caused(by: OSError) -> UpstreamError:
    try:
        try:
            raise httpx2.ConnectError("gateway.internal.example: what a resolver says") from by
        except httpx2.HTTPError as error:
            raise translated(error) from error
    except UpstreamError as error:
        return error


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (socket.gaierror(socket.EAI_NONAME, "gateway.internal.example"), ": its name could not be looked up (DNS)"),
        (OSError(111, "Connect call failed ('10.0.0.1', 443)"), ": refused"),
        (OSError(110, "Connect call failed ('10.0.0.1', 443)"), ": timed out"),
        (OSError(104, "10.0.0.1"), ": reset"),
        (OSError("10.0.0.1"), ""),
    ],
)
def test_what_kept_a_connection_away_is_told_by_its_class_alone(cause: OSError, told: str) -> None:
    assert described(caused(cause)) == f"502 upstream_unreachable: Claude could not be reached{told}"


@pytest.mark.parametrize(
    "kind", ["invalid_request_error", "not_found_error", "request_too_large", "api_error", "new_error"]
)
def test_what_claude_says_of_a_request_is_not_told_since_it_may_repeat_it(kind: str) -> None:
    error = UpstreamRefused("messages.0: 'my secret' is wrong", type=kind, status=400, retryable=False)
    assert described(error) == f"400 {kind}"


@pytest.mark.parametrize(
    "kind", ["authentication_error", "billing_error", "permission_error", "rate_limit_error", "overloaded_error"]
)
def test_what_claude_says_of_the_account_is_told(kind: str) -> None:
    error = UpstreamRefused("your credit balance is too low", type=kind, status=400, retryable=False)
    assert described(error) == f"400 {kind}: your credit balance is too low"


def test_what_stands_in_an_answers_place_is_told_by_its_kind_alone() -> None:
    error = UpstreamGarbled("Claude's side answered 200 with text/html, not with a stream of events: my secret")
    assert described(error).endswith("with text/html, not with a stream of events")
