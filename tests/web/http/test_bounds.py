"""What a caller may ask, on every protocol: models, output tokens, policies, and what passes unread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.access.callers import Caller
from app.errors import BadRequest, Forbidden
from app.settings.sections import Defaults
from app.streams.terms import Policy
from app.web.http.bounds import check_passing, within
from app.web.http.requests import ANYONE, parse_messages_request, parse_question
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.ways import ASKED, CHAT

HAIKU = Caller(name="acme", models=("claude-haiku-*", "claude-own"), max_tokens=100)
PATIENT = Caller(name="acme", policies=frozenset({"abort", "grace"}), grace_max_s=60.0)


def asked(**fields: Any) -> bytes:
    return json.dumps({"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []} | fields).encode()


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-haiku-", "claude-own"])
def test_a_model_that_a_pattern_names_may_be_asked(model: str) -> None:
    assert parse_messages_request(asked(model=model), HAIKU).model == model


@pytest.mark.parametrize(
    "model", ["claude-opus-4-8", "Claude-haiku-4-5", "claude-own-2", "x-claude-haiku-4", "", 5, None]
)
def test_another_one_may_not(model: object) -> None:
    with pytest.raises(
        Forbidden, match=r"^model: caller acme may not .* its models are claude-haiku-\*, claude-own$"
    ) as no:
        parse_messages_request(asked(model=model), HAIKU)
    assert (no.value.status, no.value.field) == (403, "model")


def test_of_a_field_that_comes_twice_the_last_counts_as_everywhere() -> None:
    twice = b'{"model": "claude-haiku-4", "max_tokens": 9, "messages": [], "mod\\u0065l": "claude-opus-4-8"}'
    assert json.loads(twice)["model"] == "claude-opus-4-8"
    with pytest.raises(Forbidden, match="claude-opus"):
        parse_messages_request(twice, HAIKU)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tools": [{"name": "f"}, {"type": "advisor_20260301", "model": "claude-opus-4-8"}]}, "tools[1].model"),
        ({"fallbacks": [{"model": "claude-opus-4-8"}]}, "fallbacks[0].model"),
        ({"fallbacks": [{"model": 5}]}, "fallbacks[0].model"),
    ],
)
def test_a_model_that_is_named_beside_it_may_not_either(fields: dict[str, Any], told: str) -> None:
    for parse in (
        lambda: parse_messages_request(asked(**fields), HAIKU),
        lambda: parse_question(asked(**{"messages": [{"role": "user", "content": "a"}]} | fields), Defaults(), HAIKU),
    ):
        with pytest.raises(Forbidden) as refused:
            parse()
        assert refused.value.field == told
    parse_messages_request(asked(**fields), ANYONE)


@pytest.mark.parametrize("fields", [{"fallbacks": "default"}, {"tools": {}}, {"tools": [5]}, {"tools": 1e400}])
def test_where_the_models_beside_it_cannot_be_seen_it_is_refused(fields: dict[str, Any]) -> None:
    raw = asked(**fields).replace(b"Infinity", b"1e400")
    with pytest.raises(BadRequest, match="must be a list of objects"):
        parse_messages_request(raw, HAIKU)
    parse_messages_request(raw, ANYONE)


def test_what_names_no_model_beside_it_is_fine() -> None:
    tools = [
        {"name": "f", "input_schema": {"properties": {"model": {"type": "string"}}}},
        {"type": "web_search", "model": None},
    ]
    parse_messages_request(asked(tools=tools, fallbacks=[{"model": "claude-own", "max_tokens": 100}]), HAIKU)
    parse_messages_request(asked(tools=None, fallbacks=[]), HAIKU)


@pytest.mark.parametrize("tokens", [101, 0, -1, 99.5, 1e1, "9", True, None, [9]])
def test_an_answer_above_its_bound_or_of_no_bound_is_refused(tokens: object) -> None:
    with pytest.raises(BadRequest, match=r"^max_tokens must be from 1 to 100 for caller acme$") as refused:
        parse_messages_request(asked(max_tokens=tokens), HAIKU)
    assert refused.value.field == "max_tokens"
    with (
        pytest.raises(BadRequest, match=r"^fallbacks\[0\]\.max_tokens must be from 1 to 100")
        if tokens is not None
        else (pytest.raises(Forbidden))
    ):
        parse_messages_request(asked(fallbacks=[{"max_tokens": tokens}, {"model": "x"}]), HAIKU)


def test_what_only_counts_needs_no_max_tokens_but_an_allowed_model() -> None:
    raw = json.dumps({"model": "claude-own", "messages": []}).encode()
    assert parse_messages_request(raw, HAIKU, counts=True).max_tokens == 0
    with pytest.raises(Forbidden):
        parse_messages_request(raw.replace(b"own", b"opus"), HAIKU, counts=True)


def question(caller: Caller, defaults: Defaults | None = None, **fields: Any) -> Any:
    return parse_question(json.dumps({"prompt": "a"} | fields).encode(), defaults or Defaults(), caller)[0]


def test_where_a_question_does_not_say_it_stays_within_the_callers_bounds() -> None:
    bounded = Caller(name="acme", max_tokens=100, grace_max_s=10.0, policies=frozenset({"abort"}))
    got = question(bounded, Defaults(policy="drain"))
    assert (got.max_tokens, got.policy) == (100, Policy.ABORT)
    assert question(PATIENT, resumable=True).grace_s == 30.0
    assert question(Caller(grace_max_s=10.0), resumable=True).grace_s == 10.0


def test_bounds_above_the_services_own_change_nothing() -> None:
    assert within(Defaults(), Caller(max_tokens=10**6, grace_max_s=3600.0)) == Defaults()
    assert within(Defaults(grace_s=400.0), Caller(grace_max_s=3600.0)).grace_max_s == 400.0


def test_a_question_above_its_bounds_is_refused_with_them() -> None:
    with pytest.raises(BadRequest, match=r"^max_tokens must be from 1 to 100, not 101$"):
        question(HAIKU, model="claude-own", max_tokens=101)
    with pytest.raises(BadRequest, match=r"^grace_s must be from 0 to 60 seconds$"):
        question(PATIENT, resumable=True, grace_s=61)
    with pytest.raises(
        Forbidden, match=r"^policy: caller acme may not ask for drain; its policies are abort, grace$"
    ) as no:
        question(PATIENT, policy="drain")
    assert no.value.field == "policy"
    assert question(PATIENT, policy="grace", grace_s=60).grace_s == 60
    assert question(ANYONE, policy="drain").policy is Policy.DRAIN


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/v1/models", True),
        ("HEAD", "/v1/models", True),
        ("GET", "/v1/messages/batches/b/results", True),
        ("DELETE", "/v1/files/f", True),
        ("POST", "/v1/files", True),
        ("POST", "/v1/skills/s/versions", True),
        ("POST", "/v1/filesystem", False),
        ("POST", "/v1/messages/batches", False),
        ("POST", "/v1/complete", False),
        ("PUT", "/v1/agents/a", False),
    ],
)
def test_a_bounded_caller_asks_nothing_on_paths_that_are_not_read(method: str, path: str, passes: bool) -> None:
    for name, bound in {"models": ("a",), "max_tokens": 1, "output_tokens_per_minute": 1}.items():
        if passes:
            check_passing(Caller(**{name: bound}), method, path)  # type: ignore[arg-type]
            continue
        with pytest.raises(Forbidden, match=rf"may not {method} {path}: .* {name} could not be held") as refused:
            check_passing(Caller(**{name: bound}), method, path)  # type: ignore[arg-type]
        assert refused.value.field == name
    check_passing(ANYONE, method, path)


def test_a_caller_without_them_passes_nothing() -> None:
    with pytest.raises(Forbidden, match="upstream_passthrough is false"):
        check_passing(Caller(name="acme", upstream_passthrough=False), "GET", "/v1/models")


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/v1/models", True),
        ("GET", "/v1/models/claude-opus-4-8", True),
        ("HEAD", "/v1/models", True),
        ("POST", "/v1/models", False),
        ("GET", "/v1/modelsx", False),
        ("GET", "/v1/files", False),
        ("POST", "/v1/messages/batches", False),
    ],
)
def test_a_budget_closes_what_is_not_booked_and_leaves_open_what_costs_nothing(
    method: str, path: str, passes: bool
) -> None:
    caller = Caller(name="acme", upstream_passthrough=False, budget_closes=True)
    if passes:
        check_passing(caller, method, path)
        return
    with pytest.raises(Forbidden, match="there is a budget") as refused:
        check_passing(caller, method, path)
    assert refused.value.field == "upstream_passthrough"


FILE = """
[callers.acme]
models = ["claude-haiku-*"]
max_tokens = 100
[callers.own]
upstream_passthrough = false
[callers.paying]
budget_usd_per_day = 5
"""


@pytest.fixture
async def bounded(serve: Serve, tmp_path: Path) -> Running:
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    path.write_text(FILE, "utf-8")
    return await serve(callers_file=str(path), api_keys=("acme:key", "own:own", "paying:paying"))


HAIKU_CHAT = CHAT | {"model": "claude-haiku-4-5"}
SMALL = {"model": "claude-haiku-4-5", "max_tokens": 9}


@pytest.mark.parametrize("beyond", [{"model": "claude-opus-4-8"}, {"max_tokens": 101}])
async def test_each_protocol_refuses_in_its_own_shape_and_serves_what_is_within(
    bounded: Running, client: aiohttp.ClientSession, beyond: dict[str, Any]
) -> None:
    field = next(iter(beyond))
    for path, body in {
        "/api/stream": {"prompt": "Go."} | SMALL,
        "/api/chat": CHAT | SMALL,
        "/v1/messages": ASKED | SMALL | {"stream": True},
        "/v1/messages?beta=true": ASKED | SMALL,
        "/v1/messages/count_tokens": ASKED | SMALL,
    }.items():
        headers = {"x-api-key": "key"}
        async with client.post(bounded.url + path, json=body, headers=headers) as response:
            assert (response.status, await response.read() != b"") == (200, True), path
        async with client.post(bounded.url + path, json=body | beyond, headers=headers) as response:
            if path.endswith("count_tokens") and field == "max_tokens":
                continue
            told = await response.json()
            assert response.status == (403 if field == "model" else 400), path
            error = told["error"] if path.startswith("/v1") else {"type": told["type"], "message": told["error"]}
            assert error["type"] == ("permission_error" if field == "model" else "invalid_request_error")
            assert field in error["message"]
            assert ("claude-haiku-*" if field == "model" else "100") in error["message"]


async def test_what_passes_is_held_too(bounded: Running, client: aiohttp.ClientSession) -> None:
    told = {}
    for key, method, path in (
        ("key", "GET", "/v1/models"),
        ("key", "POST", "/v1/messages/batches"),
        ("own", "GET", "/v1/models"),
        ("paying", "GET", "/v1/models"),
        ("paying", "GET", "/v1/files"),
    ):
        async with client.request(method, bounded.url + path, json={}, headers={"x-api-key": key}) as response:
            told[key, path] = response.status, "upstream_passthrough" in await response.text()
    assert told == {
        ("key", "/v1/models"): (200, False),
        ("key", "/v1/messages/batches"): (403, False),
        ("own", "/v1/models"): (403, True),
        ("paying", "/v1/models"): (200, False),
        ("paying", "/v1/files"): (403, True),
    }
