"""What callers are told of their budgets: that one is spent, held, or nearly spent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..errors import BudgetAway, BudgetCut, BudgetExhausted, BudgetHeld
from ..money.allowance import NANO, Allowance, Span, resets_at

# What is held comes back with any answer's end, so that asking again soon makes sense.
_RETRY_S = 1.0
# Who is refused because nobody knows what is left may come again after so long, in seconds.
_AWAY_RETRY_S = 5.0
_WORDS: dict[Span, str] = {"day": "budget_usd_per_day", "month": "budget_usd_per_month", "token": "budget_usd"}


def exhausted(allowance: Allowance, now: float) -> BudgetExhausted:
    """The refusal of a request whose budget is spent.

    Args:
        now: seconds since the epoch.
    """
    if allowance.left > 0 == allowance.used:
        limit = _usd(allowance.limit)
        error = BudgetExhausted(f"{_named(allowance)}, {limit} USD, is less than must be free for one answer")
        error.facts = _facts(allowance, now)
        return error
    return _told(BudgetExhausted, allowance, "is spent", now)


def cut(allowance: Allowance, now: float) -> BudgetCut:
    """The last event of an answer whose budget is spent."""
    return _told(BudgetCut, allowance, "is spent, and the answer was cut", now)


def away(*, cut: bool = False) -> BudgetAway:
    """A budget can be neither read nor written now.

    Args:
        cut: an answer ran, and has used up what was drawn for it; else none is begun.
    """
    what = ", and the answer was cut" if cut else ""
    return BudgetAway(f"what is left of your budget is not known now{what}", retry_after_s=_AWAY_RETRY_S)


def held(allowance: Allowance, now: float) -> BudgetHeld:
    """The refusal of a request for which nothing is free."""
    error = BudgetHeld(f"what is left of {_named(allowance)} is held for streams that run", retry_after_s=_RETRY_S)
    error.facts = _facts(allowance, now)
    return error


def warning(allowances: Iterable[Allowance], share: float, now: float) -> str:
    """The budgets of which at least `share` is spent, for a header; empty for none."""
    told = []
    for allowance in allowances:
        if allowance.used >= allowance.limit * share:
            used = allowance.used / allowance.limit if allowance.limit else 1.0
            facts = _facts(allowance, now)
            resets = f"; resets={facts['resets_at']}" if "resets_at" in facts else ""
            told.append(f"{facts['limit']}; of={facts['of']}; used={used:.2f}{resets}")
    return ", ".join(told)


_Told = TypeVar("_Told", bound=BudgetCut)


def _told(kind: type[_Told], allowance: Allowance, what: str, now: float) -> _Told:
    facts = _facts(allowance, now)
    again = f"it begins anew at {facts['resets_at']}" if "resets_at" in facts else "another token has its own"
    wait_s = None if allowance.span == "token" else max(0.0, resets_at(allowance.span, now) - now)
    what = what if allowance.left <= 0 else what.replace("is spent", f"has too little left, {_usd(allowance.left)} USD")
    error = kind(
        f"{_named(allowance)}, {_usd(allowance.limit)} USD, {what}; {again}",
        retry_after_s=None if wait_s is None else math.ceil(wait_s),
    )
    error.facts = facts
    return error


def _usd(nano_usd: int) -> str:
    """As people write an amount: without an exponent."""
    told = f"{max(0, nano_usd) / NANO:.6f}".rstrip("0").rstrip(".")
    return told if told != "0" or nano_usd <= 0 else "0.000001"


def _named(allowance: Allowance) -> str:
    if allowance.span == "token":
        return "your token's budget_usd"
    return (
        f"{'your' if allowance.name else 'the'} {_WORDS[allowance.span]}{'' if allowance.name else ' of all callers'}"
    )


def _facts(allowance: Allowance, now: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "limit": _WORDS[allowance.span],
        "of": "caller" if allowance.name else "all",
        "limit_usd": allowance.limit / NANO,
        "spent_usd": allowance.used / NANO,
    }
    if allowance.span == "token":
        return facts | {"of": "token"}
    resets = datetime.fromtimestamp(resets_at(allowance.span, now), UTC)
    return facts | {"resets_at": resets.strftime("%Y-%m-%dT%H:%M:%SZ")}
