"""The schemas of `/openapi.json`: what goes in and out, with the settings' own bounds; parameters and headers. Pure."""

from __future__ import annotations

from typing import Any

from ...settings import Settings
from ...streams.terms import Policy
from ..http.requests import LEAST_CREDIT_BYTES

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_SECONDS = {"type": "number", "minimum": 0}
# What Claude judges: its fields are those of the Messages API, and newer ones pass too.
_CLAUDES = "Claude's own, as the Messages API has it"
_ROLES = ("user", "assistant", "system")

PARAMETERS: dict[str, Any] = {
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "the number of the last frame that the reader has; without it, it is sent all of them",
        "schema": {"type": "string", "pattern": "^[0-9]{1,12}$"},
    },
    "credits": {
        "name": "credits",
        "in": "query",
        "description": "`1`: the page will tell what it has shown, and Claude runs no further ahead than `credit_bytes`; from 2048: than so many bytes",
        "schema": {
            "type": "string",
            "pattern": "^(0|1|204[89]|20[5-9][0-9]|2[1-9][0-9]{2}|[3-9][0-9]{3}|[1-9][0-9]{4,10})$",
        },
    },
}
PARAMETERS |= {
    name: {"name": name, "in": "query", "description": told, "schema": schema}
    for name, told, schema in (
        ("events", "how many", {"type": "integer", "minimum": 0, "maximum": 1200, "default": 10}),
        (
            "every_ms",
            "between two; all within a minute",
            {"type": "integer", "minimum": 0, "maximum": 60_000, "default": 0},
        ),
        (
            "size",
            "bytes of padding in each; 16 MB in all",
            {"type": "integer", "minimum": 0, "maximum": 65_536, "default": 0},
        ),
        ("accel", "`0`: without `X-Accel-Buffering: no`", {"enum": ["0", "1"], "default": "1"}),
        ("cut", "`1`: it breaks off", {"enum": ["0", "1"], "default": "0"}),
        ("fail", "a name; the first request of this name fails", _TEXT),
        ("on", "the instance that fails it", _TEXT),
        ("as", "`cut`: without an answer, else with 503", _TEXT),
    )
}
HEADERS: dict[str, Any] = {
    "X-Stream-Id": {"description": "names the stream, to come back to it or to stop it", "schema": _TEXT},
    "X-Stop-Token": {"description": "steers this stream without a key", "schema": _TEXT},
    "X-Resumable": {"description": "whether a lost reader is waited for", "schema": {"enum": ["true", "false"]}},
    "X-Vercel-AI-UI-Message-Stream": {"description": "the protocol's version", "schema": {"const": "v1"}},
}


_SHOWN: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {
            "type": "integer",
            "minimum": 0,
            "maximum": 10**15 - 1,
            "description": "of the last frame shown",
        },
        "again_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "the page speaks again within so many seconds, or it has vanished",
        },
        "stop_token": _TEXT,
    },
}


def schemas(settings: Settings) -> dict[str, Any]:
    """Every schema by its name."""
    return {
        "Question": _question(settings),
        "Chat": _chat(settings),
        "MessagesRequest": {
            "type": "object",
            "description": "A request of the Messages API, which goes up byte for byte. Claude judges it.",
            "properties": {
                "model": {"description": "the model"},
                "max_tokens": {"description": "the most output tokens"},
                "messages": {"description": "the conversation"},
                "stream": {"description": "`true` for a stream of events"},
            },
        },
        "Shown": _SHOWN,
        "Stop": {"type": "object", "properties": {"stop_token": _TEXT}},
        "Stopped": {
            "type": "object",
            "required": ["stopped"],
            "properties": {"stopped": {"type": "boolean", "description": "false where it had ended before"}},
        },
        "Error": _ERROR,
        "MessagesError": _MESSAGES_ERROR,
        "Config": _CONFIG,
        "Gauges": _GAUGES,
        **_PROBES,
        "Message": {"type": "object", "description": f"a message: {_CLAUDES}"},
        "TokenCount": {"type": "object", "properties": {"input_tokens": _COUNT}},
    }


def _question(settings: Settings) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "What is asked, with `prompt` or `messages`; any further field is " + _CLAUDES + ".",
        "oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}],
        "properties": {
            "prompt": {"type": "string", "pattern": r"\S", "description": "one question, in place of `messages`"},
            "messages": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["role", "content"],
                    "properties": {"role": {"enum": list(_ROLES)}, "content": {"type": ["string", "array"]}},
                },
            },
            **_asked(settings),
        },
    }


def _chat(settings: Settings) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "What `useChat` sends: UI messages of the AI SDK. Further fields as in a `Question`.",
        "required": ["id", "messages"],
        "properties": {
            "id": {
                "type": "string",
                "minLength": 1,
                "maxLength": 200,
                "description": "the page's own name of the chat",
            },
            "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "trigger": {},
            "messageId": {},
            **_asked(settings),
        },
    }


def _asked(settings: Settings) -> dict[str, Any]:
    """What both kinds of questions may say."""
    defaults = settings.questions
    return {
        "model": {"type": "string", "minLength": 1, "maxLength": 200, "default": defaults.model},
        "max_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": defaults.max_tokens_limit,
            "default": min(defaults.max_tokens, defaults.max_tokens_limit),
        },
        "resumable": {"type": "boolean", "description": "a lost reader is waited for: short for `policy`"},
        "policy": {"enum": [policy.value for policy in Policy], "description": "what happens when the reader is lost"},
        "grace_s": {
            "type": "number",
            "minimum": 0,
            "maximum": max(defaults.grace_s, defaults.grace_max_s),
            "default": defaults.grace_s,
            "description": "for how long it is waited for, in seconds",
        },
        "credits": {
            "type": ["boolean", "number"],
            "minimum": LEAST_CREDIT_BYTES,
            "description": "the page will tell what it has shown; a number: and wants no more bytes than that out",
        },
        "betas": {"type": "array", "items": {"type": "string", "pattern": r"^[!-+\--~]{1,100}$"}},
        "system": {"type": ["string", "array"], "description": _CLAUDES},
        "thinking": {"type": "object", "description": _CLAUDES + "; where it is asked for, the reader is sent it"},
        "tools": {"type": "array", "description": _CLAUDES},
        "tool_choice": {"type": "object", "description": _CLAUDES},
        "stop_sequences": {"type": "array", "description": _CLAUDES},
        "metadata": {"type": "object", "description": _CLAUDES},
    }


_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error", "type", "retryable", "source"],
    "properties": {
        "error": {"type": "string", "description": "for people"},
        "type": {"type": "string", "description": "for programs"},
        "retryable": {"type": "boolean", "description": "the same request may succeed later"},
        "source": {"enum": ["service", "upstream"], "description": "whose word it is"},
        "field": {"type": "string", "description": "which field is at fault"},
    },
}
_MESSAGES_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": _TEXT,
                "message": _TEXT,
                "details": {"type": "object", "description": "`error_code` and more, where the API has no type for it"},
            },
        },
        "request_id": _TEXT,
    },
}
_CONFIG: dict[str, Any] = {
    "type": "object",
    "required": ["version", "simulated", "auth", "model", "window_ms", "client"],
    "properties": {
        "version": _TEXT,
        "simulated": {"type": "boolean", "description": "a simulated Claude answers"},
        "auth": {"type": "boolean", "description": "callers' keys are demanded"},
        "model": _TEXT,
        "window_ms": _COUNT,
        "client": {"type": "string", "description": "the path of `client.js` under the name that never changes"},
    },
}
_MONEY = {"type": ["number", "null"], "description": "null where no price is known"}
_GAUGES: dict[str, Any] = {
    "type": "object",
    "required": ["queue_items", "queue_bytes", "queue_max_bytes", "paused", "paused_s", "generated_tokens", "basis"],
    "properties": {
        "reader": {"type": "string", "description": "where the reader stands: `attached`, or `held` once it is lost"},
        "unshown_bytes": {"type": ["integer", "null"], "description": "sent, and not yet told to be shown"},
        "credit_bytes": {"type": ["number", "null"], "description": "how many may be; null without credits"},
        "saved_usd": {"type": ["number", "null"], "description": "what a stop likely saves; null where nobody knows"},
        "queue_items": _COUNT,
        "queue_bytes": _COUNT,
        "queue_max_bytes": _COUNT,
        "paused": {"type": "boolean", "description": "Claude is held still"},
        "paused_s": _SECONDS,
        "generated_tokens": {"type": "number"},
        "generated_chars": {"type": "object"},
        "delivered_tokens": {"type": "number"},
        "basis": {"type": "string", "description": "whether tokens are exact or estimated"},
        "cost_usd": _MONEY,
        "saved_usd_upper": _MONEY,
        "output_usd_per_token": _MONEY,
    },
}
_PROBES: dict[str, Any] = {
    "Probe": {
        "type": "object",
        "required": ["instance", "sent", "taken_bytes", "over", "left", "sha256", "nonce"],
        "properties": {
            "instance": {"type": "string", "description": "the process that sends it"},
            "sent": {"type": "integer", "minimum": 0, "description": "events that were written"},
            "taken_bytes": {"type": "integer", "minimum": 0, "description": "of its body, what has left this process"},
            "over": {"type": "boolean"},
            "left": {"type": "boolean", "description": "its reader left before the last event"},
            "sha256": {"type": "string", "description": "of its body"},
            "nonce": {"type": "string", "description": "another one in each answer, by which a cache is known"},
        },
    },
    "ProbePost": {
        "type": "object",
        "required": ["instance", "attempts", "bytes", "nonce"],
        "properties": {"instance": _TEXT, "attempts": _COUNT, "bytes": _COUNT, "nonce": _TEXT},
    },
}
