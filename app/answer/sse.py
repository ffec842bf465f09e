"""Server-Sent Events on the wire: an incremental decoder, and the numbering of frames. Pure (WHATWG HTML, section 9.2)."""

from __future__ import annotations

# The largest event that is taken in: above the Messages API's own bound of 32 MB for a whole request.
MAX_EVENT_BYTES = 33_554_432
# And the most lines: Claude's own have two. Each takes 0.4 µs of the event loop, and 30 MB may hold ten million.
MAX_EVENT_LINES = 32_768

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
    """An event passed one of the decoder's bounds without an end."""


class SseDecoder:
    """Cuts a byte stream, however it is chunked, into `(event name, data)` pairs.

    Follows section 9.2.6 of the specification: LF, CRLF and CR end lines, a leading BOM is dropped, comments, `id` and
    `retry` are passed over, several `data` lines join with LF, an event without data is not dispatched, and neither is
    one that the end of the stream cuts. Names and data stay bytes: they are valid UTF-8 only once an event is whole.

    Args:
        max_event_bytes: the most that one event may take before it ends.
    """

    __slots__ = ("_after_cr", "_at_start", "_held_bytes", "_held_lines", "_max_event_bytes", "_parts")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._parts: list[bytes] = []  # the unfinished event; joined once, when it ends
        self._held_bytes = self._held_lines = 0
        self._after_cr = False  # the last chunk ended in CR: an LF that follows belongs to it
        self._at_start = True  # the BOM may still come

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Takes the next bytes and returns the events that they complete, in order.

        Raises:
            EventTooLarge: an unfinished event is above `max_event_bytes`, or `MAX_EVENT_LINES`.
        """
        if self._after_cr or b"\r" in chunk:
            chunk = self._line_feeds_only(chunk)
        if self._at_start:
            chunk = self._without_bom(chunk)
        if not self._ends_an_event(chunk):
            self._hold(chunk)
            return []
        if self._parts and self._parts[-1][-1:] == b"\n" == chunk[:1]:
            first, chunk = b"", chunk[1:]
        else:
            first, _, chunk = chunk.partition(b"\n\n")
        events = [event] if (event := self._held_with(first)) else []
        *blocks, tail = chunk.split(b"\n\n")
        if tail:
            self._hold(tail)
        return events + [event for block in blocks if (event := _parse(block))]

    @property
    def between_events(self) -> bool:
        """Whether all that came is dispatched, so that the next byte begins an event."""
        return not (self._parts or self._after_cr or self._at_start)

    def _held_with(self, last: bytes) -> tuple[bytes, bytes] | None:
        """The event that ends with these bytes; one of megabytes is copied once, which takes 20 ms."""
        parts, self._parts = [*self._parts, last], []
        held_lines, self._held_lines, self._held_bytes = self._held_lines, 0, 0
        named = held_lines == 1 and b"\n" not in last and parts[0].startswith(b"event: ")
        end = parts[0].find(b"\n", 7) if named else -1
        if end > 7 and parts[0].startswith(b"\ndata: ", end):
            return parts[0][7:end], b"".join([parts[0][end + 7 :], *parts[1:]])
        return _parse(b"".join(parts))

    def _hold(self, chunk: bytes) -> None:
        if chunk:
            self._parts.append(chunk)
            self._held_bytes += len(chunk)
            self._held_lines += chunk.count(b"\n")
            if self._held_bytes > self._max_event_bytes:
                raise EventTooLarge(f"an event is above {self._max_event_bytes} bytes")
            if self._held_lines > MAX_EVENT_LINES:
                raise EventTooLarge(f"an event has more than {MAX_EVENT_LINES} lines")

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
            self._held_bytes = self._held_lines = 0
            return head[len(_BOM) :]
        return chunk


def _parse(block: bytes) -> tuple[bytes, bytes] | None:
    if block.startswith(b"event: "):  # the form that the Messages API sends
        end = block.find(b"\n", 7)
        if end > 7 and block.startswith(b"\ndata: ", end) and block.find(b"\n", end + 1) < 0:
            return block[7:end], block[end + 7 :]
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


def settled(said: bytes) -> tuple[bytes, bytes]:
    """Parts a stream of events with line feeds where another source could take it up: after an event, or after a comment.

    A sign of life is a comment of one line with no blank line after it (section 9.2.6); who waited for the end of an event
    would keep it back for as long as it was to help.

    Args:
        said: what has come since the last such place.

    Returns:
        What lies before the last such place, and what is left.
    """
    at = said.rfind(b"\n\n") + 2 if b"\n\n" in said else 0
    while said.startswith(b":", at) and (end := said.find(b"\n", at)) >= 0:
        at = end + 1
    return said[:at], said[at:]


class Settling:
    """Parts such a stream as it comes: each event is given once it is whole, and each comment once its line is.

    Args:
        max_event_bytes: the most that may be held of an event that has not ended.
    """

    __slots__ = ("_held", "_max_event_bytes")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._held = bytearray()
        self._max_event_bytes = max_event_bytes

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes, and gives all that is settled now.

        Raises:
            EventTooLarge: what is left is above `max_event_bytes`.
        """
        # What was held had no such place, so that a new one needs a line feed that has just come: megabytes are not looked
        # through again with each of their packets.
        ends = b"\n\n" in data or (data[:1] == b"\n" == self._held[-1:]) or (b"\n" in data and self._held[:1] == b":")
        starts = not self._held
        self._held += data
        whole = b""
        if ends or starts:
            whole, rest = settled(bytes(self._held))
            self._held = bytearray(rest)
        if len(self._held) > self._max_event_bytes:
            raise EventTooLarge(f"an event is above {self._max_event_bytes} bytes")
        return whole
