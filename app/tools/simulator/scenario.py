"""The knobs of the simulated Claude: what they are, how they are read, what they mean. Pure.

A knob comes from the command line, from `POST /scenario`, or from a directive in the last user message:
`{{tokens=500 rate=50 fault=cut after=20}}`. A bare word is a switch: `{{thinking=40 hidden}}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

# What each HTTP fault is called in the body (Messages API, errors); 503 has no name of its own there.
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    529: "overloaded_error",
}
HTTP_FAULTS = frozenset(f"http_{status}" for status in ERROR_TYPES)
# Faults that strike once `after` tokens were sent, in the middle of the body.
MID_STREAM_FAULTS = frozenset(
    {"overloaded", "silence", "ping_only", "cut", "cut_fin", "no_message_stop", "garbage", "refuse"}
)
FAULTS = frozenset({"none", "error_first", "html"}) | HTTP_FAULTS | MID_STREAM_FAULTS
# What generation does when its reader is gone, or does not read.
GOES_ON = frozenset({"stops", "late", "never"})

_CHOICES: dict[str, frozenset[str]] = {
    "text": frozenset({"prose", "numbered"}),
    "chunking": frozenset({"events", "random", "bytes"}),
    "newline": frozenset({"lf", "crlf", "cr"}),
    "fault": FAULTS,
    "on_abort": GOES_ON,
    "on_pause": GOES_ON,
}
_MOST_TOKENS = 1_000_000
_DIRECTIVE = re.compile(r"\{\{([^{}]*)\}\}")
_TRANSCRIPT_NAME = re.compile(r"[\w.-]*", re.ASCII)


class KnobError(ValueError):
    """A knob that does not exist, or a value that it cannot take; the message names the knob."""


def _knob(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Scenario:
    """How one answer is to go. Every field is a knob; durations are in seconds, rates in tokens a second."""

    tokens: int = _knob(100, "tokens of text")
    rate: float = _knob(0.0, "tokens a second of each stream; 0: as fast as the peer reads")
    ttft_s: float = _knob(0.0, "seconds before the HTTP headers, of errors too")
    first_event_s: float = _knob(0.0, "seconds between the headers and the first event")
    tokens_per_delta: tuple[int, int] = _knob((1, 1), "tokens in a delta: k, or a-b for a seeded choice")
    thinking: int = _knob(0, "tokens of thinking before the text")
    hidden: bool = _knob(False, "thinking is not shown: the block opens, is signed and closes")
    tool: int = _knob(0, "tokens of a tool call's input after the text; stop_reason tool_use")
    pings_s: float = _knob(0.0, "seconds between pings; 0: none (ping_only then takes 1)")
    seed: int = _knob(0, "of everything random")
    text: str = _knob("prose", "prose: pseudo-English markdown; numbered: ` token0001 token0002`")
    transcript: str = _knob("", "replay this recorded answer; each recorded delta counts as one token")
    chunking: str = _knob("events", "a write is an event; random: cut at seeded places; bytes: one byte a write")
    newline: str = _knob("lf", "line ending of the event stream: lf, crlf or cr")
    comment: bool = _knob(False, "add comments, ids and a retry line to the event stream")
    fault: str = _knob("none", "what goes wrong: " + ", ".join(sorted(FAULTS)))
    after: int = _knob(0, "tokens before a fault in the middle of the stream, at most the whole answer's")
    fault_times: int = _knob(0, "only so many first attempts of the same directive fail; 0: all of them")
    padding_bytes: int = _knob(
        0, "blanks after each text delta's JSON: coarse deltas that fill buffers as fine ones do"
    )
    on_abort: str = _knob(
        "stops", "generation when the reader is gone: stops, late (after late_*), never (runs to the end)"
    )
    on_pause: str = _knob("stops", "generation while nothing more can be sent: stops, late (after late_*), never")
    late_tokens: int = _knob(0, "tokens that `late` still generates")
    late_s: float = _knob(0.0, "seconds of generation at `rate` that `late` adds to them")
    retry_after_s: float = _knob(1.0, "`retry-after` of a 429 in seconds; 0: no such header")

    def __post_init__(self) -> None:
        if self.transcript and self.fault == "refuse":
            raise KnobError("fault: a recorded transcript cannot be refused")

    @property
    def late(self) -> int:
        """Tokens that are generated unread where generation stops late."""
        return self.late_tokens + round(self.late_s * self.rate)

    def with_knobs(self, knobs: Mapping[str, object]) -> Scenario:
        """The same scenario with these knobs turned; values may be text, as in a directive, or JSON values.

        Raises:
            KnobError: a knob is unknown or its value impossible.
        """
        changes: dict[str, Any] = {}
        for name, value in knobs.items():
            if name not in _READERS:
                raise KnobError(f"{name}: unknown knob; there are {', '.join(sorted(_READERS))}")
            try:
                changes[name] = _READERS[name](name, value)
            except (ValueError, TypeError) as error:
                raise KnobError(f"{name}: {error}") from error
        return replace(self, **changes)

    def knobs(self) -> dict[str, str]:
        """Every knob with its value as a directive would write it."""
        return {knob.name: as_text(getattr(self, knob.name)) for knob in fields(self)}


def as_text(value: object) -> str:
    """A knob's value as a directive writes it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        low, high = value
        return str(low) if low == high else f"{low}-{high}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def find_directive(messages: object) -> str | None:
    """The text between `{{` and `}}` in the last user message of a Messages request, or None.

    Args:
        messages: the request's `messages`; anything malformed holds no directive.
    """
    if not isinstance(messages, list):
        return None
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            found = _DIRECTIVE.search(_text_of(message.get("content")))
            return found.group(1).strip() if found else None
    return None


def parse_directive(directive: str) -> dict[str, str]:
    """The knobs of a directive as text; a bare word is a switch set to 1."""
    knobs: dict[str, str] = {}
    for word in directive.split():
        name, equals, value = word.partition("=")
        knobs[name] = value if equals else "1"
    return knobs


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    blocks = (block for block in content if isinstance(block, dict) and block.get("type") == "text")
    return "\n".join(str(block.get("text", "")) for block in blocks)


def _count(name: str, value: object) -> int:
    count = int(str(value))
    if not 0 <= count <= _MOST_TOKENS:
        raise ValueError(f"must be 0 to {_MOST_TOKENS}, not {count}")
    return count


def _number(name: str, value: object) -> float:
    number = float(str(value))
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"must be a finite number of at least 0, not {value}")
    return number


def _range(name: str, value: object) -> tuple[int, int]:
    low, dash, high = str(value).partition("-")
    pair = (int(low), int(high) if dash else int(low))
    if not 1 <= pair[0] <= pair[1] <= _MOST_TOKENS:
        raise ValueError(f"must be k or a-b with 1 <= a <= b, not {value}")
    return pair


def _switch(name: str, value: object) -> bool:
    match str(value).lower():
        case "1" | "true":
            return True
        case "0" | "false":
            return False
    raise ValueError(f"must be 0 or 1, not {value}")


def _choice(name: str, value: object) -> str:
    if value not in _CHOICES[name]:
        raise ValueError(f"must be one of {', '.join(sorted(_CHOICES[name]))}, not {value}")
    return str(value)


def _transcript_name(name: str, value: object) -> str:
    # A name, never a path: the folder is the operator's choice, not the requester's.
    if not _TRANSCRIPT_NAME.fullmatch(str(value)) or str(value).startswith("."):
        raise ValueError(f"must be a file name without folder, not {value}")
    return str(value)


_READERS = {
    knob.name: {
        "int": _count,
        "float": _number,
        "bool": _switch,
        "tuple[int, int]": _range,
        "str": _transcript_name if knob.name == "transcript" else _choice,
    }[str(knob.type)]
    for knob in fields(Scenario)
}

# What each knob does, for the command line's help.
KNOB_HELP: dict[str, str] = {knob.name: knob.metadata["help"] for knob in fields(Scenario)}
