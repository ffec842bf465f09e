"""Failures of the HTTP below, as the log tells them."""

from __future__ import annotations

import socket

import httpx2
import pytest

from app.errors import UpstreamError
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
