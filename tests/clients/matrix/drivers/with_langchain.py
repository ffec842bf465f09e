"""LangChain's ChatAnthropic."""

from drive import KEY, MODEL, STREAMED, STRUCTURED, WHOLE, drive, plain
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather."""

    city: str
    unit: str


@tool
def weather(city: str, unit: str) -> str:
    """The weather."""
    return f"21 {unit} in {city}"


def chat(ask):
    model = ChatAnthropic(model=MODEL, api_key=KEY, base_url=ask.url, max_tokens=999)
    return model.bind_tools([weather]) if ask.scenario == "tools" else model


def told(message):
    """Without the number that LangChain itself draws for each run."""
    made = plain(message)
    return {name: value for name, value in made.items() if not (name == "id" and str(value).startswith("lc_run"))}


async def loop(ask, answer):
    """Asks, and runs the tool as long as one is called."""
    messages, seen = [HumanMessage(ask.prompt)], []
    for _ in range(3):
        message = await answer(messages)
        seen.append(told(message))
        messages.append(message)
        if not message.tool_calls:
            break
        messages += [ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in message.tool_calls]
    return seen


async def invoke(ask):
    return await loop(ask, chat(ask).ainvoke)


async def stream(ask):
    async def answer(messages):
        joined = None
        async for chunk in chat(ask).astream(messages):
            joined = chunk if joined is None else joined + chunk
            ask.saw["so_far"] = joined.text
        return joined

    return await loop(ask, answer)


async def structured(ask):
    return await chat(ask).with_structured_output(Weather).ainvoke(ask.prompt)


drive(invoke=(invoke, WHOLE), stream=(stream, STREAMED), structured=(structured, STRUCTURED))
