"""What a request's body asks for. Our own fields are checked strictly; the Messages API's go up as they came. Pure.

A body is never decoded deeper than it must be: a prompt of megabytes stays a piece of JSON from its client to Claude, who
judges it. So nothing here takes longer than to read the bytes once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Raw

from ...access.callers import Caller
from ...errors import BadRequest
from ...settings.sections import OWN_FIELDS, Defaults
from ...streams.terms import Policy
from .bounds import check_asked, check_policy, within

# The fields that the Messages API knows: those of the SDK's types, as a test demands, so that a new SDK brings new fields.
CLAUDE_FIELDS = frozenset(
    {
        "cache_control", "container", "diagnostics", "inference_geo", "max_tokens", "messages", "metadata", "model",
        "output_config", "service_tier", "speed", "stop_sequences", "system", "thinking", "tool_choice", "tools",
        "user_profile_id", "workspace_id",
    }
)  # fmt: skip
# A name this much like one of ours is a slip of the pen, not a field that Claude has and we do not know.
_LIKE_OURS = 0.85

# A question may have this many fields. The Messages API has some thirty, and each unknown one is compared with ours.
_MOST_FIELDS = 200
# A prompt above this size is taken for not blank, because decoding megabytes to see that would block the loop.
_BLANK_BYTES = 65_536
# A page that acknowledges may have this little out: some batches, so that there is always one on the way.
LEAST_CREDIT_BYTES = 2048
# A number may have this many digits, so that it is below 2**53 and the same in every language.
_LONGEST_NUMBER = 15

_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_WHOLE_NUMBER = re.compile(rb"-?\d+")
_BETA = re.compile(r"[!-+\--~]{1,100}")  # printable, without a comma, which separates them in the header

# Whom nothing bounds.
ANYONE = Caller()

T = TypeVar("T")


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Raw]


class _Thinking(msgspec.Struct):
    type: Raw = Raw(b"null")


_thinking_of = msgspec.json.Decoder(_Thinking).decode
_messages_of = msgspec.json.Decoder(list[_Message]).decode


@dataclass(frozen=True, slots=True)
class Question:
    """A request of our own protocols, checked.

    Attributes:
        model: the model asked for.
        max_tokens: the most output tokens of the answer.
        thinking: whether the reader asked for thinking, and so is sent it.
        policy, grace_s: what happens when the reader is lost.
        credits: the page will acknowledge what it has shown, and wants no more than so many bytes out; infinite for as
            many as the service allows, 0 where it does not acknowledge.
        betas: for the `anthropic-beta` header.
    """

    model: str
    max_tokens: int
    thinking: bool
    policy: Policy
    grace_s: float
    credits: float
    betas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """What must be known of a request of the Messages API, which goes up as it came.

    Attributes:
        model: the model asked for; empty where Claude will refuse it.
        max_tokens: the most output tokens of the answer; 0 where Claude will refuse it.
        stream: it asks for a stream.
    """

    model: str
    max_tokens: int
    stream: bool


class _MessagesFields(msgspec.Struct):
    model: Raw = Raw(b"null")
    max_tokens: Raw = Raw(b"null")
    stream: Raw = Raw(b"false")
    tools: Raw = Raw(b"null")
    fallbacks: Raw = Raw(b"null")


_messages_fields = msgspec.json.Decoder(_MessagesFields).decode


def parse_messages_request(raw: bytes, caller: Caller = ANYONE, *, counts: bool = False) -> MessagesRequest:
    """Reads the body of `POST /v1/messages`, all but three fields of which are Claude's affair.

    Args:
        raw: the body.
        caller: who asks; where it is bounded, `tools` and `fallbacks` are looked at too.
        counts: nothing is to be answered, so that there is no `max_tokens`.

    Raises:
        BadRequest: it is no JSON object, or `max_tokens` no number that any model could mean, or above the caller's bound.
        Forbidden: the caller may not ask this model.
    """
    asked = _decoded(_messages_fields, raw)
    model = _value(asked.model)[:200] if _begins(asked.model, b'"') else ""
    max_tokens = bytes(asked.max_tokens)
    # The bound is above any model's, so that only what Claude would refuse too is refused, and the books stay bounded.
    tokens = _whole_number(max_tokens, "max_tokens", 10**9) if _WHOLE_NUMBER.fullmatch(max_tokens) else 0
    bounded = replace(caller, max_tokens=None) if counts else caller
    check_asked(bounded, model, tokens, {"tools": asked.tools, "fallbacks": asked.fallbacks})
    return MessagesRequest(model, max(0, tokens), bytes(asked.stream) == b"true")


def parse_question(raw: bytes, defaults: Defaults, caller: Caller = ANYONE) -> tuple[Question, bytes]:
    """Reads the body of `POST /api/stream`.

    Returns:
        What it asks for, and the request to Claude, in JSON.

    Raises:
        BadRequest: names the field and the bound. Forbidden: the caller may not ask this.
    """
    return question_of(parse_fields(raw), defaults, caller)


def question_of(fields: Mapping[str, Raw], defaults: Defaults, caller: Caller) -> tuple[Question, bytes]:
    """Checks the fields of a question, as `parse_question` does, and raises what it raises."""
    defaults = within(defaults, caller)
    sent: dict[str, Raw | Any] = {name: value for name, value in fields.items() if name not in defaults.ignore_fields}
    if len(sent) > _MOST_FIELDS:
        raise BadRequest(f"the body has more than {_MOST_FIELDS} fields")
    prompt = sent.pop("prompt", None)
    own = {name: _value(sent.pop(name)) for name in OWN_FIELDS if name in sent}
    for name in sent:
        _check_name(name)
    sent["messages"] = _messages(prompt, sent.get("messages"))
    model = _model(sent.get("model"), defaults)
    max_tokens = _max_tokens(sent.get("max_tokens"), defaults)
    _check_types(sent)
    shown = "thinking" in sent and bytes(_thinking_of(sent["thinking"]).type) != b'"disabled"'
    sent |= {"model": model, "max_tokens": max_tokens}
    if defaults.thinking:
        sent.setdefault("thinking", {"type": defaults.thinking})
    check_asked(caller, model, max_tokens, sent)
    policy, grace_s = _policy(own, defaults)
    check_policy(caller, policy)
    body = msgspec.json.encode(sent | {"stream": True})
    credits, betas = credits_of(own.get("credits", False)), _betas(own)
    return Question(model, max_tokens, shown, policy, grace_s, credits, betas), body


def parse_fields(raw: bytes) -> dict[str, Raw]:
    """The fields of a JSON object from a request's body, each as it came. Raises BadRequest."""
    return _decoded(_fields, raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """A small JSON object from a request's body. Raises BadRequest."""
    return _decoded(msgspec.json.Decoder(dict[str, Any]).decode, raw)


def frame_number(fields: Mapping[str, Raw]) -> int:
    """The `id` that a page says it has shown. Raises BadRequest."""
    raw = bytes(fields.get("id", b""))
    if not _WHOLE_NUMBER.fullmatch(raw) or raw.startswith(b"-") or len(raw) > _LONGEST_NUMBER:
        raise BadRequest("id must be the number of a frame", field="id")
    return int(raw)


def next_word_s(fields: Mapping[str, Raw]) -> float:
    """The `again_s` of such a word, within which the next one follows; infinite where it is not said. Raises BadRequest."""
    again_s = field_value(fields, "again_s") if "again_s" in fields else math.inf
    if isinstance(again_s, bool) or not isinstance(again_s, int | float) or again_s <= 0:
        raise BadRequest("again_s must be a number of seconds", field="again_s")
    return again_s


def _decoded(decode: Callable[[bytes], T], raw: bytes) -> T:
    try:
        try:
            return decode(raw)
        except msgspec.ValidationError:
            msgspec.json.decode(raw, type=Raw)  # or no JSON at all
            raise BadRequest("the body must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}" if raw else "the body is empty; it must be JSON") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None


def field_value(fields: Mapping[str, Raw], name: str) -> Any:
    """What a field holds; None where it is not there, or holds what nothing of ours can. Raises BadRequest."""
    return _value(fields[name]) if name in fields else None


def _value(raw: Raw) -> Any:
    """What a field holds; None for what nothing of ours can hold, such as `1e999`. Raises BadRequest if it is no UTF-8."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None


def _begins(raw: Raw, begins: bytes) -> bool:
    """Whether a piece of JSON begins with one of these characters, which tells of what kind it is."""
    return memoryview(raw)[:1].tobytes() in [bytes([character]) for character in begins]


def _check_name(name: str) -> None:
    if name in CLAUDE_FIELDS:
        return
    if name == "stream":
        raise BadRequest("unknown field stream; this path always streams", field=name)
    if len(name) > 80:  # a name may be a megabyte long: so much is neither compared nor sent back
        raise BadRequest(f"unknown field {name[:80]}", field=name[:80])
    near = difflib.get_close_matches(name.lower(), OWN_FIELDS, n=1, cutoff=_LIKE_OURS)
    if near:
        raise BadRequest(f"unknown field {name}; did you mean {near[0]}?", field=name)


def _messages(prompt: Raw | None, messages: Raw | None) -> Raw:
    prompt, messages = (None if field is None or _begins(field, b"n") else field for field in (prompt, messages))
    if prompt is None and messages is None:
        raise BadRequest("prompt is missing: send either prompt (a string) or messages (a list)", field="prompt")
    if prompt is not None and messages is not None:
        raise BadRequest("prompt and messages exclude each other: send one of them", field="prompt")
    if messages is None:
        assert prompt is not None, "one of them is there"
        small = memoryview(prompt).nbytes <= _BLANK_BYTES
        if not _begins(prompt, b'"') or (small and not _value(prompt).strip()):
            raise BadRequest("prompt must be a string that is not blank", field="prompt")
        return Raw(b'[{"role":"user","content":%b}]' % bytes(prompt))
    try:
        if not _messages_of(messages):
            raise BadRequest("messages must be a list of at least one message", field="messages")
    except (msgspec.ValidationError, UnicodeDecodeError):
        _tell_messages_fault(_value(messages))
    return messages


def _tell_messages_fault(messages: Any) -> None:
    """Raises BadRequest where one of them has not the shape of a message."""
    if not isinstance(messages, list):
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


def _model(raw: Raw | None, defaults: Defaults) -> str:
    model = defaults.model if raw is None else _value(raw)
    if not isinstance(model, str) or not 1 <= len(model) <= 200:
        raise BadRequest("model must be a string of 1 to 200 characters", field="model")
    return model


def _max_tokens(raw: Raw | None, defaults: Defaults) -> int:
    if raw is None:
        return defaults.max_tokens
    return _whole_number(bytes(raw), "max_tokens", defaults.max_tokens_limit, lowest=1)


def _whole_number(raw: bytes, name: str, highest: int, *, lowest: int | None = None) -> int:
    """A number within bounds. It is checked here, where it enters, because what follows may multiply and print it."""
    if not _WHOLE_NUMBER.fullmatch(raw):
        raise BadRequest(f"{name} must be a whole number", field=name)
    bound = f"at most {highest}" if lowest is None else f"from {lowest} to {highest}"
    if len(raw) > _LONGEST_NUMBER:
        raise BadRequest(f"{name} must be {bound}, not a number of {len(raw)} digits", field=name)
    number = int(raw)
    if number > highest or (lowest is not None and number < lowest):
        raise BadRequest(f"{name} must be {bound}, not {number}", field=name)
    return number


def credits_of(asked: object) -> float:
    """How many bytes a page wants out at most: a number, or true for as many as the service allows. Raises BadRequest."""
    if isinstance(asked, bool):
        return math.inf if asked else 0
    if not isinstance(asked, int | float) or asked < LEAST_CREDIT_BYTES:
        raise BadRequest(f"credits must be true, false, or bytes from {LEAST_CREDIT_BYTES}", field="credits")
    return asked


def _policy(own: Mapping[str, Any], defaults: Defaults) -> tuple[Policy, float]:
    """What happens when the reader is lost: `policy`, or `resumable`, or the default."""
    try:
        policy = Policy(own.get("policy", defaults.policy))
    except ValueError:
        raise BadRequest("policy must be abort, grace or drain", field="policy") from None
    if not isinstance(own.get("resumable", False), bool):
        raise BadRequest("resumable must be true or false", field="resumable")
    if "policy" not in own and "resumable" in own:
        policy = Policy.GRACE if own["resumable"] else Policy.ABORT
    grace_s = own.get("grace_s", defaults.grace_s)
    if not isinstance(grace_s, int | float) or isinstance(grace_s, bool):
        raise BadRequest("grace_s must be a number of seconds", field="grace_s")
    longest_s = max(defaults.grace_s, defaults.grace_max_s)
    if not 0 <= grace_s <= longest_s:
        raise BadRequest(f"grace_s must be from 0 to {longest_s:g} seconds", field="grace_s")
    return policy, float(grace_s)


def _betas(own: Mapping[str, Any]) -> tuple[str, ...]:
    betas = own.get("betas", [])
    if not isinstance(betas, list) or not all(isinstance(beta, str) and _BETA.fullmatch(beta) for beta in betas):
        raise BadRequest("betas must be a list of names, such as files-api-2025-04-14", field="betas")
    return tuple(betas)


# How the JSON of each begins.
_TYPES: dict[str, tuple[bytes, str]] = {
    "system": (b'"[', "a string or a list of text blocks"),
    "thinking": (b"{", "an object with a type"),
    "tools": (b"[", "a list of tools"),
    "tool_choice": (b"{", "an object with a type"),
    "stop_sequences": (b"[", "a list of strings"),
    "metadata": (b"{", "an object"),
}


def _check_types(sent: Mapping[str, Any]) -> None:
    for name, (begins, told) in _TYPES.items():
        if name in sent and not _begins(sent[name], begins):
            raise BadRequest(f"{name} must be {told}", field=name)
