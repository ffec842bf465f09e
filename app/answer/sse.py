"""Server-Sent Events on the wire: an incremental decoder, and the numbering of frames. Pure (WHATWG HTML, section 9.2)."""

from __future__ import annotations

# The largest event that is taken in: above the Messages API's own bound of 32 MB for a whole request.
MAX_EVENT_BYTES = 33_554_432

# What an event without an `event:` line is called (section 9.2.6).
NO_NAME = b"message"

_BOM = b"\xef\xbb\xbf"


# How a line begins that is neither a comment nor empty (section 9.2.6).
_FIELDS = (b"event:", b"data:", b"id:", b"retry:")


def begins_stream(said: bytes) -> bool | None:
    """Whether a body is a stream of events, by its first line that says anything; None while that line is not here."""
    rest = said[len(_BOM) :] if said.startswith(_BOM) else said
    lines = rest.replace(b"\r", b"\n").split(b"\n")
    for number, line in enumerate(lines):
        if line and not line.startswith(b":"):
            whole = number < len(lines) - 1
            if line.startswith(_FIELDS):
                return True
            return None if not whole and any(field.startswith(line) for field in (*_FIELDS, _BOM)) else False
    return None


class EventTooLarge(ValueError):
    """An event passed the decoder's bound without an end."""


class SseDecoder:
    """Cuts a byte stream, however it is chunked, into `(event name, data)` pairs.

    Follows section 9.2.6 of the specification: LF, CRLF and CR end lines, a leading BOM is dropped, comments, `id` and
    `retry` are passed over, several `data` lines join with LF, an event without data is not dispatched, and neither is
    one that the end of the stream cuts. Names and data stay bytes: they are valid UTF-8 only once an event is whole.

    Args:
        max_event_bytes: the most that one event may take before it ends.
    """

    __slots__ = ("_after_cr", "_at_start", "_held_bytes", "_max_event_bytes", "_parts")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._parts: list[bytes] = []  # the unfinished event; joined once, when it ends
        self._held_bytes = 0
        self._after_cr = False  # the last chunk ended in CR: an LF that follows belongs to it
        self._at_start = True  # the BOM may still come

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Takes the next bytes and returns the events that they complete, in order.

        Raises:
            EventTooLarge: an unfinished event is above `max_event_bytes`.
        """
        if self._after_cr or b"\r" in chunk:
            chunk = self._line_feeds_only(chunk)
        if self._at_start:
            chunk = self._without_bom(chunk)
        if not self._ends_an_event(chunk):
            self._hold(chunk)
            return []
        *blocks, tail = (b"".join(self._parts) + chunk if self._parts else chunk).split(b"\n\n")
        self._parts.clear()
        self._held_bytes = 0
        if tail:
            self._hold(tail)
        return [event for block in blocks if (event := _parse(block))]

    @property
    def between_events(self) -> bool:
        """Whether all that came is dispatched, so that the next byte begins an event."""
        return not (self._parts or self._after_cr or self._at_start)

    def _hold(self, chunk: bytes) -> None:
        if chunk:
            self._parts.append(chunk)
            self._held_bytes += len(chunk)
            if self._held_bytes > self._max_event_bytes:
                raise EventTooLarge(f"an event is above {self._max_event_bytes} bytes")

    def _ends_an_event(self, chunk: bytes) -> bool:
        return b"\n\n" in chunk or (chunk[:1] == b"\n" and bool(self._parts) and self._parts[-1][-1:] == b"\n")

    def _line_feeds_only(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if chunk[-1:] == b"\r":
            self._after_cr = True
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _without_bom(self, chunk: bytes) -> bytes:
        head = b"".join(self._parts) + chunk
        if len(head) < len(_BOM) and _BOM.startswith(head):
            return chunk
        self._at_start = False
        if head.startswith(_BOM):
            self._parts.clear()
            self._held_bytes = 0
            return head[len(_BOM) :]
        return chunk


def _parse(block: bytes) -> tuple[bytes, bytes] | None:
    if block.startswith(b"event: "):  # the form that the Messages API sends
        name, found, data = block[7:].partition(b"\ndata: ")
        if found and name and b"\n" not in data and b"\n" not in name:
            return name, data
    name, lines = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    return (name or NO_NAME, b"\n".join(lines)) if lines else None


def numbered(frame_id: int, frame: bytes) -> bytes:
    """A frame with its `id:` line in front, by which a reader resumes."""
    return b"id: %d\n%b" % (frame_id, frame)
