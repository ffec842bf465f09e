"""How much JSON a body holds, and how deep, counted as it arrives and before anything decodes it. Pure.

What is within strings does not count: a prompt may be megabytes of code.
"""

from __future__ import annotations

import re

from ...errors import BadRequest

# A string, and the rest of one whose beginning came before. Both are possessive, so that no string is looked at twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# What stands before each value of JSON but the first.
_BEFORE_VALUES = b",:[{"
_OPENING = b"[{"
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# No request of Claude's API comes near it; the decoder's own bound lies at five times that.
MOST_DEPTH = 200


class JsonShape:
    """Counts the values and the depth of one piece of JSON that comes in slices; what is no JSON is counted alike.

    Args:
        max_values: the most values, counted by the commas, colons and opening brackets before them.
    """

    # A slice of this many bytes takes some 5 ms at worst, where it is all empty strings.
    SLICE_BYTES = 65_536

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._values = self._depth = 0
        self._in_string = False
        self._escape = b""  # a backslash at a slice's end, whose other half comes with the next

    def feed(self, slice_: bytes) -> None:
        """Takes the next slice in. Raises BadRequest where it is too much."""
        outside = self._outside_strings(self._escape + slice_)
        self._values += len(outside) - len(outside.translate(None, _BEFORE_VALUES))
        if self._values > self._max_values:
            raise BadRequest(f"the body holds more than {self._max_values} values")
        brackets = outside.translate(None, _NO_BRACKETS)
        if self._depth + len(brackets) <= MOST_DEPTH:
            self._depth += sum(map(brackets.count, (b"[", b"{"))) - sum(map(brackets.count, (b"]", b"}")))
            return
        for bracket in brackets:
            self._depth += 1 if bracket in _OPENING else -1
            if self._depth > MOST_DEPTH:
                raise BadRequest(f"the body is nested too deeply: it has more than {MOST_DEPTH} levels")

    def _outside_strings(self, data: bytes) -> bytes:
        self._escape = b""
        start = 0
        if self._in_string:
            rest = _REST.match(data)
            assert rest is not None, "it matches nothing too"
            if self._ends_within_string(data, rest.end()):
                return b""
            start = rest.end() + 1
        outside = _STRING.sub(b"", data[start:])
        before, quote, begun = outside.partition(b'"')
        self._in_string = bool(quote)
        if quote and (len(begun) - len(begun.rstrip(b"\\"))) % 2:
            self._escape = b"\\"
        return before

    def _ends_within_string(self, data: bytes, at: int) -> bool:
        """Whether no quote stands where a string's rest ended; it ended at the end then, or before half an escape."""
        if at < len(data) and data[at] == 0x22:
            self._in_string = False
            return False
        self._escape = data[at:]
        return True
