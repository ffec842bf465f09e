"""Budgets as one process has them: which ones an answer is charged to, and who lives on each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..access.callers import Caller, Limits
from ..money.allowance import Allowance, Calendar, Span, period
from .meter import Meter
from .state import Balance, Draft


class BudgetStore(Protocol):
    """Where budgets are kept for all processes."""

    async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
        """Books what was spent, and draws more. Raises StateAway."""

    async def reap(self) -> None:
        """Books what processes that died had drawn. Raises StateAway."""


@dataclass(frozen=True, slots=True)
class SpendingRules:
    """How budgets are kept.

    Attributes:
        mode: whether what can come is held for.
        warn_share: of a budget, from which it is warned of.
        cut_s: how long a cut takes to work, in seconds.
        cuts: a cut stops the bill; else answers hold their `max_tokens`, and run to their end.
    """

    mode: Literal["never_over", "one_batch"] = "never_over"
    warn_share: float = 0.8
    cut_s: float = 0.2
    cuts: bool = True


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget.

    Attributes:
        name: whose; nothing for all callers together.
        span, period: of what: which day, month or browser token.
        limit: in nano-dollars.
        until: seconds since the epoch from which nothing is begun with it any more.
    """

    name: str
    span: Span
    period: str
    limit: int
    until: float = math.inf

    @property
    def key(self) -> tuple[str, ...]:
        """By which its pot is kept: a day's and a month's stays when the next one begins."""
        return (self.name, self.span, self.period if self.span == "token" else "")


def budgets_of(caller: Caller, of_all: Limits, now: float) -> Iterator[Budget]:
    """The budgets that a caller's answers are charged to: its token's, its own, and those of all callers.

    Args:
        now: seconds since the epoch.
    """
    token = caller.token
    if token is not None and token.budget_nano_usd is not None:
        yield Budget(caller.name, "token", token.budget_id, token.budget_nano_usd, token.expires_at)
    for name, limits in ((caller.name, caller), ("", of_all)):
        spans: tuple[tuple[Calendar, int | None], ...] = (
            ("day", limits.budget_nano_usd_per_day),
            ("month", limits.budget_nano_usd_per_month),
        )
        for span, limit in spans:
            if limit is not None:
                yield Budget(name, span, period(span, now), limit)


def newer_period(allowance: Allowance, now: float) -> str | None:
    """The day or month that has begun since its own; None for none. A token's budget never begins anew."""
    if allowance.span == "token" or (newer := period(allowance.span, now)) == allowance.period:
        return None
    return newer


class Pot:
    """A budget, and who lives on it here.

    Attributes:
        allowance: what this process has of it.
        meters: of the answers that run, oldest first.
        asked: what the openings lack that wait for a draft.
        burn: nano-dollars a second, lately.
        booked_at, retry_at: loop time of the last booking, and of the next draft where it is dry.
        away: the last draft could not be written.
        too_little: what was not enough for an answer that was cut, so that no other is begun with it.
        until: seconds since the epoch from which nothing is begun with it any more.
    """

    __slots__ = ("allowance", "asked", "away", "booked_at", "burn", "meters", "retry_at", "too_little", "until")

    def __init__(self, allowance: Allowance, now: float, until: float = math.inf) -> None:
        self.allowance = allowance
        self.meters: dict[Meter, None] = {}
        self.asked = self.too_little = 0
        self.burn = 0.0
        self.booked_at = self.retry_at = now
        self.away = False
        self.until = until

    def missing(self, now: float) -> int:
        """What the holds of its answers lack, in nano-dollars."""
        return sum(max(0, meter.need(now) - meter.hold.amount) for meter in self.meters if not meter.is_cut)

    @property
    def coming_back(self) -> int:
        """What may come back from answers that were cut and are not settled yet."""
        return sum(meter.hold.amount // 2 for meter in self.meters if meter.is_cut)


@dataclass(eq=False, slots=True)
class Opening:
    """An answer that is to begin.

    Attributes:
        meter: its own.
        pots: what it is charged to.
        least: of each, what must be free; 0 where budgets may be passed.
        unmeasured: what is liked beyond that, as far as there is money.
        drafts: how many it has waited for.
    """

    meter: Meter
    pots: Sequence[Pot]
    least: Sequence[int]
    unmeasured: int
    drafts: int = 0

    def wait(self, sign: int = 1) -> None:
        """It waits for its budgets' drafts, which ask for it too; with -1 it waits no more."""
        for pot, needed in zip(self.pots, self.least, strict=True):
            pot.asked += sign * (max(needed, 1) + self.unmeasured)


def end_period(pot: Pot, newer: str) -> Draft:
    """A day or a month is over: what is still to be booked of it; and the newer one begins."""
    allowance = pot.allowance
    old = Draft(allowance.name, allowance.span, allowance.period, allowance.limit, max(0, allowance.charged), 0)
    allowance.begin(newer)
    pot.too_little = 0
    return old


def undrawn(allowance: Allowance) -> int:
    """What nobody had drawn of a budget, as last read."""
    return allowance.limit - allowance.spent - allowance.others - allowance.drawn
