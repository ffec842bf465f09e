"""pydantic-ai's agents on its Anthropic model."""

from drive import KEY, MODEL, STREAMED, STRUCTURED, WHOLE, add, drive, plain
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_core import to_jsonable_python

# What the agent itself draws or reads from the clock.
OWN = ("timestamp", "run_id", "conversation_id")


class Weather(BaseModel):
    city: str
    unit: str


def agent(ask, **options):
    made = Agent(AnthropicModel(MODEL, provider=AnthropicProvider(api_key=KEY, base_url=ask.url)), **options)
    if ask.scenario == "tools":

        @made.tool_plain
        def weather(city: str, unit: str) -> str:
            """The weather."""
            add(ask.saw, "called", f"{city} {unit}")
            return f"21 {unit}"

    return made


def without_own(value):
    if isinstance(value, dict):
        return {name: without_own(part) for name, part in value.items() if name not in OWN}
    return [without_own(part) for part in value] if isinstance(value, list) else value


def told(result):
    messages = without_own(to_jsonable_python(result.all_messages()))
    usage = result.usage() if callable(result.usage) else result.usage
    return {"messages": messages, "usage": plain(to_jsonable_python(usage))}


async def run(ask):
    return told(await agent(ask).run(ask.prompt))


async def stream(ask):
    async with agent(ask).run_stream(ask.prompt) as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            add(ask.saw, "text", text)
    return told(result)


async def structured(ask):
    return told(await agent(ask, output_type=Weather).run(ask.prompt))


drive(run=(run, WHOLE), stream=(stream, STREAMED), structured=(structured, STRUCTURED))
