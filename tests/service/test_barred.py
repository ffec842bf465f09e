"""A way to Claude that a person must mend: readers are told not to try again, the log says what it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.upstream import ways
from tests.support.raw_upstream import behind, raw_upstream, response
from tests.support.scrape import scrape
from tests.support.tls import certificate, server_side
from tests.support.ways import WAYS, asked

BARRED = "Claude could not be reached: the certificate on the way is refused"


@pytest.fixture(autouse=True)
def trust_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    ways._trust.cache_clear()
    yield
    ways._trust.cache_clear()


@pytest.mark.parametrize(
    ("name", "days", "trusted", "reason"),
    [
        ("IP:127.0.0.1", -1, True, "certificate has expired"),
        ("DNS:other.example", 3, True, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        ("IP:127.0.0.1", 3, False, "self-signed certificate"),
    ],
    ids=["expired", "wrong host", "unknown authority"],
)
async def test_a_certificate_that_is_refused_is_nothing_to_try_again(
    name: str,
    days: int,
    trusted: bool,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pem = certificate(name, days)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem if trusted else certificate("DNS:nobody.example")))
    async with (
        raw_upstream([response(b"never")], tls=server_side(pem)) as upstream,
        behind(upstream, warm_connections=0) as service,
    ):
        told = [await asked(service, way) for way in WAYS]
        assert (await scrape(service)).by("upstream_errors_total", "type") == {"upstream_barred": len(WAYS)}
    assert upstream.requests == []
    assert [said.status for said in told] == [502] * len(WAYS)
    assert all(BARRED in said.words for said in told)
    plain = told[0].error
    assert (plain["type"], plain["retryable"]) == ("upstream_barred", False)
    assert {said.headers.get("x-should-retry") for said in told} == {"false"}
    lines = [line for line in caplog.messages if "upstream_barred" in line]
    assert lines
    assert all(f"502 upstream_barred: {BARRED}: {reason}" in line for line in lines)
