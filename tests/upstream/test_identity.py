"""Who the service is to Claude: as the SDK would say it, in whatever environment."""

from __future__ import annotations

import os
import subprocess
import sys

import anthropic
import httpx2
import pytest

from app.upstream.identity import API_VERSION, BASE_URL, Identity, IdentityError
from tests.conftest import ROOT

CUSTOM = "ANTHROPIC_CUSTOM_HEADERS"
KEY, TOKEN = {"ANTHROPIC_API_KEY": "sk-ant-key"}, {"ANTHROPIC_AUTH_TOKEN": "a-token"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own environment, nor of its user's profiles."""
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")


@pytest.mark.parametrize(
    "environ",
    [
        KEY,
        TOKEN,
        KEY | TOKEN,
        {"ANTHROPIC_API_KEY": ""} | TOKEN,
        KEY | {"ANTHROPIC_BASE_URL": "https://gateway.example/claude/"},
        KEY | {"ANTHROPIC_BASE_URL": ""},
        KEY | {"ANTHROPIC_CUSTOM_HEADERS": "X-Team: blue\n no colon \nanthropic-beta:a,b : c\n: nameless"},
        KEY | {"ANTHROPIC_CUSTOM_HEADERS": "Authorization: Basic abc\nuser-agent: mine\naccept-encoding: br"},
        KEY | {"ANTHROPIC_CUSTOM_HEADERS": " X-Team : blue \r\naccept: text/plain\nanthropic-version: 2023-06-01"},
        KEY | {"ANTHROPIC_CUSTOM_HEADERS": "X-Stainless-Lang: own\nX-Api-Key: other"},
        {"ANTHROPIC_CUSTOM_HEADERS": "X-Api-Key: other\nuser-agent: mine"},
        KEY | {"ANTHROPIC_PROFILE": "other", "ANTHROPIC_FEDERATION_RULE_ID": "r"},
    ],
)
def test_a_key_goes_up_as_the_sdk_would_send_it(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    http = httpx2.AsyncClient()
    ours = Identity.of(None, environ.get("ANTHROPIC_BASE_URL") or None, http)
    sdk = anthropic.AsyncAnthropic(base_url=environ.get("ANTHROPIC_BASE_URL") or None, http_client=http)
    sent = {name.lower(): value for name, value in sdk.default_headers.items()}
    # The SDK's words of itself are its own; the same names in the custom headers are the operator's.
    describing = {"accept", "content-type", "user-agent", "anthropic-version"}
    describing |= {name for name in sent if name.startswith("x-stainless-")}
    custom = {line.partition(":")[0].strip().lower() for line in environ.get(CUSTOM, "").split("\n")}
    left_out = (describing - custom) | {"accept", "content-type", "accept-encoding"}
    assert ours.headers == {name: value for name, value in sent.items() if name not in left_out}
    if environ.get("ANTHROPIC_BASE_URL") != "":  # which the SDK takes for an address that is nowhere
        assert str(ours.base_url).rstrip("/") == str(sdk.base_url).rstrip("/")
    assert ours.auth is sdk.custom_auth is None
    assert ours.known
    assert "anthropic-version" in custom or sent["anthropic-version"] == API_VERSION
    assert set(ours.keys) == {key for key in (sdk.api_key, sdk.auth_token) if key}


def test_a_key_that_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-other")
    identity = Identity.of("sk-ant-given", "http://127.0.0.1:1", httpx2.AsyncClient())
    assert identity.headers["authorization"] == "Bearer sk-ant-given"
    assert identity.keys == ("sk-ant-given",)
    assert "sk-ant" not in repr(identity)


def test_an_empty_header_is_nothing_to_ask_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUSTOM, "x-api-key:\nauthorization: ")
    assert not Identity.of(None, None, httpx2.AsyncClient()).known


def test_without_any_there_is_nothing_to_ask_with() -> None:
    identity = Identity.of(None, None, httpx2.AsyncClient())
    assert not identity.known
    assert str(identity.base_url).rstrip("/") == BASE_URL


def test_a_profile_that_is_not_there_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_PROFILE", "no-such-profile")
    with pytest.raises(IdentityError, match="no-such-profile"):
        Identity.of(None, None, httpx2.AsyncClient())


@pytest.mark.parametrize("both", [True, False])
def test_what_a_key_shadows_is_said(
    both: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (KEY | (TOKEN if both else {"ANTHROPIC_PROFILE": "dev"})).items():
        monkeypatch.setenv(name, value)
    Identity.of(None, None, httpx2.AsyncClient())
    assert ("ANTHROPIC_AUTH_TOKEN" if both else "ANTHROPIC_PROFILE") in caplog.text
    assert "sk-ant" not in caplog.text


@pytest.mark.real
def test_the_service_is_composed_without_the_sdk() -> None:
    """Its import takes most of a start, and half of a process's memory."""
    asked = "import sys, app.web.runner, app.web.process; print('anthropic' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.strip() == "False"
