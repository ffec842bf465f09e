"""The clients of the table, where each is installed, and the differences that are known and meant. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.locks import read

HERE: Final = Path(__file__).resolve().parent
DRIVERS: Final = HERE / "drivers"


@dataclass(frozen=True, slots=True)
class Client:
    """A client: its name in the table, the package whose version counts, and its driver."""

    name: str
    package: str
    driver: str

    @property
    def version(self) -> str:
        """As locked."""
        if self.driver.endswith(".py"):
            pins = read((HERE / "requirements.lock").read_text("utf-8"))
            return next(pin.version for pin in pins if pin.name == self.package)
        locked = json.loads((HERE / "package-lock.json").read_text("utf-8"))["packages"]
        return str(locked[f"node_modules/{self.package}"]["version"])


ANTHROPIC_PY: Final = Client("Anthropic's SDK, Python", "anthropic", "with_anthropic.py")
ANTHROPIC_JS: Final = Client("Anthropic's SDK, TypeScript", "@anthropic-ai/sdk", "with_anthropic.mjs")
CLIENTS: Final = (
    ANTHROPIC_PY,
    ANTHROPIC_JS,
    Client("LangChain, Python", "langchain-anthropic", "with_langchain.py"),
    Client("LangChain, JavaScript", "@langchain/anthropic", "with_langchain.mjs"),
    Client("pydantic-ai", "pydantic-ai-slim", "with_pydantic_ai.py"),
    Client("LiteLLM's SDK", "litellm", "with_litellm.py"),
    Client("AI SDK", "@ai-sdk/anthropic", "with_ai_sdk.mjs"),
    Client("Claude Code, `-p`", "@anthropic-ai/claude-code", "with_claude_code.mjs"),
    Client("httpx-sse", "httpx-sse", "with_httpx_sse.py"),
    Client("eventsource-parser", "eventsource-parser", "with_eventsource_parser.mjs"),
    Client("fetch-event-source", "@microsoft/fetch-event-source", "with_fetch_event_source.mjs"),
)

# What of an answer tells how it failed, not what came before.
FAILED: Final = frozenset({"raised", "status", "said", "body", "error", "refused", "result", "turns"})

_ERROR: Final = "a cut is the typed error `upstream_cut`, where straight the connection breaks"
_WHOLE: Final = "a whole answer cut in its middle is a 502 that says not to ask again, as a begun answer is paid for"
_AGAIN: Final = "on the plain protocol the service itself asks again after a 529, and tells the last"
_ALONE: Final = "straight, the cut makes the client post again; through, it is told the error and posts once"


def so_far(saw: dict[str, Any]) -> dict[str, Any]:
    """What was seen without how it failed."""
    return {name: value for name, value in saw.items() if name not in FAILED}


def known(client: Client, scenario: str, way: str) -> str | None:
    """Why the two ways differ there, in words for the table; None where they must not."""
    if scenario == "cut":
        if client.package == "@microsoft/fetch-event-source":
            return _ALONE
        if way in ("whole", "invoke", "run", "completion", "generate", "print"):
            return _WHOLE
        return _ERROR
    if way == "plain" and scenario in ("overloaded", "recovers"):
        return _AGAIN
    return None
