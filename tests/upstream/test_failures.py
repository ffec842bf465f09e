"""Failures of the HTTP below, as the log tells them."""

from __future__ import annotations

import socket
import ssl

import httpx2
import pytest

from app.errors import UpstreamError, UpstreamGarbled, UpstreamRefused
from app.upstream.failures import UpstreamBarred, described, translated
from app.upstream.ways import ProxyFailed, ProxySilent


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
        (OSError(101, "Connect call failed ('10.0.0.1', 443)"), ": network is unreachable"),
        (OSError(113, "Connect call failed ('10.0.0.1', 443)"), ": no route to host"),
        (
            OSError("Multiple exceptions: [Errno 101] ('::1', 443), [Errno 111] 10.0.0.1"),
            ": network is unreachable, refused",
        ),
        (OSError("10.0.0.1"), ""),
    ],
)
def test_what_kept_a_connection_away_is_told_by_its_class_alone(cause: OSError, told: str) -> None:
    assert described(caused(cause)) == f"502 upstream_unreachable: Claude could not be reached{told}"


def distrusted(words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = words
    return error


@pytest.mark.parametrize(
    "reason",
    ["certificate has expired", "self-signed certificate", "Hostname mismatch, not valid for 'inner.example'."],
)
def test_a_refused_certificate_is_nothing_to_try_again_and_only_the_log_says_why(reason: str) -> None:
    error = caused(distrusted(reason))
    assert isinstance(error, UpstreamBarred)
    assert not error.retryable
    assert error.message == "Claude could not be reached: the certificate on the way is refused"
    assert described(error) == f"502 upstream_barred: {error.message}: {reason}"


def test_a_handshake_that_came_to_nothing_may_come_to_something_later() -> None:
    failure = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    failure.reason = "WRONG_VERSION_NUMBER"
    error = caused(failure)
    assert error.retryable
    assert error.message == "Claude could not be reached: no TLS: WRONG_VERSION_NUMBER"


def test_what_tls_said_of_a_connection_that_broke_is_told() -> None:
    failure = httpx2.WriteError("the connection broke")
    failure.__cause__ = alert = ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error")
    alert.reason = "TLSV1_ALERT_INTERNAL_ERROR"
    error = translated(failure)
    assert error.retryable
    assert error.message == "the connection to Claude broke before its answer was here: TLSV1_ALERT_INTERNAL_ERROR"


@pytest.mark.parametrize(
    ("failure", "by", "told"),
    [
        (ProxySilent("the proxy did not answer", "proxy.example:3128"), None, ""),
        (ProxyFailed("the proxy answered with 502", "proxy.example:3128"), None, ""),
        (ProxyFailed("the proxy answered with 407", "proxy.example:3128", lasting=True), None, ""),
        (ProxyFailed("the proxy could not be reached", "proxy.example:3128"), ConnectionRefusedError(111), ": refused"),
    ],
)
def test_a_proxy_is_named_in_the_log_alone(failure: ProxyFailed, by: OSError | None, told: str) -> None:
    failure.__cause__ = by
    error = caused(failure)
    assert error.message == f"Claude could not be reached: {failure}"
    assert (error.retryable, error.type == "upstream_barred") == (not failure.lasting, failure.lasting)
    assert described(error) == f"502 {error.type}: {error.message} (proxy.example:3128){told}"


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
