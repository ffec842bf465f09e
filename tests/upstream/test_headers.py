"""Which headers pass, up and down: a table of names, each with the reason where it is held back."""

from __future__ import annotations

import pytest

from app.upstream.headers import HELD_BACK_DOWN, HELD_BACK_UP, MOST_BYTES_DOWN, HeadersUp, headers_down

UP = HeadersUp(["X-Team", "x-my-*", "Cookie", "Authorization", "*-wrong"])

# name, whether it goes up with the client's own request, whether with a question in the service's words
NAMES_UP = [
    ("anthropic-version", True, True),
    ("Anthropic-Beta", True, True),
    ("anthropic-workspace-id", True, True),
    ("anthropic-user-profile-id", True, True),
    ("anthropic-dangerous-direct-browser-access", True, True),
    ("anthropic-learnt-tomorrow", True, True),
    ("x-anthropic-additional-protection", True, True),
    ("X-Claude-Code-Session-Id", True, True),
    ("x-claude-learnt-tomorrow", True, True),
    ("Idempotency-Key", True, True),
    ("x-app", True, True),
    ("x-client-request-id", True, True),
    ("X-TEAM", True, True),
    ("x-my-own", True, True),
    ("User-Agent", True, False),
    ("Accept", True, False),
    ("Content-Type", True, False),
    ("X-Stainless-Lang", True, False),
    ("x-stainless-retry-count", True, False),
    ("x-stainless-raw-response", False, False),
    ("authorization", False, False),
    ("x-api-key", False, False),
    ("Cookie", False, False),
    ("host", False, False),
    ("content-length", False, False),
    ("transfer-encoding", False, False),
    ("connection", False, False),
    ("accept-encoding", False, False),
    ("x-stop-token", False, False),
    ("last-event-id", False, False),
    ("x-forwarded-for", False, False),
    ("origin", False, False),
    ("x-teams", False, False),
    ("x-appl", False, False),
]


@pytest.mark.parametrize(("name", "client", "service"), NAMES_UP)
def test_a_header_goes_up_where_it_is_addressed_to_claude(name: str, client: bool, service: bool) -> None:
    for as_client, goes in ((True, client), (False, service)):
        assert UP.of([(name, "v")], as_client=as_client) == ({name.lower(): "v"} if goes else {})


NAMES_DOWN = [
    ("request-id", True),
    ("Anthropic-Organization-Id", True),
    ("anthropic-ratelimit-tokens-remaining", True),
    ("retry-after", True),
    ("retry-after-ms", True),
    ("x-should-retry", True),
    ("content-type", True),
    ("deprecation", True),
    ("sunset", True),
    ("warning", True),
    ("server-timing", True),
    ("cf-ray", True),
    ("x-learnt-tomorrow", True),
    ("cache-control", True),
    ("Connection", False),
    ("keep-alive", False),
    ("Transfer-Encoding", False),
    ("content-length", False),
    ("Content-Encoding", False),
    ("Set-Cookie", False),
    ("strict-transport-security", False),
    ("access-control-allow-origin", False),
    ("alt-svc", False),
    ("X-Accel-Redirect", False),
    ("x-accel-limit-rate", False),
    ("x-accel-learnt-tomorrow", False),
    ("x-accelerated", True),
    ("X-Stream-Id", False),
    ("x-stop-token", False),
    ("x-resumable", False),
]


@pytest.mark.parametrize(("name", "comes"), NAMES_DOWN)
def test_a_header_comes_down_unless_it_is_said_of_a_connection_or_of_claudes_host(name: str, comes: bool) -> None:
    assert headers_down([(name, "v")]) == ([(name, "v")] if comes else [])


def test_what_is_held_back_has_its_reason() -> None:
    for name, reason in [*HELD_BACK_UP.items(), *HELD_BACK_DOWN.items()]:
        assert name == name.lower()
        assert len(reason) > 10


def test_repeated_lines_go_up_as_one_joined_with_commas() -> None:
    """RFC 9110, 5.3; the SDKs' gateways send one `anthropic-beta` line for each."""
    lines = [("anthropic-beta", "one"), ("X-App", "cli"), ("Anthropic-Beta", "two,three"), ("anthropic-beta", "")]
    assert UP.of(lines, as_client=True) == {"anthropic-beta": "one, two,three", "x-app": "cli"}


def test_repeated_lines_come_down_as_they_are() -> None:
    lines = [("warning", "one"), ("x", "1"), ("Warning", "two")]
    assert headers_down(lines) == lines


def test_no_more_comes_down_than_a_proxy_takes_and_what_clients_act_on_goes_before_the_rest() -> None:
    acted_on = [("Request-Id", "r"), ("retry-after", "1"), ("anthropic-later", "é" * 1000), ("Content-Type", "a/b")]
    lines = [("x-long", "x" * MOST_BYTES_DOWN), *(("x", "y" * 480) for _ in range(20)), *acted_on, ("x-short", "z")]
    down = headers_down(lines)
    assert [line for line in down if line in acted_on] == acted_on
    assert down[0] == lines[1]
    assert down[-1] == lines[-1]
    assert 2 < down.count(("x", "y" * 480)) < 20
    assert sum(len(f"{name}: {value}\r\n".encode()) for name, value in down) <= MOST_BYTES_DOWN
    assert headers_down([("anthropic-a", "x" * 4000), ("anthropic-b", "x" * 4000)]) == [("anthropic-a", "x" * 4000)]


def test_what_connection_names_stays_on_its_connection() -> None:
    lines = [
        ("Connection", "close, X-App"),
        ("x-app", "cli"),
        ("anthropic-beta", "one"),
        ("connection", "Anthropic-Beta"),
    ]
    assert UP.of(lines, as_client=True) == {}
    assert headers_down([("connection", "x-hop"), ("X-Hop", "1"), ("x", "2")]) == [("x", "2")]


@pytest.mark.parametrize(
    ("value", "sent"), [("plain", "plain"), ("café", "café"), ("caf\udce9", "café"), ("caf\udcc3\udca9", "cafÃ©")]
)
def test_a_value_that_is_no_utf8_can_be_sent_on(value: str, sent: str) -> None:
    assert UP.of([("x-app", value)], as_client=True) == {"x-app": sent}
    assert headers_down([("x-app", value)]) == [("x-app", sent)]
