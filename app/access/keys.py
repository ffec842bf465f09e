"""Who may call: callers' keys. Pure but for the request it reads."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from ..errors import Unauthorized


class Keys:
    """The callers' keys, kept as digests. With none, anyone may call.

    Args:
        keys: as configured; never logged, never shown.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[str]) -> None:
        """Takes these instead, from the next request on; streams that run go on."""
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Mapping[str, str]) -> str:
        """The caller, as a name that tells callers apart and gives no key away; empty where no keys are configured.

        Takes `Authorization: Bearer KEY` and `x-api-key: KEY`, since Anthropic's SDKs have sent both.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        if not self._digests:
            return ""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            raise Unauthorized("a key is needed: send Authorization: Bearer KEY, or x-api-key: KEY")
        digest = _digest(given)
        # All keys are compared, each in constant time, so that the time it takes tells nothing about them.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise Unauthorized("this key is not known here")
        return digest.hex()[:16]


def _digest(key: str) -> bytes:
    # aiohttp and os.environ hand on bytes that are no UTF-8 as surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
