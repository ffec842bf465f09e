"""JSON as Claude's side writes it. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

# Integers are read up to this many digits, because Python refuses some thousands, and no count has a tenth of these.
_MOST_DIGITS = 400


# JSON above this size is looked at before it is read: whether it has more parts than the second. Each takes some 100 bytes
# of memory and 0.2 µs of the event loop, and 30 MB may hold ten million, where the longest text has none. Claude's own
# largest, a page or a file that a tool has fetched, have some thousand.
_LARGE_BYTES, _MOST_PARTS = 1_048_576, 500_000


class TooDeep(ValueError):
    """It may be JSON, but is nested beyond what can be read, or has too many parts."""


def read_json(raw: bytes) -> Any:
    """Reads what the standard allows, and what is written all the same.

    That is NaN and Infinity, which Python's own encoders write; half of a surrogate pair, which JavaScript's do; and
    integers without end, which come out as infinite. Whoever uses a value checks it (`usage.py` for usage).

    Raises:
        ValueError: it is no JSON. TooDeep, which is one: it is nested beyond what can be read, or has too many parts.
    """
    if len(raw) > _LARGE_BYTES and _has_many_parts(raw):
        raise TooDeep("too many parts")
    try:
        return msgspec.json.decode(raw)  # tried first, because it is several times as fast and follows the standard
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return _decode(raw.decode("utf-8-sig"))
    except RecursionError as error:
        raise TooDeep("nested too deeply") from error


def _has_many_parts(raw: bytes) -> bool:
    """Where there are many, half of them follow a comma; each look at 30 MB takes 13 ms, so mostly there is one."""
    commas = raw.count(b",")
    return commas > _MOST_PARTS // 2 and commas + raw.count(b"[") + raw.count(b"{") > _MOST_PARTS


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


_decode = json.JSONDecoder(parse_int=_integer).decode
