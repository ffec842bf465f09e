"""The peer most people would write: FastAPI, sse-starlette, Anthropic's SDK. `python -m tests.bench.peers.fastapi_sse PORT`.

The libraries are in the peers' lock, not in this project's, so they are looked up when it runs.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import anthropic


def build() -> Any:
    """The application."""
    fastapi: Any = importlib.import_module("fastapi")
    sse: Any = importlib.import_module("sse_starlette")
    app = fastapi.FastAPI()
    client = anthropic.AsyncAnthropic()

    async def told(prompt: str) -> AsyncIterator[dict[str, str]]:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        async with client.messages.stream(model="claude-opus-4-8", max_tokens=64_000, messages=messages) as stream:
            async for text in stream.text_stream:
                yield {"data": json.dumps({"text": text}, separators=(",", ":"))}
        yield {"data": json.dumps({"done": True}, separators=(",", ":"))}

    async def answer(request: Any) -> Any:
        return sse.EventSourceResponse(told((await request.json())["prompt"]), sep="\n")

    app.add_route("/api/stream", answer, methods=["POST"])
    return app


if __name__ == "__main__":
    importlib.import_module("uvicorn").run(build(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
