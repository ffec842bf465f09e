"""The protocols of the service, each asked for one answer, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from app.web.runner import Running

ASKED = {"model": "claude-opus-4-8", "max_tokens": 9, "messages": [{"role": "user", "content": "Go."}]}
THINKING = {"type": "adaptive"}
CHAT = {"id": "c", "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "Go."}]}]}
# How each protocol asks: its path and its body. The last is a whole message.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/api/stream", {"prompt": "Go.", "thinking": THINKING}),
    "chat": ("/api/chat", CHAT | {"thinking": THINKING}),
    "messages": ("/v1/messages", ASKED | {"stream": True}),
    "whole": ("/v1/messages", ASKED),
}


@dataclass
class Said:
    """What a caller was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, in any protocol's shape: the whole body's, or the last event's."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ") and line[6:7] == b"{"]
        told: dict[str, Any] = json.loads(lines[-1] if lines else self.body)
        return told

    @property
    def words(self) -> str:
        error = self.error
        inner = error.get("error")
        return str(inner["message"] if isinstance(inner, dict) else inner or error.get("errorText"))


async def asked(service: Running, way: str) -> Said:
    path, body = WAYS[way]
    async with aiohttp.ClientSession() as client, client.post(service.url + path, json=body) as answer:
        return Said(answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read())
