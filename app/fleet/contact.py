"""Whether Redis answers: found out by whoever asks, told once a change. Pure, but for what it logs.

One slow answer is no outage, so that Redis counts as away after three failures in a row; from then on nobody waits for
it, and a beat each second finds it again. And one who had no contact himself must not judge others by what Redis says:
after Redis was away every lease has lapsed, and nobody has died.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

# As many failures in a row as make an outage.
FAILURES = 3


class RedisAway(Exception):
    """Redis cannot be reached, or did not answer in time; the message says which, without an address."""


class RedisRefused(Exception):
    """Redis refused a command; the message is Redis's, which names a rule or a key and holds no value."""


class ScriptUnknown(RedisRefused):
    """Redis does not know the script by this digest: it was restarted, or another one has taken over."""


class Contact:
    """This process's contact with Redis.

    Args:
        changed: told when Redis goes away, and when it is back.
        took: told how long each answer took, in seconds.

    Attributes:
        away: nobody should wait for Redis. True until it first answers.
    """

    def __init__(
        self, changed: Callable[[bool], None] = lambda _away: None, took: Callable[[float], None] = lambda _s: None
    ) -> None:
        self._changed = changed
        self._took = took
        self._failures = FAILURES  # in a row
        self._since: float | None = None  # of the first answer after the last failure
        self._told = False  # that it is away
        self.away = True

    def steady_s(self, now: float) -> float:
        """For how long every question was answered, in seconds."""
        return 0.0 if self._since is None else now - self._since

    def succeeded(self, now: float, took_s: float) -> None:
        """Redis answered, at loop time `now`, after `took_s` seconds."""
        self._took(took_s)
        self._failures = 0
        self._since = now if self._since is None else self._since
        if self.away:
            level = logging.WARNING if self._told else logging.INFO
            self.away = self._told = False
            log.log(level, "Redis is there: streams can be read from every process")
            self._changed(False)

    def failed(self, why: str) -> None:
        """It did not."""
        self._failures += 1
        self._since = None
        if self._failures >= FAILURES and not self._told:
            self.away = self._told = True
            log.error("Redis is away (%s): streams that run go on; elsewhere they cannot be read", why)
            self._changed(True)
