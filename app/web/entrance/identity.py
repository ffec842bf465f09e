"""Who asks, by the head of a request; and the edge where issuers' published keys are asked for."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp import hdrs

from ...access.callers import Caller
from ...access.guard import Guard
from ...access.key_sets import KeySets, KeysNeeded

log = logging.getLogger(__name__)

_MOST_BYTES = 65_536
_TIMEOUT_S = 5.0
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])")


class Identity:
    """Says who asks.

    Args:
        guard: knows the callers.
        key_sets: the published keys of issuers.
        import_set: reads a published set. Raises ValueError.
    """

    def __init__(
        self,
        guard: Guard,
        key_sets: KeySets | None = None,
        import_set: Callable[[bytes], Mapping[str, Any]] = lambda _document: {},
    ) -> None:
        self._guard = guard
        self._key_sets = key_sets or KeySets()
        self._import_set = import_set
        self._asking: dict[str, asyncio.Lock] = {}  # one a set, of those that the callers file has named

    @property
    def demands_keys(self) -> bool:
        """Whether only who has a key may call."""
        return self._guard.demands_keys

    async def of(self, headers: Mapping[str, str]) -> Caller:
        """Who asks.

        Raises:
            Unauthorized: nobody that is known. KeysUnreachable: its issuer's keys cannot be had. Cancelling is safe.
        """
        try:
            return self._guard.identify(headers, time.time())
        except KeysNeeded as needed:
            await self._ask_for(needed.url)
        return self._guard.identify(headers, time.time())

    async def _ask_for(self, url: str) -> None:
        """Asks for a set of keys, once for all who need it at the same time."""
        async with self._asking.setdefault(url, asyncio.Lock()):
            if not self._key_sets.may_ask(url, time.time()):
                return
            try:
                document, max_age_s = await _fetched(url)
                keys = self._import_set(document)
                if not keys:
                    raise ValueError("it has no key that can be used")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                log.warning(
                    "the keys at %s cannot be had: %s", url, " ".join(str(error).split()) or type(error).__name__
                )
                self._key_sets.failed(url, time.time())
            else:
                self._key_sets.fetched(url, keys, max_age_s, time.time())


async def _fetched(url: str) -> tuple[bytes, float | None]:
    """A document of at most 64 kB, and for how many seconds it may be kept."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    # No redirect is followed: it could lead to a machine that only we can reach, and the keys would be someone else's.
    async with (
        aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
        session.get(url, allow_redirects=False, headers={hdrs.ACCEPT_ENCODING: "identity"}) as response,
    ):
        if response.status != 200:
            raise ValueError(f"its status is {response.status}")
        document = bytearray()
        async for piece in response.content.iter_any():
            document += piece
            if len(document) > _MOST_BYTES:
                raise ValueError(f"it is above {_MOST_BYTES} bytes")
        found = _MAX_AGE.search(response.headers.get(hdrs.CACHE_CONTROL, "").lower())
        return bytes(document), float(found[1]) if found else None
