"""Requests that nobody should send: damaged, hostile and random bodies for every operation, by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MESSAGE = {"role": "user", "content": "a {{tokens=1}}"}
# A good body of each operation that takes one; an answer of a single token.
_GOOD: dict[str, Any] = {
    "/api/stream": {
        "prompt": "a {{tokens=1}}",
        "model": "m",
        "max_tokens": 9,
        "grace_s": 1,
        "betas": ["a"],
        "policy": "abort",
    },
    "/api/chat": {
        "id": "c",
        "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "{{tokens=1}}"}]}],
    },
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": [_MESSAGE], "stream": True},
    "/v1/messages/count_tokens": {"model": "m", "messages": [_MESSAGE]},
    "/api/stream/{id}/shown": {"id": 1, "stop_token": "x"},
    "/api/stream/{id}/stop": {"stop_token": "x"},
}
_HOSTILE: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, 10**30, "", " ", "\x00", "\ud800", "\u2028", "a" * 3000, "../..", "\r\nX: y", [], {}, [[]],
    {"": {}}, {"type": "text"}, {"type": 7}, ["a", None], float("nan"), float("inf"), "{{tokens=1}}", {"$ref": "#"},
]  # fmt: skip
_RAW = [
    b"", b"null", b"[", b"{", b'{"a"', b'"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 3000, b'{"a":' * 3000, b"[]," * 3000,
    b'{"prompt": 1e999}', b'{"prompt": "a", "prompt": "b"}', b"{}{}", b"\x00" * 50, b'{"messages": ' + b"9" * 5000 + b"}",
]  # fmt: skip
_TYPES = [
    None,
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "text/csv",
    "a",
    "application/x+json",
]
_IDS = [
    "x",
    "st0_x",
    "st99999_x",
    "c",
    "%00",
    "%2e%2e",
    "..",
    "%2F",
    "a%0d%0aX:y",
    "%ff",
    "\u2603",
    "a" * 900,
    "*",
    "%25",
]
_HEADERS = [
    ("Last-Event-ID", "-1"), ("Last-Event-ID", "9" * 40), ("Last-Event-ID", "a\tb"), ("X-Stop-Token", "x"), ("Accept", "a/b"),
    ("anthropic-beta", "a,,b"), ("Content-Encoding", "br"), ("X-Forwarded-For", "::1, x"), ("Range", "bytes=0-"),
    ("If-None-Match", '"'), ("Authorization", "Bearer"), ("Cookie", "a=b"), ("Expect", "200-ok"), ("Origin", "null"),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A request.

    Attributes:
        method, template: of the operation that it is for.
        path: that it goes to, encoded.
    """

    method: str
    template: str
    path: str
    body: bytes
    headers: dict[str, str]


def requests(operations: list[tuple[str, str]], seed: int) -> Iterator[Fuzzed]:
    """Without end; each operation gets its turn."""
    rng = random.Random(seed)
    while True:
        for method, template in operations:
            path = template.replace("{id}", rng.choice(_IDS)).replace("{path}", _passed(rng))
            headers = dict(rng.sample(_HEADERS, rng.randrange(3)))
            if (media_type := rng.choice(_TYPES if rng.random() < 0.3 else ["application/json"])) is not None:
                headers["Content-Type"] = media_type
            yield Fuzzed(method, template, path, _body(rng, template, method), headers)


def _passed(rng: random.Random) -> str:
    first = rng.choice(["models", "files", "messages/batches", "nothing", "skills"])
    return "/".join([first, *rng.sample(_IDS, rng.randrange(3))])


def _body(rng: random.Random, template: str, method: str) -> bytes:
    if method == "GET" or rng.random() < 0.1:
        return b""
    if rng.random() < 0.2:
        return rng.choice(_RAW)
    good = json.loads(json.dumps(_GOOD.get(template, {})))
    for _ in range(rng.randrange(4)):
        good = _damaged(rng, good)
    raw = json.dumps(good, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        at = rng.randrange(len(raw) + 1)
        raw = raw[:at] + rng.randbytes(rng.randrange(4)) + raw[at + rng.randrange(4) :]
    return raw


def _damaged(rng: random.Random, value: Any) -> Any:
    """The value with one thing in it changed, wherever."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.15:
            del changed[name]
        elif rng.random() < 0.15:
            changed[rng.choice(["", "x", "stream", "polici", "a" * 300, "\x00", "cache_control"])] = rng.choice(
                _HOSTILE
            )
        else:
            changed[name] = _damaged(rng, value[name])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _damaged(rng, value[at]), *value[at + rng.randrange(2) :]]
    return rng.choice(_HOSTILE)
