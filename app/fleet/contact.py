"""Whether Redis answers: found out by whoever asks, told once a change. Pure, but for what it logs.

One slow answer is no outage, so that Redis counts as away after three failures in a row; from then on nobody waits for
it, and a beat each second finds it again. And one who had no contact himself must not judge others by what Redis says:
after Redis was away every lease has lapsed, and nobody has died.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

# As many failures in a row as make an outage.
FAILURES = 3
# A code of Redis's, at the beginning of its words or, from within a script, where these tell of what failed there.
_CODE = re.compile(r"(?:^|[\s-])(?!ERR\b)([A-Z]{3,20})\b")
# An ACL's refusal within a script, of Redis 7.2 and before; it has no code of its own there.
_NOPERM_IN_SCRIPT = ("ACL failure in script", "user executing the script")


class RedisAway(Exception):
    """Redis cannot be reached, or did not answer in time; the message says which, without an address."""


class RedisUnfit(RedisAway):
    """It is there, and lets nobody in by these settings; the message names them."""


class RedisRefused(Exception):
    """Redis refused a command; the message is Redis's, which names a rule or a key and holds no value."""

    @property
    def code(self) -> str:
        """Why, in one word of Redis's: OOM, NOPERM, MISCONF; ERR where it has no better one."""
        if any(words in str(self) for words in _NOPERM_IN_SCRIPT):
            return "NOPERM"
        found = _CODE.search(str(self))
        return found[1] if found else "ERR"


@contextmanager
def nobody_knows() -> Iterator[None]:
    """For questions: what Redis refuses to tell is as unknown as where it is away. Raises RedisAway in place of RedisRefused.

    So does one whose ACL forbids it, and a replica that has lost its primary (`replica-serve-stale-data no`).
    """
    try:
        yield
    except RedisRefused as refused:
        raise RedisAway(f"Redis refuses to tell ({refused.code})") from None


class ScriptUnknown(RedisRefused):
    """Redis does not know the script by this digest: it was restarted, or another one has taken over."""


class Contact:
    """This process's contact with Redis.

    Args:
        changed: told when Redis goes away, and when it is back; likewise when it begins and ends to refuse.
        took: told how long each answer took, in seconds.

    Attributes:
        away: nobody should wait for Redis. True until it first answers.
        refuses: why it answers and yet takes nothing of limits and budgets, in its own word; empty while it takes them.
        refuses_us: the same of what this process says of itself, by which others find its streams.
    """

    def __init__(
        self, changed: Callable[[bool], None] = lambda _away: None, took: Callable[[float], None] = lambda _s: None
    ) -> None:
        self._changed = changed
        self._took = took
        self._failures = FAILURES  # in a row
        self._since: float | None = None  # of the first answer after the last failure or refusal
        self._heard_since: float | None = None  # of the first one after the last failure
        self._told = False  # that it is away
        self._told_unfit = False  # that it will be, until a setting is changed
        self.away = True
        self.refuses = self.refuses_us = ""

    @property
    def troubled(self) -> bool:
        """Whether it is away, or refuses what it is there for."""
        return self.away or bool(self.refuses or self.refuses_us)

    def steady_s(self, now: float) -> float:
        """For how long every question was answered and this process could say that it lives, in seconds."""
        return 0.0 if self._since is None else now - self._since

    def heard_s(self, now: float) -> float:
        """For how long every question was answered, if only by a refusal, in seconds."""
        return 0.0 if self._heard_since is None else now - self._heard_since

    def succeeded(self, now: float, took_s: float) -> None:
        """Redis answered, at loop time `now`, after `took_s` seconds."""
        self._took(took_s)
        self._failures = 0
        self._since = now if self._since is None else self._since
        self._heard_since = now if self._heard_since is None else self._heard_since
        if self.away:
            level = logging.WARNING if self._told else logging.INFO
            self.away = self._told = self._told_unfit = False
            log.log(level, "Redis is there: streams can be read from every process")
            self._changed(self.troubled)

    def failed(self, away: RedisAway) -> None:
        """It did not, and why."""
        self._failures += 1
        self._since = self._heard_since = None
        unfit = isinstance(away, RedisUnfit)
        if self._failures >= FAILURES and not self._told:
            self.away = self._told = True
            log.error("Redis is away (%s): streams that run go on; elsewhere they cannot be read", away)
            self._changed(True)
        elif self._told and unfit and not self._told_unfit:
            log.error("Redis is there again, and cannot be used: %s", away)
        self._told_unfit = self._told and (self._told_unfit or unfit)

    def refused(self, code: str) -> None:
        """It answered, and refuses what limits and budgets ask of it."""
        if not self.refuses:
            log.error(
                "Redis refuses limits and budgets (%s): each process goes by redis_away; streams that run go on", code
            )
            self._changed(True)
        self.refuses = code

    def accepted(self) -> None:
        """It takes all of that again."""
        if self.refuses:
            self.refuses = ""
            log.warning("Redis takes limits and budgets again: they hold over the fleet")
            self._changed(self.troubled)

    def took_nothing(self, code: str) -> None:
        """It answered, and did not take what this process says of itself: others may live of whom it says nothing."""
        self._since = None
        if not self.refuses_us:
            log.error(
                "Redis refuses what this process says of itself (%s): others may not find its streams, which go on",
                code,
            )
            self._changed(True)
        self.refuses_us = code

    def took_all(self) -> None:
        """It takes that again."""
        if self.refuses_us:
            self.refuses_us = ""
            log.warning("Redis takes what this process says of itself again: others find its streams")
            self._changed(self.troubled)
