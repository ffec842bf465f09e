"""The three protocols as a load tester meets them: the request's bytes, and what an event of the answer is. Pure.

Events are told apart by the bytes they begin with, not parsed: a thousand streams have to fit on one core. What each
looks like: design of the plain protocol; Messages API, Streaming; UI message stream, version 1.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class What(enum.Enum):
    """What an event is to a reader."""

    CONTENT = enum.auto()
    LAST = enum.auto()
    ERROR = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True)
class Protocol:
    """One of the service's protocols.

    Attributes:
        path: where answers are asked for.
        content: how the data of an event with text, thinking or a tool's input begins.
        last: how the data of the last event of a good answer begins.
        error: how the data of an error begins.
        resumes: a lost stream can be taken up again.
        counts_on: what is taken up goes on where it was lost, not from its start.
    """

    name: str
    path: str
    content: tuple[bytes, ...]
    last: tuple[bytes, ...]
    error: tuple[bytes, ...]
    resumes: bool
    counts_on: bool = False

    def what(self, event: bytes) -> What:
        """What an event is; `event` without its blank line, as it came."""
        at = event.find(b"data: ") + 6
        if at < 6:
            return What.OTHER
        if event.startswith(self.content, at):
            return What.CONTENT
        if event.startswith(self.last, at):
            return What.LAST
        return What.ERROR if event.startswith(self.error, at) else What.OTHER


def _typed(*types: str) -> tuple[bytes, ...]:
    """How data of these types begins, as compact writers write it and as others do."""
    return tuple(b'{"type":%b"%b"' % (space, type.encode()) for type in types for space in (b"", b" "))


PLAIN = Protocol(
    "plain",
    "/api/stream",
    (b'{"text":', b'{"thinking":', b'{"tool_use":'),
    (b'{"done":',),
    (b'{"error":',),
    resumes=True,
    counts_on=True,
)
MESSAGES = Protocol(
    "messages", "/v1/messages", _typed("content_block_delta"), _typed("message_stop"), _typed("error"), resumes=False
)
CHAT = Protocol(
    "chat",
    "/api/chat",
    _typed("text-delta", "reasoning-delta", "tool-input-delta"),
    (b"[DONE]",),
    _typed("error"),
    resumes=True,
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (PLAIN, MESSAGES, CHAT)}


@dataclass(frozen=True, slots=True)
class Question:
    """What every reader asks.

    Attributes:
        protocol: in which protocol.
        host: the `Host` header.
        prompt: the question.
        model: None leaves it to the service, where the protocol allows that.
        max_tokens: the most output tokens of an answer.
        key: the caller's key; sent as `Authorization: Bearer`. None: no key.
        headers: further headers.
        base_path: what stands before the protocol's path, where a proxy serves it below one.
        word: counted in what comes back; where every token holds it once, it says how many were delivered.
    """

    protocol: Protocol
    host: str
    prompt: str
    model: str | None
    max_tokens: int
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    base_path: str = ""
    word: bytes = b""

    def ask(self, name: str, *, resumable: bool) -> bytes:
        """The request for an answer; `name` tells a chat from all others."""
        body: dict[str, Any] = {"max_tokens": self.max_tokens}
        if self.model is not None:
            body["model"] = self.model
        if self.protocol is PLAIN:
            body |= {"prompt": self.prompt} | ({"resumable": True} if resumable else {})
        elif self.protocol is MESSAGES:
            body |= {"stream": True, "messages": [{"role": "user", "content": self.prompt}]}
        else:
            parts = [{"type": "text", "text": self.prompt}]
            body |= {"id": name, "trigger": "submit-message", "resumable": resumable}
            body["messages"] = [{"id": "1", "role": "user", "parts": parts}]
        more = {"anthropic-version": "2023-06-01"} if self.protocol is MESSAGES else {}
        return self._request("POST", self.protocol.path, json.dumps(body).encode(), more)

    def resume(self, name: str, stream_id: str, last_id: int) -> bytes:
        """The request for what comes after frame `last_id`; a chat comes from its start."""
        if self.protocol is CHAT:
            return self._request("GET", f"{CHAT.path}/{name}/stream", b"", {})
        return self._request("GET", f"{PLAIN.path}/{stream_id}", b"", {"last-event-id": str(last_id)})

    @property
    def credentials(self) -> dict[str, str]:
        """The headers that every request carries: the caller's key, and those that were given."""
        key = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        return key | dict(self.headers)

    def _request(self, method: str, path: str, body: bytes, more: Mapping[str, str]) -> bytes:
        headers = {"host": self.host, "accept": "text/event-stream", **more}
        if body:
            headers |= {"content-type": "application/json", "content-length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in (headers | self.credentials).items()]
        return "\r\n".join([f"{method} {self.base_path}{path} HTTP/1.1", *lines, "", ""]).encode() + body
