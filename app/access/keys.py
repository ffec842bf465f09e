"""The keys that the setting `api_keys` names. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from .callers import is_name


class Keys:
    """Keys as configured, kept as digests: each `KEY`, or `NAME:KEY`.

    A key without a name is a caller of its own, called by its digest.

    Args:
        keys: never logged, never shown.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._callers = [(_digest(key), name) for name, key in map(_parted, keys)]

    def __bool__(self) -> bool:
        return bool(self._callers)

    def caller_of(self, given: str) -> str | None:
        """The name of the caller that has this key, which gives no key away; None for an unknown one."""
        if not self._callers:
            return None
        digest = _digest(given)
        # All keys are compared, each in constant time, so that the time it takes tells nothing about them.
        known = [name for theirs, name in self._callers if hmac.compare_digest(digest, theirs)]
        return (known[0] or digest.hex()[:16]) if known else None


def _parted(configured: str) -> tuple[str, str]:
    name, colon, key = configured.partition(":")
    return (name, key) if colon and key and is_name(name) else ("", configured)


def _digest(key: str) -> bytes:
    # aiohttp and os.environ hand on bytes that are no UTF-8 as surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
