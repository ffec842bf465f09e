"""Tokens that the SDK fetches and renews, in place of a key: every request of the service has one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from app.settings import Settings
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.support.raw_upstream import HELLO, MESSAGE, RawUpstream, raw_upstream, response, stream

pytestmark = pytest.mark.real

QUESTION = {"model": "claude-opus-4-8", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}


def token(value: str, lives_s: int = 3600) -> bytes:
    said = {"access_token": value, "token_type": "Bearer", "expires_in": lives_s}
    return response(json.dumps(said).encode(), content_type="application/json")


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RawUpstream]:
    """Gives a token, then answers; the environment says that tokens are to be had there."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_FEDERATION_RULE_ID", "fdrl_1")
    monkeypatch.setenv("ANTHROPIC_ORGANIZATION_ID", "org_1")
    monkeypatch.setenv("ANTHROPIC_IDENTITY_TOKEN", "the-identity-token")
    async with raw_upstream([token("sk-ant-oat01-first")], [stream(HELLO)]) as upstream:
        yield upstream


async def served(upstream: RawUpstream) -> Any:
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0, "warm_connections": 0})
    return running(settings, Credentials(base_url=upstream.url))


def authorization(head: str) -> list[str]:
    return [line.lower() for line in head.split("\r\n") if line.lower().startswith(("authorization:", "x-api-key:"))]


@pytest.mark.parametrize("path", ["/api/stream", "/v1/messages", "/v1/messages/count_tokens", "/v1/files", "whole"])
async def test_each_way_to_claude_asks_with_the_token_that_was_fetched_once(
    path: str, upstream: RawUpstream, client: ClientSession
) -> None:
    answer = [stream(HELLO)] if path in ("/api/stream", "/v1/messages") else [response(json.dumps(MESSAGE).encode())]
    if path == "/v1/messages/count_tokens":
        answer = [response(b'{"input_tokens": 3}')]
    upstream.plays[1:] = [answer]
    body = QUESTION | ({"stream": True} if path == "/v1/messages" else {})
    url = "/v1/messages" if path == "whole" else path
    service: Running
    async with await served(upstream) as service:
        for _ in range(2):
            async with client.post(f"{service.url}{url}", json=body) as said:
                await said.read()
                assert said.status == 200
    heads = [head for head, _body in upstream.requests]
    assert heads[0].startswith("POST /v1/oauth/token ")
    assert [authorization(head) for head in heads[1:]] == [["authorization: bearer sk-ant-oat01-first"]] * 2
    assert all("oauth-2025-04-20" in head for head in heads[1:])


async def test_a_token_that_is_refused_is_told_as_a_way_that_failed_and_gives_nothing_away(
    upstream: RawUpstream, client: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays[:] = [[response(b'{"error": "invalid_grant", "error_description": "no rule fits"}', 401)]]
    async with await served(upstream) as service, client.post(f"{service.url}/v1/messages", json=QUESTION) as said:
        told = await said.text()
        assert said.status == 502
    assert "could get no token to ask Claude with" in told
    assert "no rule fits" in caplog.text  # the operator's to mend
    assert "the-identity-token" not in told + caplog.text
