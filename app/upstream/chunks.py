"""HTTP/1.1's chunked coding, where it is simple. Pure."""

from __future__ import annotations

import re

_chunk_head = re.compile(rb"([0-9a-fA-F]{1,8})\r\n").match


def whole_chunks(data: bytes) -> bytes | None:
    """The body in `data`, where that is whole chunks from its first byte to its last (RFC 9112, section 7.1).

    None where it is anything else: a part of a chunk, the last chunk of a body, a chunk with an extension.
    """
    parts, at = [], 0
    while at < len(data):
        head = _chunk_head(data, at)
        if head is None:
            return None
        begin = head.end()
        end = begin + int(head[1], 16)
        at = end + 2
        if begin == end or data[end:at] != b"\r\n":
            return None
        parts.append(data[begin:end])
    return b"".join(parts)
