"""Usage as Claude tells it, cleansed once where it enters, so that whoever reads it meets no odd value. Pure.

1. A count is a whole number from 0 to below 2**53, where every JSON reader still knows it exactly; a whole float is taken
   as that number. A truth value, a numeral in quotes, NaN, Infinity and a fraction are none.
2. What should be a count, a word, an object or a list and is something else is as if it had not come, and is named.
3. Fields unknown here pass, as far as any JSON reader can take them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Told the name of each value that could not be read.
Odd = Callable[[str], None]

MOST = 2**53
# Deeper or longer than any usage of the Messages API, and shallow enough for every encoder.
_MOST_DEPTH = 8
_MOST_ITEMS = 1000
# A name is told up to this length, because it is the upstream's own word and may be megabytes.
_NAME_CHARS = 60

_COUNTS = ("_tokens", "_requests")  # how the names of counts end
_OBJECTS = frozenset({"cache_creation", "server_tool_use", "output_tokens_details"})
_WORDS = frozenset({"model", "type", "service_tier", "inference_geo", "speed"})


def count(value: Any) -> int | None:
    """The number that a JSON value counts; None if it counts nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
        return None
    return int(value) if value == int(value) else None


def cleansed(usage: Any, odd: Odd) -> dict[str, Any]:
    """A usage with only what can be read of it. Nulls stay: they say nothing, and say so.

    Args:
        usage: decoded JSON of any shape.
        odd: told the name of each value that is left out.
    """
    return {} if usage is None else _object(usage, odd, "usage", _MOST_DEPTH) or {}


def _object(value: Any, odd: Odd, name: str, depth: int) -> dict[str, Any] | None:
    if not isinstance(value, dict) or len(value) > _MOST_ITEMS or depth == 0:
        odd(name)
        return None
    clean = {}
    for key, inner in value.items():
        readable = None if inner is None else _field(key, inner, odd, f"{name}.{key}"[:_NAME_CHARS], depth - 1)
        if inner is None or readable is not None:
            clean[key] = readable
    return clean


def _field(key: str, value: Any, odd: Odd, name: str, depth: int) -> Any:
    """The value of a field that is not null; None, and told, if it cannot be read."""
    if key in _OBJECTS:
        return _object(value, odd, name, depth)
    if key == "iterations":
        return _objects(value, odd, name, depth)
    if key in _WORDS:
        return word(value, odd, name)
    if not key.endswith(_COUNTS):
        return plain(value, odd, name)
    readable = count(value)
    if readable is None:
        odd(name)
    return readable


def _objects(value: Any, odd: Odd, name: str, depth: int) -> list[dict[str, Any]] | None:
    """A list with those of its entries that are objects."""
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        odd(name)
        return None
    entries = [_object(entry, odd, name, depth) for entry in value]
    return [entry for entry in entries if entry is not None]


def word(value: Any, odd: Odd, name: str) -> str | None:
    """A string; None for null, and, told, for anything else."""
    if value is not None and not isinstance(value, str):
        odd(name)
        return None
    return value


def plain(value: Any, odd: Odd, name: str) -> Any:
    """Any JSON value that every reader can take: no NaN, no endless number, not too deep. None, and told, otherwise."""
    if _is_plain(value, _MOST_DEPTH):
        return value
    odd(name)
    return None


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, bool | str) or value is None:
        return True
    if isinstance(value, int | float):
        return -MOST < value < MOST  # false for NaN
    if depth == 0 or len(value) > _MOST_ITEMS:
        return False
    return all(_is_plain(inner, depth - 1) for inner in (value.values() if isinstance(value, dict) else value))


def merged(known: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """What is known after a later usage of the same answer; both are cleansed.

    Each is cumulative, so the later value stands (Messages API, streaming). A null, a nought or an empty list after a
    real value says that its writer did not know: a cumulative count never falls to nothing.
    """
    usage = dict(known)
    for key, value in later.items():
        before = usage.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            usage[key] = merged(before, value)
        elif key not in usage or not (value is None or (before and _is_nothing(value))):
            usage[key] = value
    return usage


def _is_nothing(value: Any) -> bool:
    return value == [] or (isinstance(value, int) and not isinstance(value, bool) and value == 0)
