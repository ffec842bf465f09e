"""One HTTP response of a stream, taken apart as it comes: head, chunks, events, their numbers. Pure.

Its own few lines, not the service's decoder: what measures shares no code with what is measured.
"""

from __future__ import annotations

import json

from .protocols import Protocol, What

# Heads, lines and events above this are no answer of ours.
MAX_EVENT_BYTES = 1_048_576
MAX_HEAD_BYTES = 65_536
# What is kept of a refusal's body, and of its words: enough for any error of the service.
_REFUSAL_BYTES, _REFUSAL_CHARS = 4096, 100


class Garbled(ValueError):
    """The bytes are not HTTP, or not an event stream."""


class Reply:
    """The response to one request.

    Args:
        protocol: how its events are told apart.
        after_id: the frame that the reader has already; frames after it are expected to count on without a gap.
        word: counted in events with content.

    Attributes:
        status: 0 until the head has come.
        headers: with names in lower case.
        contents, words: how many events with content came, and how often the word stood in them.
        last_id: the number of the newest frame.
        misnumbered: how many frames did not follow the one before them: lost, repeated or out of order.
        finished: the last event of a good answer came.
        failed: an error came as an event.
        whole: the body has ended as HTTP says it should.
        refusal: the status and the service's words, where it is not 200; empty where it is, and before it came.
    """

    __slots__ = (
        "_body",
        "_chunk_left",
        "_chunked",
        "_length_left",
        "_protocol",
        "_wire",
        "_word",
        "contents",
        "failed",
        "finished",
        "headers",
        "last_id",
        "misnumbered",
        "status",
        "whole",
        "words",
    )

    def __init__(self, protocol: Protocol, after_id: int = 0, word: bytes = b"") -> None:
        self._protocol = protocol
        self._word = word
        self._wire = b""  # not yet taken apart: the head's beginning, or a chunk's framing that was cut
        self._body = b""  # the unfinished event; or the beginning of a refusal
        self._chunked = False
        self._chunk_left = 0  # of the chunk that is being read, with the line end after it
        self._length_left: int | None = None  # by content-length
        self.status = 0
        self.headers: dict[str, str] = {}
        self.contents = self.misnumbered = self.words = 0
        self.last_id = after_id
        self.finished = self.failed = self.whole = False

    def feed(self, data: bytes) -> int:
        """Takes the next bytes; returns how many events with content they completed.

        Raises:
            Garbled: this is no HTTP/1.1 response, or an event without end.
        """
        if not self.status:
            data = self._head(data)
            if not self.status:
                return 0
        if self._chunked:
            return self._chunks(data)
        if self._length_left is not None:
            data = data[: self._length_left]
            self._length_left -= len(data)
            self.whole = self._length_left == 0
        return self._content(data)

    @property
    def refusal(self) -> str:
        return "" if self.status in (0, 200) else f"{self.status} {_words(self._body)}".strip()

    def _content(self, data: bytes) -> int:
        if self.status == 200:
            return self._events(data)
        self._body = (self._body + data)[:_REFUSAL_BYTES]
        return 0

    def _head(self, data: bytes) -> bytes:
        self._wire += data
        head, found, rest = self._wire.partition(b"\r\n\r\n")
        if not found:
            if len(self._wire) > MAX_HEAD_BYTES:
                raise Garbled("a head without end")
            return b""
        line, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = line.partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            raise Garbled("this is no HTTP/1.1 response")
        self.status = int(status[:3])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        length = self.headers.get("content-length", "")
        if not self._chunked and length.isdigit():
            self._length_left = int(length)
        if self.status == 204 or self._length_left == 0:
            self._length_left = 0
            self.whole = True
        self._wire = b""
        return rest

    def _chunks(self, data: bytes) -> int:
        """Takes the chunk framing away (RFC 9112, section 7.1)."""
        if self._wire:
            data, self._wire = self._wire + data, b""
        at, end, parts = 0, len(data), []
        while at < end and not self.whole:
            if not self._chunk_left:
                line_end = data.find(b"\r\n", at)
                if line_end < 0:
                    self._wire = data[at:]
                    if len(self._wire) > 64:
                        raise Garbled("a chunk without a size")
                    break
                try:
                    size = int(data[at:line_end].partition(b";")[0], 16)
                except ValueError:
                    raise Garbled("a chunk without a size") from None
                if not size:
                    # The last chunk and its blank line; what is cut between the two waits for the rest.
                    self.whole = data.find(b"\r\n", line_end + 2) >= 0
                    self._wire = b"" if self.whole else data[at:]
                    break
                at = line_end + 2
                self._chunk_left = size + 2
            piece = data[at : at + self._chunk_left]
            parts.append(piece[: max(0, self._chunk_left - 2)])  # without the chunk's own line end
            at += len(piece)
            self._chunk_left -= len(piece)
        return self._content(b"".join(parts)) if parts else 0

    def _events(self, data: bytes) -> int:
        events = (self._body + data).split(b"\n\n")
        self._body = events.pop()
        if len(self._body) > MAX_EVENT_BYTES:
            raise Garbled("an event without end")
        contents = 0
        for event in events:
            while event.startswith(b":"):  # signs of life stand before the event that follows them
                event = event.partition(b"\n")[2]
            if event.startswith(b"id: "):
                self._number(event)
            what = self._protocol.what(event)
            if what is What.CONTENT:
                contents += 1
                if self._word:
                    self.words += event.count(self._word)
            elif what is What.LAST:
                self.finished = True
            elif what is What.ERROR:
                self.failed = True
        self.contents += contents
        return contents

    def _number(self, event: bytes) -> None:
        digits = event[4 : event.find(b"\n")]
        if not digits.isdigit():
            self.misnumbered += 1
            return
        number = int(digits)
        if number != self.last_id + 1:
            self.misnumbered += 1
        self.last_id = number


def _words(body: bytes) -> str:
    """What an error's body says, in the plain protocol's shape or the Messages API's; empty where it is neither."""
    try:
        told = json.loads(body)
    except ValueError:
        return ""
    error = told.get("error") if isinstance(told, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(message.split())[:_REFUSAL_CHARS] if isinstance(message, str) else ""
