"""Issuers' published keys (JWKS), kept: when they are asked for, and how seldom. Pure: `now` comes in.

A token names its key by an id that anyone can make up, so an unknown id asks again at most once in 30 s: else whoever
floods us with ids would flood the issuer through us. While the issuer cannot be reached its keys stand for a day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import KeysUnreachable, Unauthorized

_AGAIN_S = 30.0
_AGAIN_AFTER_FAILURE_S = 5.0
_SHORTEST_AGE_S, _LONGEST_AGE_S = 60.0, 86_400.0
_USUAL_AGE_S = 3600.0
_STALE_S = 86_400.0


class KeysNeeded(Exception):
    """The keys at `url` are to be asked for; then the token can be looked at again."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


@dataclass(slots=True)
class _Kept:
    """What is known of an issuer's keys.

    Attributes:
        keys: by id; a set's only key also by "".
        fresh_until: until then they are not asked for again.
        stale_until: until then they stand though the issuer cannot be reached.
        not_before: until then nothing is asked.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    fresh_until: float = 0.0
    stale_until: float = 0.0
    not_before: float = 0.0


class KeySets:
    """The keys of all issuers, by the address of their set; there are as many as the callers file names."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def key(self, url: str, key_id: str, now: float) -> Any:
        """A key of a set.

        Args:
            url: the set's address.
            key_id: the token's `kid`; empty for none, which only a set of one key answers.
            now: seconds since 1970.

        Raises:
            KeysNeeded: the set is to be asked for first. Unauthorized: it has no such key.
            KeysUnreachable: it could not be had.
        """
        kept = self._kept.setdefault(url, _Kept())
        found = kept.keys.get(key_id)
        if found is not None and now < kept.fresh_until:
            return found
        if now >= kept.not_before:
            raise KeysNeeded(url)
        if not kept.keys or now >= kept.stale_until:
            raise KeysUnreachable(
                "the keys of this token's issuer cannot be had now", retry_after_s=_AGAIN_AFTER_FAILURE_S
            )
        if found is None:
            raise Unauthorized("this token's key is not known to its issuer")
        return found

    def fetched(self, url: str, keys: Mapping[str, Any], max_age_s: float | None, now: float) -> None:
        """A set has come, to be kept for `max_age_s` seconds, within bounds."""
        age_s = _USUAL_AGE_S if max_age_s is None else min(max(max_age_s, _SHORTEST_AGE_S), _LONGEST_AGE_S)
        self._kept[url] = _Kept(keys, now + age_s, now + max(age_s, _STALE_S), now + _AGAIN_S)

    def failed(self, url: str, now: float) -> None:
        """A set could not be had."""
        self._kept.setdefault(url, _Kept()).not_before = now + _AGAIN_AFTER_FAILURE_S

    def may_ask(self, url: str, now: float) -> bool:
        """Whether a set may be asked for now: another request may have had it meanwhile."""
        return now >= self._kept.setdefault(url, _Kept()).not_before
