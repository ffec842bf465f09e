"""httpx-sse, on the Messages API and, behind the service, on the plain protocol."""

import json
from functools import cache

import httpx
from drive import KEY, MODEL, STREAMED, add, drive
from httpx_sse import aconnect_sse

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def body(ask, path):
    tools = {"tools": [TOOL]} if ask.scenario == "tools" else {}
    thinking = {"thinking": {"type": "adaptive"}} if ask.scenario == "thinking" else {}
    stream = {"stream": True} if path == "/v1/messages" else {}
    return {"model": MODEL, "max_tokens": 999, "messages": ask.messages} | stream | tools | thinking


def of_messages(saw, data):
    match data:
        case {"type": "content_block_delta", "delta": {"type": kind, **fields}}:
            name = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}.get(kind)
            if name:
                add(saw, name, fields[name])
        case {"type": "content_block_start", "content_block": {"type": "tool_use", "id": id, "name": name}}:
            saw["tool"] = [id, name]
        case {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}:
            saw["stop_reason"], saw["output_tokens"] = reason, usage["output_tokens"]
        case {"type": "error", "error": error}:
            saw["error"] = [error["type"], error["message"]]


def of_plain(saw, data):
    match data:
        case {"text": text}:
            add(saw, "text", text)
        case {"thinking": text}:
            add(saw, "thinking", text)
        case {"tool_use": {"partial_json": piece}}:
            add(saw, "partial_json", piece)
        case {"tool_use": {"id": id, "name": name}}:
            saw["tool"] = [id, name]
        case {"done": True}:
            saw["stop_reason"], saw["output_tokens"] = data["stop_reason"], data["usage"]["output_tokens"]
        case {"error": message, "type": kind}:
            saw["error"] = [kind, message]


@cache
def client():
    return httpx.AsyncClient(timeout=60)


async def read(ask, path, of):
    async with aconnect_sse(client(), "POST", ask.url + path, headers=HEADERS, json=body(ask, path)) as source:
        if source.response.status_code != 200:
            told = json.loads(await source.response.aread())
            error = (
                told["error"] if isinstance(told["error"], dict) else {"type": told["type"], "message": told["error"]}
            )
            ask.saw["refused"] = [source.response.status_code, error["type"], error["message"]]
            return
        async for event in source.aiter_sse():
            of(ask.saw, json.loads(event.data))


async def messages(ask):
    await read(ask, "/v1/messages", of_messages)


async def plain(ask):
    if ask.through:
        await read(ask, "/api/stream", of_plain)
    else:
        await messages(ask)


drive(messages=(messages, STREAMED), plain=(plain, STREAMED))
