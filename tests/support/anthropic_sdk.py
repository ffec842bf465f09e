"""Anthropic's Python SDK, unchanged but for its base URL, and what it makes of an answer, so that two ways compare."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
from anthropic.types import MessageParam
from pydantic import BaseModel

from app.tools.simulator.server import Simulator
from app.web.runner import Running

KEY = "the-caller's-own-key"
MODEL = "claude-opus-4-8"


@asynccontextmanager
async def sdk(url: str, **options: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0, **options) as client:
        yield client


def asking(directive: str) -> list[MessageParam]:
    return [{"role": "user", "content": f"Go. {{{{{directive}}}}}"}]


async def raw_events(client: anthropic.AsyncAnthropic, directive: str) -> list[dict[str, Any]]:
    stream = await client.messages.create(model=MODEL, max_tokens=9999, messages=asking(directive), stream=True)
    return [event.model_dump(mode="json", warnings=False) async for event in stream]


async def final(client: anthropic.AsyncAnthropic, directive: str) -> dict[str, Any]:
    async with client.messages.stream(model=MODEL, max_tokens=9999, messages=asking(directive)) as stream:
        return plain(await stream.get_final_message())


async def whole(client: anthropic.AsyncAnthropic, directive: str) -> dict[str, Any]:
    return plain(await client.messages.create(model=MODEL, max_tokens=9999, messages=asking(directive)))


async def helper_events(client: anthropic.AsyncAnthropic, directive: str) -> list[Any]:
    """What the helper tells, with the deltas joined: text, thinking, tool input, citations, signatures, blocks."""
    told: list[Any] = []
    async with client.messages.stream(model=MODEL, max_tokens=9999, messages=asking(directive)) as stream:
        async for event in stream:
            match event.type:
                case "text" | "thinking" | "input_json":
                    piece = getattr(event, "partial_json" if event.type == "input_json" else event.type)
                    if told and told[-1][0] == event.type:
                        told[-1] = (event.type, told[-1][1] + piece)
                    else:
                        told.append((event.type, piece))
                case "content_block_delta":
                    continue
                case _:
                    told.append((event.type, plain(event)))
    return told


def plain(model: BaseModel) -> dict[str, Any]:
    data: dict[str, Any] = model.model_dump(mode="json", warnings=False)
    return data


def without_numbers(told: Any) -> Any:
    """The same without the requests' own numbers, which differ between two requests."""
    if isinstance(told, dict):
        return {name: without_numbers(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return type(told)(map(without_numbers, told))
    return re.sub(r"req_sim_\d+", "req_sim", told) if isinstance(told, str) else told


def joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The raw events with neighbouring deltas of one block and kind joined."""
    made: list[dict[str, Any]] = []
    for event in events:
        delta = event.get("delta", {})
        field = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}.get(
            delta.get("type")
        )
        last = made[-1] if made else {}
        if field and last.get("index") == event["index"] and last.get("delta", {}).get("type") == delta["type"]:
            last["delta"][field] += delta[field]
        else:
            made.append(event)
    return made


async def outcome(of: Awaitable[Any]) -> Any:
    """What came of it, so that two ways can be compared: the value, or what was raised."""
    try:
        return await of
    except anthropic.APIStatusError as error:
        return type(error), error.status_code, error.type, error.error_code, error.api_message, error.body
    except Exception as error:
        return type(error)


Ask = Callable[[anthropic.AsyncAnthropic, str], Awaitable[Any]]


async def both(ask: Ask, directive: str, service: Running, simulator: Simulator) -> tuple[Any, Any]:
    """What the SDK makes of it straight from the simulator, and through the service."""
    async with sdk(simulator.url) as direct, sdk(service.url) as through:
        straight = await outcome(ask(direct, directive))
        simulator.reset()
        return without_numbers(straight), without_numbers(await outcome(ask(through, directive)))
