"""A running account of one answer, from its events alone: usage, characters, phase, how it stopped. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

from .events import ClaudeEvent, Delta, DeltaKind
from .usage import cleansed, merged, plain, word

# Characters of text, of thinking, of tool JSON; tool calls begun; characters outside ASCII.
Features = tuple[int, int, int, int, int]
# At most this many names of unreadable values are kept of one answer, since they are the upstream's words; all are
# counted.
_MOST_NAMES = 8


class Phase(Enum):
    """Where in the answer a stream stands, or stood when it ended."""

    BEFORE_FIRST_EVENT = "before_first_event"
    THINKING = "thinking"
    TEXT = "text"
    TOOL_USE = "tool_use"
    DONE = "done"


_PHASE_OF_KIND: dict[DeltaKind, Phase] = {
    "text": Phase.TEXT,
    "thinking": Phase.THINKING,
    "input_json": Phase.TOOL_USE,
}


Beside = Literal["web_search", "compaction", "advisor_message"]
_BESIDE: dict[str, Beside] = {
    "web_search_tool_result": "web_search",
    "compaction": "compaction",
    "advisor_tool_result": "advisor_message",
}


def _phase_of_block(block_type: str) -> Phase:
    if block_type in ("thinking", "redacted_thinking"):
        return Phase.THINKING
    if block_type.endswith("tool_use"):
        return Phase.TOOL_USE
    return Phase.TEXT


def _object(value: Any) -> dict[str, Any]:
    # A tally must not fail on anything that comes from the wire, so that the stream is settled whatever that is.
    return value if isinstance(value, dict) else {}


class Tally:
    """Sees every event of one answer in order and keeps what the ledger and the last frame need.

    Attributes:
        usage: `message_start`'s usage overwritten key by key by each `message_delta`'s, which are cumulative
            (Messages API, streaming), without what cannot be read. Its `output_tokens` is a placeholder until `exact`
            is True.
        exact: a `message_delta` brought the true `output_tokens`.
        model: the one that wrote the answer: `message_start`'s, or a fallback's that took over.
        unreadable: how many values could not be read, and are taken as if they had not come; `unreadable_names` the
            first of them.
        fell_back: a model declined, and another wrote the answer.
        declined: the `features` of what a model wrote before it declined; they are no part of `usage`.
        beside: what Claude's side ran beside the answer and bills on top, by its kind, as its blocks show it: `usage`
            tells of it at the end alone.
        chars: characters received, by kind.
        deltas: deltas of the wire received, by kind.
        wide_chars: of all those characters, the ones outside ASCII: they cost more tokens each.
        tool_blocks: tool calls begun; each costs tokens that its JSON does not show.
        hidden_thinking: a thinking block came without its text (`thinking.display` omitted, or redacted); while one is
            open and still empty it counts, since nobody can know what is behind it.
        at_usage: the `features` when the last exact usage came; all zero before.
    """

    __slots__ = (
        "_empty_thinking", "_silent_thinking", "at_usage", "beside", "chars", "declined", "deltas", "exact", "fell_back",
        "message_id", "model", "phase", "since_usage", "stop_details", "stop_reason", "stop_sequence", "tool_blocks",
        "unreadable", "unreadable_names", "usage", "wide_chars",
    )  # fmt: skip

    def __init__(self) -> None:
        self.phase = Phase.BEFORE_FIRST_EVENT
        self.model: str | None = None
        self.message_id: str | None = None
        self.usage: dict[str, Any] = {}
        self.exact = False
        self.since_usage = False  # text came after the last exact usage: the answer went on
        self.stop_reason: str | None = None
        self.stop_sequence: str | None = None
        self.stop_details: Any = None
        self.chars: dict[DeltaKind, int] = {"text": 0, "thinking": 0, "input_json": 0}
        self.deltas: dict[DeltaKind, int] = {"text": 0, "thinking": 0, "input_json": 0}
        self.wide_chars = 0
        self.tool_blocks = 0
        self.at_usage: Features = (0, 0, 0, 0, 0)
        self.unreadable = 0
        self.unreadable_names: list[str] = []
        self.fell_back = False
        self.declined: Features = (0, 0, 0, 0, 0)
        self.beside: dict[Beside, int] = {"web_search": 0, "compaction": 0, "advisor_message": 0}
        self._empty_thinking = False  # the block that stands open is thinking, and no text of it came yet
        self._silent_thinking = False  # such a block closed without a word

    @property
    def hidden_thinking(self) -> bool:
        return self._silent_thinking or self._empty_thinking

    @property
    def features(self) -> Features:
        """What the number of tokens is estimated from: text, thinking and JSON characters, tool calls, wide ones."""
        chars = self.chars
        return chars["text"], chars["thinking"], chars["input_json"], self.tool_blocks, self.wide_chars

    def see(self, event: ClaudeEvent) -> None:
        """Takes the next event into account. Events of unknown types change nothing."""
        if isinstance(event, Delta):
            if event.text.isascii():  # a flag of the string, not a scan
                self.chars[event.kind] += len(event.text)
            else:
                chars = event.chars
                self.chars[event.kind] += chars
                self.wide_chars += chars - len(event.text.encode("ascii", "ignore"))
            self.deltas[event.kind] += event.count
            self.phase = _PHASE_OF_KIND[event.kind]
            self.since_usage = True
            if event.kind == "thinking" and event.text:
                self._empty_thinking = False
            return
        data = event.data
        match event.type:
            case "message_start":
                message = _object(data.get("message"))
                self.model = word(message.get("model"), self._odd, "model")
                self.message_id = word(message.get("id"), self._odd, "id")
                self.usage, self.exact = cleansed(message.get("usage"), self._odd), False
                self._see_who_served()
                if self.phase is Phase.BEFORE_FIRST_EVENT:
                    self.phase = Phase.TEXT
            case "content_block_start":
                self._see_block_start(_object(data.get("content_block")))
            case "content_block_stop":
                self._silent_thinking, self._empty_thinking = self.hidden_thinking, False
            case "message_delta":
                self._see_message_delta(data)
            case "message_stop":
                self.phase = Phase.DONE

    def _odd(self, name: str) -> None:
        self.unreadable += 1
        if name not in self.unreadable_names and len(self.unreadable_names) < _MOST_NAMES:
            self.unreadable_names.append(name)

    def _see_block_start(self, block: dict[str, Any]) -> None:
        kind = str(block.get("type", ""))
        self.phase = _phase_of_block(kind)
        self.since_usage = True
        self.tool_blocks += kind.endswith("tool_use")
        if self.phase is Phase.THINKING:
            self._empty_thinking = not block.get("thinking")
        if (beside := _BESIDE.get(kind)) and (beside != "web_search" or isinstance(block.get("content"), list)):
            self.beside[beside] += 1  # a search that failed has an error for its results, and is not billed
        if kind == "fallback":
            self._see_fallback(_object(block.get("to")).get("model"))

    def _see_fallback(self, to: Any) -> None:
        """A model handed over: usage tells of the one that goes on alone (Messages API, refusals and fallback)."""
        self.model = word(to, self._odd, "fallback.to.model") or self.model
        self.fell_back, self.declined = True, self.features
        if not self.exact:
            self.at_usage = self.declined

    def _see_who_served(self) -> None:
        for entry in reversed(self.usage.get("iterations") or []):
            if entry.get("type") == "fallback_message" and entry.get("model"):
                self.model, self.fell_back = entry["model"], True
                return

    def _see_message_delta(self, data: dict[str, Any]) -> None:
        self._see_usage(cleansed(data.get("usage"), self._odd))
        delta = _object(data.get("delta"))
        self.stop_reason = word(delta.get("stop_reason"), self._odd, "stop_reason") or self.stop_reason
        self.stop_sequence = word(delta.get("stop_sequence"), self._odd, "stop_sequence") or self.stop_sequence
        self.stop_details = plain(delta.get("stop_details"), self._odd, "stop_details") or self.stop_details

    def _see_usage(self, usage: dict[str, Any]) -> None:
        written = self.features != self.declined
        if usage.get("output_tokens") == 0 and (written or (self.exact and self.usage["output_tokens"])):
            del usage["output_tokens"]  # zero with an answer there means that its writer did not know
        if usage.get("output_tokens") is not None:
            if not self.exact:
                self.usage.pop("output_tokens", None)  # the placeholder: any true count is in its place
            self.exact, self.since_usage, self.at_usage = True, False, self.features
        self.usage = merged(self.usage, usage)
        self._see_who_served()
