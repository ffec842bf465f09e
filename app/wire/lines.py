"""JSON that no reader takes for several lines. Pure.

A line of an event stream ends at LF or CR alone (WHATWG HTML, section 9.2.6). Readers that split by Unicode's rules, as
Python's `str.splitlines` does, also end it at these three, which JSON lets stand in a string; what follows would be lost.
The others of Unicode's line ends are control characters, which every JSON encoder escapes.
"""

from __future__ import annotations

_ESCAPES = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def one_line(encoded: bytes) -> bytes:
    """The same JSON, in UTF-8, with Unicode's own line ends escaped: they stand in its strings alone."""
    if encoded.isascii():
        return encoded
    for raw, escape in _ESCAPES:
        if raw in encoded:
            encoded = encoded.replace(raw, escape)
    return encoded
