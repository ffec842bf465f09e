"""Anthropic's Python SDK."""

from functools import cache

import anthropic
from drive import KEY, MODEL, STREAMED, STRUCTURED, WHOLE, drive, plain
from pydantic import BaseModel

TOOL = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}},
}
FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class Weather(BaseModel):
    city: str
    unit: str


@cache
def at(url):
    return anthropic.AsyncAnthropic(api_key=KEY, base_url=url)


def client(ask):
    return at(ask.url)


def asked(ask):
    tools = {"tools": [TOOL]} if ask.scenario == "tools" else {}
    return {"model": MODEL, "max_tokens": 999, "messages": ask.messages} | tools


async def whole(ask):
    response = await client(ask).messages.with_raw_response.create(**asked(ask))
    message = await response.parse()
    return {"message": plain(message), "request_id": message._request_id, "retries": response.retries_taken}


async def raw(ask):
    """Every event as it came, but neighbouring deltas of one block and kind joined."""
    events = ask.saw["events"] = []
    async for event in await client(ask).messages.create(stream=True, **asked(ask)):
        told = plain(event)
        field = FIELDS.get((told.get("delta") or {}).get("type"))
        last = events[-1] if events else {}
        if (
            field
            and last.get("index") == told["index"]
            and (last.get("delta") or {}).get("type") == told["delta"]["type"]
        ):
            last["delta"][field] += told["delta"][field]
        elif told["type"] != "ping":
            events.append(told)


async def helper(ask):
    async with client(ask).messages.stream(**asked(ask)) as stream:
        async for text in stream.text_stream:
            ask.saw["text"] = ask.saw.get("text", "") + text
        return {"message": plain(await stream.get_final_message()), "request_id": stream.request_id}


async def beta(ask):
    async with client(ask).beta.messages.stream(betas=["brand-new-2026-11-01"], **asked(ask)) as stream:
        return await stream.get_final_message()


async def parse(ask):
    return await client(ask).messages.parse(output_format=Weather, **asked(ask))


async def runner(ask):
    @anthropic.beta_async_tool
    async def weather(city: str, unit: str) -> str:
        """The weather.

        Args:
            city: where
            unit: of the temperature
        """
        ask.saw["called"] = [city, unit]
        return f"21 {unit}"

    given = asked(ask) | {"tools": [weather]}
    return [plain(message) async for message in client(ask).beta.messages.tool_runner(**given)]


async def streaming_runner(ask):
    @anthropic.beta_async_tool
    async def weather(city: str, unit: str) -> str:
        """The weather."""
        ask.saw["called"] = [city, unit]
        return f"21 {unit}"

    given = asked(ask) | {"tools": [weather], "stream": True}
    return [plain(await stream.get_final_message()) async for stream in client(ask).beta.messages.tool_runner(**given)]


async def count(ask):
    return await client(ask).messages.count_tokens(model=MODEL, messages=ask.messages)


async def models(ask):
    return [plain(model) async for model in client(ask).models.list()]


drive(
    whole=(whole, WHOLE),
    raw=(raw, STREAMED),
    helper=(helper, STREAMED),
    beta=(beta, STREAMED),
    parse=(parse, STRUCTURED),
    runner=(runner, ("text", "tools")),
    streaming_runner=(streaming_runner, ("tools", "recovers")),
    count=(count, ("text", "invalid", "refused", "overloaded", "recovers")),
    models=(models, ("text",)),
)
