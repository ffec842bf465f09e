"""What Claude says, as values: a run of text (`Delta`) or anything else (`Event`).

Both carry `size_bytes`, the unit in which the queue is bounded.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from ..errors import SluicewayError
from .surrogates import has_halves

DeltaKind = Literal["text", "thinking", "input_json"]

# An event costs this much beyond its text: the object, its slots and its place in the queue (CPython 3.11, measured).
OVERHEAD_BYTES = 64

_second_halves = re.compile("[\udc00-\udfff]").findall


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A run of characters of one content block; neighbours of the same block and kind may be joined.

    Attributes:
        index: the content block's position in the message.
        kind: which of the three joinable deltas of the Messages API it is.
        text: the characters. May end in half of a surrogate pair, if that is how it came.
        count: how many deltas of the wire are joined here.
        raw: None where the text is all there is. Else it is joined with nothing, and passes as these bytes: the
            `data:` payload of a delta with more in it than is known here; none where the text came within another
            event, such as the block's start, which has passed already.
    """

    index: int
    kind: DeltaKind
    text: str
    count: int = 1
    raw: bytes | None = None

    @property
    def chars(self) -> int:
        """How many characters it brings; the second half of a surrogate pair is none, wherever the pair was split."""
        return len(self.text) - (len(_second_halves(self.text)) if has_halves(self.text) else 0)

    @property
    def text_bytes(self) -> int:
        """The text's size as UTF-8, which is how it came and how it goes out."""
        # Whether a string is ASCII is a flag and no scan, so that only other texts are encoded to be counted.
        return len(self.text) if self.text.isascii() else len(self.text.encode("utf-8", "surrogatepass"))

    @property
    def size_bytes(self) -> int:
        return self.text_bytes + len(self.raw or b"") + OVERHEAD_BYTES


class Event(msgspec.Struct, frozen=True):
    """Any other event of the Messages API, kept as it came; order matters, nothing is merged across it.

    Attributes:
        type: the event's name, such as `message_start`; unknown names pass.
        raw: the `data:` payload, byte for byte; empty where it came within another event, which has passed already.
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
