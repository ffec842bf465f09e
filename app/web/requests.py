"""What a request's body asks for: checks our own fields strictly and passes the Messages API's own ones on. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import msgspec
from anthropic.types import message_create_params

from ..errors import BadRequest
from ..streams.terms import Policy

# The fields that the Messages API knows, from the SDK itself, so that a new SDK brings new fields.
CLAUDE_FIELDS = frozenset(message_create_params.MessageCreateParamsBase.__annotations__) - {"stream"}
OWN_FIELDS = frozenset({"prompt", "resumable", "policy", "grace_s", "credits"})
_KNOWN = CLAUDE_FIELDS | OWN_FIELDS


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is asked where the request does not say, and the bound of what it may ask.

    Attributes:
        model, max_tokens: sent as they are.
        thinking: `adaptive`, `disabled`, or empty to send none.
        max_tokens_limit: the largest `max_tokens` taken.
        policy, grace_s: what happens when the reader is lost.
        grace_max_s: the longest grace period that may be asked for.
    """

    model: str
    max_tokens: int
    thinking: str
    max_tokens_limit: int
    policy: Policy
    grace_s: float
    grace_max_s: float


@dataclass(frozen=True, slots=True)
class Question:
    """A request of the plain protocol, checked.

    Attributes:
        params: the Messages API's request fields.
        model: the model asked for.
        max_tokens: the most output tokens of the answer.
        thinking: whether the reader asked for thinking, and so is sent it.
        policy, grace_s: what happens when the reader is lost.
        credits: the page will acknowledge what it has shown.
    """

    params: dict[str, Any]
    model: str
    max_tokens: int
    thinking: bool
    policy: Policy
    grace_s: float
    credits: bool


def parse_question(raw: bytes, defaults: Defaults) -> Question:
    """Reads the body of `POST /api/stream`.

    Raises:
        BadRequest: names the field and the bound.
    """
    return question_of(parse_object(raw), defaults)


def question_of(body: dict[str, Any], defaults: Defaults) -> Question:
    """Checks a question that is decoded already. Raises BadRequest."""
    for name in body:
        if name not in _KNOWN:
            raise _unknown(name)
    messages = _messages(body)
    model = _string(body, "model", defaults.model)
    max_tokens = body.get("max_tokens", defaults.max_tokens)
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
        raise BadRequest("max_tokens must be a whole number", field="max_tokens")
    if not 1 <= max_tokens <= defaults.max_tokens_limit:
        raise BadRequest(
            f"max_tokens must be from 1 to {defaults.max_tokens_limit}, not {max_tokens}", field="max_tokens"
        )
    _check_types(body)
    params = {name: value for name, value in body.items() if name in CLAUDE_FIELDS}
    params |= {"messages": messages, "model": model, "max_tokens": max_tokens}
    asked = body.get("thinking")
    if asked is None and defaults.thinking:
        params["thinking"] = {"type": defaults.thinking}
    shown = isinstance(asked, dict) and asked.get("type") != "disabled"
    policy, grace_s = _policy(body, defaults)
    return Question(params, model, max_tokens, shown, policy, grace_s, credits=body.get("credits") is True)


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object from a request's body. Raises BadRequest."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}" if raw else "the body is empty; it must be JSON") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def _unknown(name: str) -> BadRequest:
    name = name[:80]  # the caller's own word: a megabyte of it is not compared, nor sent back
    near = difflib.get_close_matches(name, _KNOWN, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if name == "stream":
        hint = "; this path always streams"
    return BadRequest(f"unknown field {name}{hint}", field=name)


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    prompt, messages = body.get("prompt"), body.get("messages")
    if prompt is None and messages is None:
        raise BadRequest("prompt is missing: send either prompt (a string) or messages (a list)", field="prompt")
    if prompt is not None and messages is not None:
        raise BadRequest("prompt and messages exclude each other: send one of them", field="prompt")
    if messages is None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadRequest("prompt must be a string that is not blank", field="prompt")
        return [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message", field="messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise BadRequest(
                f"messages[{place}] must have a role: user, assistant or system", field=f"messages[{place}]"
            )
        if not isinstance(message.get("content"), str | list):
            raise BadRequest(
                f"messages[{place}].content must be a string or a list of blocks", field=f"messages[{place}].content"
            )
    return messages


def _policy(body: dict[str, Any], defaults: Defaults) -> tuple[Policy, float]:
    """What happens when the reader is lost: `policy`, or `resumable`, or the default."""
    try:
        policy = Policy(body.get("policy", defaults.policy.value))
    except ValueError:
        raise BadRequest("policy must be abort, grace or drain", field="policy") from None
    for name in ("resumable", "credits"):
        if not isinstance(body.get(name, False), bool):
            raise BadRequest(f"{name} must be true or false", field=name)
    if "policy" not in body and "resumable" in body:
        policy = Policy.GRACE if body["resumable"] else Policy.ABORT
    grace_s = body.get("grace_s", defaults.grace_s)
    if not isinstance(grace_s, int | float) or isinstance(grace_s, bool):
        raise BadRequest("grace_s must be a number of seconds", field="grace_s")
    if not 0 <= grace_s <= defaults.grace_max_s:
        raise BadRequest(f"grace_s must be from 0 to {defaults.grace_max_s:g} seconds", field="grace_s")
    return policy, float(grace_s)


def _string(body: dict[str, Any], name: str, default: str) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise BadRequest(f"{name} must be a string of 1 to 200 characters", field=name)
    return value


_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "system": ((str, list), "a string or a list of text blocks"),
    "thinking": (dict, "an object with a type"),
    "tools": (list, "a list of tools"),
    "tool_choice": (dict, "an object with a type"),
    "stop_sequences": (list, "a list of strings"),
    "metadata": (dict, "an object"),
}


def _check_types(body: dict[str, Any]) -> None:
    for name, (kind, told) in _TYPES.items():
        if name in body and not isinstance(body[name], kind):
            raise BadRequest(f"{name} must be {told}", field=name)
