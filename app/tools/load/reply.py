"""One HTTP response of a stream, taken apart as it comes: its events, and their numbers. Pure.

Its own few lines, not the service's decoder: what measures shares no code with what is measured.
"""

from __future__ import annotations

import json

import httptools

from .protocols import Protocol, What

# Heads, lines and events above this size are no answer of the service, so they end the stream as garbled.
MAX_EVENT_BYTES = 1_048_576
MAX_HEAD_BYTES = 65_536
# This much of a refusal's body, and of its words, is kept, which is enough for any error of the service.
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
        "_head_bytes",
        "_parser",
        "_parts",
        "_protocol",
        "_unfinished",
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
        self._parser: httptools.HttpResponseParser | None = None  # from the first byte to the body's end
        self._head_bytes = 0  # fed before the status was known
        self._parts: list[bytes] = []  # of the body, from what is being fed
        self._unfinished = b""  # the event whose end has not come; or the beginning of a refusal's body
        self.status = 0
        self.headers: dict[str, str] = {}
        self.contents = self.misnumbered = self.words = 0
        self.last_id = after_id
        self.finished = self.failed = self.whole = False

    def feed(self, data: bytes) -> int:
        """Takes the next bytes; returns how many events with content they completed. What follows the body is ignored.

        Raises:
            Garbled: this is no HTTP/1.1 response, or an event without end.
        """
        if not self.whole:
            self._parse(data)
        if not self._parts:
            return 0
        body, self._parts = b"".join(self._parts), []
        if self.status == 200:
            return self._events(body)
        self._unfinished = (self._unfinished + body)[:_REFUSAL_BYTES]
        return 0

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.whole:
                raise Garbled(f"this is no HTTP/1.1 response: {error}") from error
        if not self.status:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise Garbled("a head without end")
        if self.whole:
            self._parser = None  # it holds this object, and would keep it

    @property
    def refusal(self) -> str:
        return "" if self.status in (0, 200) else f"{self.status} {_words(self._unfinished)}".strip()

    # What httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        assert self._parser is not None, "it is what calls"
        status = self._parser.get_status_code()
        if status >= 200:  # one below is only announced (RFC 9110, section 15.2)
            self.status = status

    def on_body(self, body: bytes) -> None:
        if not self.whole:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        self.whole = self.status != 0

    # The events in the body

    def _events(self, data: bytes) -> int:
        events = (self._unfinished + data).split(b"\n\n")
        self._unfinished = events.pop()
        if len(self._unfinished) > MAX_EVENT_BYTES:
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
