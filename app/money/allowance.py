"""Budgets: what a process may spend of each, and what it holds back for its streams. Pure; money is whole nano-dollars.

    budget 5 $ a day ── kept on disk: spent, and drawn by each process
        allowance    ── what this process drew: charged, held, free
            hold     ── one stream's: what can still come of it before a cut works

A running stream can be cut, so nothing holds `max_tokens`: a hold is the price of what can come between the decision and
its effect (`ahead.py`). What is received is charged to the hold, which is then filled up again from what is free. Where
nothing is free, a stream is cut while its hold still covers what comes meanwhile. So charged and held together never pass
what was drawn, nor what was drawn the budget, as long as no more comes of a stream than was held for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

NANO = 1_000_000_000  # nano-dollars in a dollar
Calendar = Literal["day", "month"]
Span = Calendar | Literal["token"]


def nano(usd: float) -> int:
    """US dollars in nano-dollars."""
    return round(usd * NANO)


def period(span: Calendar, now: float) -> str:
    """The day or the month of a time, in UTC, as it is kept: `2026-11-26`, `2026-11`.

    Args:
        now: seconds since the epoch.
    """
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d" if span == "day" else "%Y-%m")


def resets_at(span: Calendar, now: float) -> float:
    """When the next day or month begins, in seconds since the epoch."""
    at = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if span == "day":
        return at.timestamp() + 86_400
    year, month = divmod(at.year * 12 + at.month, 12)  # the next one
    return at.replace(year=year, month=month + 1, day=1).timestamp()


class Allowance:
    """What one process may spend of one budget.

    Args:
        name: the caller's; nothing for all callers together.
        span: what the budget is for.
        period: which day, month or browser token.
        limit: of the budget.

    Attributes:
        drawn: taken from the budget, and not yet booked as spent.
        charged: of that, what was received.
        held: of that, what is held for streams.
        spent: of the whole budget, as it was last read, with all that is held for dead processes.
        others: drawn by other processes, as last read.
        dry: the budget had less than was asked when it was last drawn from.
    """

    __slots__ = ("charged", "drawn", "dry", "held", "limit", "name", "others", "period", "span", "spent")

    def __init__(self, name: str, span: Span, period: str, limit: int) -> None:
        self.name = name
        self.span: Span = span
        self.period = period
        self.limit = limit
        self.drawn = self.charged = self.held = self.spent = self.others = 0
        self.dry = False

    @property
    def free(self) -> int:
        """What is neither charged nor held; below 0 where more came than was held for."""
        return self.drawn - self.charged - self.held

    @property
    def used(self) -> int:
        """What all processes have spent, as far as this one knows."""
        return self.spent + self.charged

    @property
    def left(self) -> int:
        """What is not spent; others may hold it."""
        return max(0, self.limit - self.used)

    def book(self, keep_free: int) -> int:
        """Takes out what was charged, and what is free beyond `keep_free`; the first is returned, to be booked as spent.

        What is left in `drawn` is what this process keeps.
        """
        booked = self.charged
        self.drawn -= booked + max(0, self.free - keep_free)
        self.charged = 0
        return booked

    def unbook(self, booked: int) -> None:
        """Undoes a booking that could not be written."""
        self.charged += booked
        self.drawn += booked

    def begin(self, period: str) -> None:
        """Another day or month begins: its budget is whole, and what is held for streams must be drawn from it anew."""
        self.period = period
        self.drawn = self.charged = self.spent = self.others = 0
        self.dry = False


class Hold:
    """What is held for one stream, the same in each of the budgets that it is charged to.

    Args:
        allowances: of its caller and of all callers, for the day and the month; none where nothing is bounded.

    Attributes:
        amount: held now.
        charged: in all, so far.
    """

    __slots__ = ("allowances", "amount", "charged")

    def __init__(self, allowances: Sequence[Allowance]) -> None:
        self.allowances = allowances
        self.amount = 0
        self.charged = 0

    def fill(self, wanted: int) -> int:
        """Makes it `wanted`, as far as that is free; returns what is missing. More than wanted is given back."""
        more = wanted - self.amount
        if more > 0:
            more = max(0, min([more, *(allowance.free for allowance in self.allowances)]))
        self.amount += more
        for allowance in self.allowances:
            allowance.held += more
        return max(0, wanted - self.amount)

    def charge(self, cost: int) -> None:
        """The stream has cost so much up to now. What is above the hold is taken from what is free, or passes it."""
        more, self.charged = cost - self.charged, cost
        from_hold = max(0, min(self.amount, more))
        self.amount -= from_hold
        for allowance in self.allowances:
            allowance.held -= from_hold
            allowance.charged += more

    def settle(self, cost: int) -> None:
        """The stream has ended, and cost so much: the rest goes back. Idempotent where the cost is the same."""
        self.charge(cost)
        self.fill(0)


def grant(limit: int, spent: int, drawn: int, least: int, ahead: int) -> int:
    """What a process is given of a budget: what it needs, as far as it is there, and some of the rest in advance.

    In advance comes at most a tenth of the rest, so that a process that dies, whose draws then count as spent, takes
    little along, and others find something.

    Args:
        limit: of the budget.
        spent: of it, booked.
        drawn: by all processes, this one's own included.
        least: what it needs.
        ahead: what it would like beyond that.
    """
    left = max(0, limit - spent - drawn)
    needed = min(left, max(0, least))
    return needed + min(max(0, ahead), (left - needed) // 10)


def youngest_to_cut(ages: Sequence[tuple[float, int]], missing: int) -> int:
    """How many streams must be cut so that what is held for them makes up for what is missing; the youngest go first.

    Half of a hold is counted on, because the rest may still come before the cut works.

    Args:
        ages: of each stream that can be cut, when it began and what is held for it.
        missing: in nano-dollars, above 0.

    Returns:
        How many, from the youngest on; at least one where there is any.
    """
    count = 0
    for _, amount in sorted(ages, reverse=True):
        if count and missing <= 0:
            break
        missing -= amount // 2
        count += 1
    return count
