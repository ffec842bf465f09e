"""What one answer is told to whoever bounds its spending, while it runs: each event, for next to nothing.

A delta costs one subtraction: the meter counts down the characters that its hold covers. Only when they are used up, or
once a window near the end of a budget, is it charged: what came is priced, and the hold filled up again (`spending.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..answer.events import ClaudeEvent, Delta
from ..errors import EndedError
from ..money.ahead import Ahead
from ..money.allowance import Hold, nano
from ..money.entry import Entry
from ..money.ledger import Account
from ..money.quote import Quote

# A character outside ASCII is taken for this many: it costs more tokens.
_WIDE = 3
# Usage may come with these, and takes the place of an estimate.
_BRING_USAGE = ("message_start", "message_delta")


class Came(Protocol):
    """Who counts tokens."""

    def __call__(self, tokens: float, *, ended: bool) -> None:
        """There are so many output tokens by now, or in all."""


class Charged(Protocol):
    """Who keeps the budgets: `Spending`."""

    @property
    def may_be_over(self) -> bool:
        """Whether budgets may be passed by what runs, so that nothing is held for it."""

    def fill(self, meter: Meter, now: float) -> int:
        """Fills the meter's hold up again; returns the characters that may come before it is to be charged again."""

    def settled(self, meter: Meter) -> None:
        """The meter's stream has ended, and its hold has gone back."""


@dataclass(frozen=True, slots=True)
class Running:
    """An answer that runs.

    Attributes:
        account: its page in the ledger.
        paused: whether nobody reads it from Claude now.
        cut: ends it, with what it is told.
    """

    account: Account
    paused: Callable[[], bool]
    cut: Callable[[EndedError], None]


class Meter:
    """One answer's meter, from its admission to its settlement.

    Args:
        spending: where it is charged.
        hold: what is held for it; in no budget where only its tokens count.
        quote: what it costs.
        ahead: what can still come of it.
        came: told how many output tokens there are, now and then, and at the end.

    Attributes:
        began_at: loop time.
        running: set once it is asked for.
        is_cut: it was told to end.
    """

    __slots__ = (
        "_came", "_chars_left", "_due", "_loop", "_settled", "_spending", "ahead", "began_at", "hold", "is_cut", "quote",
        "running",
    )  # fmt: skip

    def __init__(self, spending: Charged, hold: Hold, quote: Quote, ahead: Ahead, came: Came) -> None:
        self._spending = spending
        self._came = came
        self._loop = asyncio.get_running_loop()
        self._chars_left = 0
        self._due = self._settled = False
        self.hold = hold
        self.quote = quote
        self.ahead = ahead
        self.began_at = self._loop.time()
        self.running: Running | None = None
        self.is_cut = False

    @property
    def started(self) -> bool:
        """Whether its input is known by its usage, and no longer an estimate."""
        return self.running is not None and bool(self.running.account.tally.usage)

    @property
    def told(self) -> bool:
        """Whether its usage has come, with nothing after it: it is at its end."""
        tally = self.running.account.tally if self.running is not None else None
        return tally is not None and tally.exact and not tally.since_usage

    def need(self, now: float) -> int:
        """What must be held for it, in nano-dollars."""
        if self.told:
            return 0
        held = self.ahead.tokens(now) * self.quote.each
        return held if self.started else held + self.quote.input

    def see(self, event: ClaudeEvent) -> None:
        """An event came. It is charged when all that came with it has been seen, and before any of it is delivered."""
        if isinstance(event, Delta):
            self._chars_left -= len(event.text) if event.text.isascii() else _WIDE * len(event.text)
        elif event.type in _BRING_USAGE:
            self._chars_left = 0
        if self._chars_left <= 0 and not self._due:
            self._due = True
            self._loop.call_soon(self.charge)

    def charge(self) -> None:
        """Charges what came, and fills the hold up again. After the settlement it does nothing."""
        self._due = False
        if self._settled or self.running is None:
            return
        tally, now = self.running.account.tally, self._loop.time()
        tokens = self.quote.tokens(tally)
        cost = self.quote.cost(tally, tokens)
        if not self.told:  # else it brings what was generated unseen, such as hidden thinking, and not at this moment
            self.ahead.seen(tokens, sum(tally.deltas.values()), sum(tally.chars.values()), now)
        if self.running.paused():
            self.ahead.pause(now)
        self.hold.charge(cost)
        self._came(tokens, ended=False)
        self._chars_left = self._spending.fill(self, now)

    def cut(self, error: EndedError) -> None:
        """Ends the answer. Idempotent."""
        if not self.is_cut and self.running is not None:
            self.is_cut = True
            self.running.cut(error)

    def give_up(self) -> None:
        """It was not let in after all: what is held goes back. Idempotent."""
        if not self._settled:
            self._settled = True
            self.hold.settle(0)
            self._spending.settled(self)

    def settle(self, entry: Entry | None) -> None:
        """The answer has ended; what it came to is charged, and the rest of its hold goes back. Idempotent.

        What was generated while nobody read, and was never seen, is paid for all the same: it is estimated, and charged
        where the answer was aborted. So is the prompt of one that was aborted before it began.

        Args:
            entry: how the ledger settled it; None where it could not, or nothing was asked for.
        """
        if self._settled:
            return
        self._settled = True
        cost = tokens = 0
        if self.running is not None:
            tokens = self.quote.tokens(self.running.account.tally)
            cost = self.quote.cost(self.running.account.tally, tokens)
        if entry is None:
            self._came(tokens, ended=True)
        else:
            self._came(entry.generated, ended=True)
            cost = nano(entry.spent_usd.total) if entry.priced else cost
            if entry.aborted:
                unseen = self.ahead.unseen(self._loop.time()) * self.quote.each
                unseen += 0 if self.started else self.quote.input
                # No more than is held for it, because an estimate must not pass a budget, unless that may be passed.
                room = max(0, self.hold.charged + self.hold.amount - cost)
                cost += unseen if self._spending.may_be_over else min(unseen, room)
        self.hold.settle(cost)
        self._spending.settled(self)
