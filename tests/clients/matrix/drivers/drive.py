"""What every Python driver does: reads what to ask from standard input, asks it all, prints what it saw as one JSON."""

import asyncio
import json
import sys

MODEL = "claude-opus-4-8"
KEY = "the-caller's-own-key"
STREAMED = (
    "text",
    "tools",
    "thinking",
    "invalid",
    "refused",
    "overloaded",
    "recovers",
    "breaks",
    "cut",
    "unknown",
    "slow",
)
WHOLE = ("text", "tools", "thinking", "invalid", "refused", "overloaded", "recovers", "cut", "unknown")
STRUCTURED = ("structured", "refused")


class Ask:
    """One cell: where to ask, what, and a dict for what is seen on the way, kept if an error ends it."""

    def __init__(self, given, scenario, way):
        self.url, self.through, self.scenario = given["base_url"], given["through"], scenario
        self.prompt = f"Go. [[{scenario}/{way}]]"
        self.messages = [{"role": "user", "content": self.prompt}]
        self.saw = {}


def plain(value):
    """As JSON has it; what is neither is told by its kind and words."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", warnings=False)
    return json.loads(
        json.dumps(value, default=lambda other: plain(other) if hasattr(other, "model_dump") else repr(other))
    )


def add(saw, name, piece):
    saw[name] = saw.get(name, "") + (piece or "")


async def _one(ask, way):
    try:
        value = await asyncio.wait_for(way(ask), 90)
        if value is not None:
            ask.saw["value"] = plain(value)
    except BaseException as error:
        ask.saw["raised"] = type(error).__name__
        ask.saw["status"] = getattr(error, "status_code", None)
        ask.saw["said"] = str(error)[:800]
        if isinstance(body := getattr(error, "body", None), dict):
            ask.saw["body"] = body
    return ask.saw


async def _all(ways):
    given = json.load(sys.stdin)
    asks = [
        (scenario, name, Ask(given, scenario, name), way)
        for name, (way, scenarios) in ways.items()
        for scenario in scenarios
        if scenario in given["scenarios"]
    ]
    told = await asyncio.gather(*(_one(ask, way) for _, _, ask, way in asks))
    seen = {}
    for (scenario, name, _, _), saw in zip(asks, told, strict=True):
        seen.setdefault(scenario, {})[name] = plain(saw)
    print(json.dumps(seen))


def drive(**ways):
    """Drives the ways, each a coroutine function of an `Ask` with the scenarios that it is for."""
    asyncio.run(_all(ways))
