"""What Claude says, as values: a run of text (`Delta`) or anything else (`Event`).

Both carry `size_bytes`, the unit in which the queue is bounded.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..errors import SluicewayError

DeltaKind = Literal["text", "thinking", "input_json"]

# What an event costs beyond its text: the object, its slots and its place in the queue (CPython 3.11, measured).
OVERHEAD_BYTES = 64


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A run of characters of one content block; neighbours of the same block and kind may be joined.

    Attributes:
        index: the content block's position in the message.
        kind: which of the three joinable deltas of the Messages API it is.
        text: the characters. May end in half of a surrogate pair, if that is how it came.
        count: how many deltas of the wire are joined here.
    """

    index: int
    kind: DeltaKind
    text: str
    count: int = 1

    @property
    def text_bytes(self) -> int:
        """The text's size as UTF-8, which is how it came and how it goes out."""
        # ASCII is a flag of the string and not a scan; only the rest is encoded to be counted.
        return len(self.text) if self.text.isascii() else len(self.text.encode("utf-8", "surrogatepass"))

    @property
    def size_bytes(self) -> int:
        return self.text_bytes + OVERHEAD_BYTES


class Event(msgspec.Struct, frozen=True):
    """Any other event of the Messages API, kept as it came; order matters, nothing is merged across it.

    Attributes:
        type: the event's name, such as `message_start`; unknown names pass.
        raw: the `data:` payload, byte for byte.
        data: the payload, decoded.
    """

    type: str
    raw: bytes
    data: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        return len(self.raw) + OVERHEAD_BYTES


ClaudeEvent = Delta | Event


class End(msgspec.Struct, frozen=True):
    """The last item of every stream: nothing comes after it.

    Attributes:
        error: what ended the stream, or None after a whole answer.
    """

    error: SluicewayError | None = None

    @property
    def size_bytes(self) -> int:
        return OVERHEAD_BYTES


Item = ClaudeEvent | End
