"""Whose trace a request belongs to, as its `traceparent` says (W3C Trace Context, level 1, section 3.2). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LAYOUT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The span of the caller's that a request was made in.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
    """

    trace_id: str
    span_id: str

    @classmethod
    def of(cls, header: str) -> TraceParent | None:
        """What the header's value says; None where it is none, which begins a trace of its own.

        Whether the caller keeps its trace is not read: it would let a caller hide its streams.
        """
        found = _LAYOUT.fullmatch(header.strip(" \t"))
        if found is None:
            return None
        version, trace_id, span_id, more = found.groups()
        # A version above 0 may say more behind the flags; version ff, and ids of zeros, are forbidden.
        if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
            return None
        return cls(trace_id, span_id)
