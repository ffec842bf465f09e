"""LiteLLM's SDK, in its OpenAI shape. Its pass through the Messages API needs all that its proxy does, so it is left out."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the net for its prices

import litellm
from drive import KEY, MODEL, STREAMED, WHOLE, add, drive, plain

litellm.suppress_debug_info = True
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}},
    },
}


def asked(ask):
    tools = {"tools": [TOOL]} if ask.scenario == "tools" else {}
    where = {"model": f"anthropic/{MODEL}", "api_base": ask.url, "api_key": KEY}
    return where | {"messages": ask.messages, "max_tokens": 999} | tools


def told(answer):
    """Without the id and the time that LiteLLM itself draws."""
    made = plain(answer)
    return {name: value for name, value in made.items() if name not in ("id", "created")}


async def loop(ask, answer):
    given, seen = asked(ask), []
    for _ in range(3):
        whole = await answer(given)
        seen.append(told(whole))
        message = whole.choices[0].message
        if not message.tool_calls:
            break
        results = [{"role": "tool", "tool_call_id": call.id, "content": "21"} for call in message.tool_calls]
        given = given | {"messages": [*given["messages"], message.model_dump(), *results]}
    return seen


async def completion(ask):
    async def answer(given):
        return await litellm.acompletion(**given)

    return await loop(ask, answer)


async def stream(ask):
    async def answer(given):
        chunks = []
        async for chunk in await litellm.acompletion(stream=True, **given):
            chunks.append(chunk)
            add(ask.saw, "text", chunk.choices[0].delta.content if chunk.choices else "")
        return litellm.stream_chunk_builder(chunks, messages=given["messages"])

    return await loop(ask, answer)


async def retried(ask):
    return told(await litellm.acompletion(num_retries=2, **asked(ask)))


drive(
    completion=(completion, WHOLE),
    stream=(stream, STREAMED),
    retried=(retried, ("refused", "overloaded", "recovers")),
)
