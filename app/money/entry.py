"""What the ledger says of one stream: its outcome, its tokens, its money; and sums of it. Values only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from ..answer.outcome import Outcome
from ..answer.tally import Phase
from ..answer.usage import count
from .prices import NO_COST, Cost, SpendingType
from .survival import T_90

Basis = Literal["exact", "estimated"]


class Avoided(msgspec.Struct, frozen=True):
    """Output tokens that were not generated because the stream was aborted: a counterfactual, so bounds and an estimate.

    Attributes:
        lower: always 0: the answer may have been about to end.
        expected: from the curve of this kind of answer's lengths; 0 when there was not `enough` to expect anything.
        upper: `max_tokens` less what was generated.
        low, high: 90 % interval of this one; the bounds themselves without enough data.
        variance: what it adds to the variance of a total of such estimates.
        enough: at least 50 finished answers (by faded weight) stood behind it; True where nothing was avoided for sure.
    """

    lower: float = 0.0
    expected: float = 0.0
    upper: float = 0.0
    low: float = 0.0
    high: float = 0.0
    variance: float = 0.0
    enough: bool = True


class Entry(msgspec.Struct, frozen=True):
    """One settled stream. Token counts obey generated = delivered + wasted.

    Attributes:
        model: as asked for; `served_model` as answered, which is what the price is looked up by.
        aborted: it was stopped while it would have gone on; a drained answer was not, whatever its outcome.
        finished: Claude said how it ended, and its usage.
        generated: output tokens; exact when usage came with nothing after it.
        delivered: of those, what reached the reader's connection, by its share of the characters.
        hidden_thinking: an unknown number of thinking tokens comes on top of an estimated `generated`, of the spending,
            and is missing in what was avoided, which then is visible tokens only.
        unseen_tokens: expected tokens that an upstream which bills whole answers bills beyond `generated`.
        spent_usd: by type; `spending` says which of it is exact.
        on_top_usd: of the output side, what was billed beside the answer: a compaction's, an advisor's; exact.
        wasted_usd: output that reached no reader; input is not in it.
        saved_usd, saved_upper_usd: of what was expected to be avoided, and of its upper bound.
        priced: False means that the answer's own tokens have no known price, and no money.
        unpriced: what has no price, in words.
        unpriced_beside: tokens without a price, but for `generated`.
        unreadable: values that Claude's side told and nobody can read; `unreadable_names` the first of them.
    """

    model: str
    served_model: str | None
    upstream: str
    outcome: Outcome
    phase: Phase
    aborted: bool
    finished: bool
    stop_reason: str | None
    opened_at: float
    settled_at: float
    generated: int = 0
    basis: Basis = "exact"
    delivered: int = 0
    wasted: int = 0
    hidden_thinking: bool = False
    avoided: Avoided = Avoided()
    unseen_tokens: float = 0.0
    spent_usd: Cost = NO_COST
    wasted_usd: float = 0.0
    saved_usd: float = 0.0
    saved_upper_usd: float = 0.0
    priced: bool = False
    output_usd_per_token: float = 0.0
    on_top_usd: float = 0.0
    unpriced: tuple[str, ...] = ()
    unpriced_beside: int = 0
    unreadable: int = 0
    unreadable_names: tuple[str, ...] = ()
    usage: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        return self.settled_at - self.opened_at

    @property
    def unpriced_tokens(self) -> int:
        """All tokens that have no price: they are in no sum of money."""
        return self.unpriced_beside + (0 if self.priced else self.generated)

    @property
    def spending(self) -> list[tuple[SpendingType, Basis, float]]:
        """What was spent, by type and by how sure it is. The input side, fees and what is billed on top are exact."""
        own = self.spent_usd.output - self.on_top_usd
        parts: list[tuple[SpendingType, Basis, float]] = [
            (kind, "exact", self.on_top_usd if kind == "output" else usd) for kind, usd in self.spent_usd.items()
        ]
        return [*parts, ("output", self.basis, max(0.0, own))]

    @property
    def remarks(self) -> list[str]:
        """What an operator should know of the sums, each to be said once; nothing where Claude never began."""
        if self.phase is Phase.BEFORE_FIRST_EVENT:
            return []
        return [
            *(f"{what} has no known price: it is in no sum of money; see prices_file" for what in self.unpriced),
            *(f"{name!r} could not be read: it is as if it had not come" for name in self.unreadable_names),
        ]

    def reconciled(self, output_tokens: int) -> Entry:
        """The entry with the visible answer counted anew, as by `count_tokens`; an exact entry stays as it is.

        Still an estimate, since Anthropic calls `count_tokens` one. Do it before the entry is added to the metrics:
        counters cannot go back.
        """
        if self.basis == "exact" or count(output_tokens) is None:
            return self
        share = self.delivered / self.generated if self.generated else 0.0
        delivered = round(share * output_tokens)
        upper = max(0.0, self.avoided.upper + self.generated - output_tokens) if self.aborted else 0.0
        high = min(self.avoided.high, upper) if self.avoided.enough else upper
        avoided = replace(
            self.avoided,
            expected=min(self.avoided.expected, upper),
            upper=upper,
            low=min(self.avoided.low, high),
            high=high,
        )
        return with_money(
            replace(
                self,
                generated=output_tokens,
                delivered=delivered,
                wasted=output_tokens - delivered,
                avoided=avoided,
            )
        )


def with_money(entry: Entry) -> Entry:
    """The money of the output side, from the entry's tokens; the input side stays."""
    each = entry.output_usd_per_token
    billed = entry.generated + entry.unseen_tokens
    return replace(
        entry,
        spent_usd=replace(entry.spent_usd, output=entry.on_top_usd + billed * each),
        wasted_usd=(entry.wasted + entry.unseen_tokens) * each,
        saved_usd=entry.avoided.expected * each,
        saved_upper_usd=entry.avoided.upper * each,
    )


@dataclass(frozen=True, slots=True)
class Total:
    """Avoided tokens over many aborted streams, with a 90 % interval of the total.

    Attributes:
        streams: aborted streams in it.
        unestimated: of those, the ones without enough data: they add 0 to `expected` and `low`, their bound to `high`.
    """

    streams: int = 0
    unestimated: int = 0
    expected: float = 0.0
    upper: float = 0.0
    variance: float = 0.0
    unestimated_upper: float = 0.0

    @property
    def low(self) -> float:
        return max(0.0, self.expected - T_90 * math.sqrt(self.variance))

    @property
    def high(self) -> float:
        return min(self.upper, self.expected + T_90 * math.sqrt(self.variance) + self.unestimated_upper)

    def plus(self, avoided: Avoided) -> Total:
        """The total with one more aborted stream."""
        return Total(
            streams=self.streams + 1,
            unestimated=self.unestimated + (not avoided.enough),
            expected=self.expected + avoided.expected,
            upper=self.upper + avoided.upper,
            variance=self.variance + avoided.variance,
            unestimated_upper=self.unestimated_upper + (0.0 if avoided.enough else avoided.upper),
        )


class ReconcileLimit:
    """Says when an aborted stream may be counted anew by `count_tokens`: a token bucket, off unless given a rate.

    Args:
        per_minute: calls a minute, in the long run; 0 means never.
        burst: calls at once.
    """

    def __init__(self, per_minute: float = 0.0, burst: int = 1) -> None:
        self._per_s = per_minute / 60
        self._burst = float(burst)
        self._left = float(burst)
        self._as_of: float | None = None

    def allows(self, entry: Entry, now: float) -> bool:
        """Whether this entry is worth a call and the rate has room for it; True spends it."""
        if self._per_s <= 0 or entry.basis == "exact" or not entry.generated:
            return False
        if self._as_of is not None:
            self._left = min(self._burst, self._left + max(0.0, now - self._as_of) * self._per_s)
        self._as_of = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
