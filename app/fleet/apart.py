"""What a process lets in by itself while Redis is away, or refuses what limits and budgets ask of it. Pure.

`local`: its share of each limit, by how many processes there were when Redis was last heard, and of each budget its share of
what was left then; so all of them together pass nothing, as long as none of them is new. A budget of which nothing was heard
is not spent from. `open`: each goes by all of the limits, and of what it knows of the budgets, as if it were alone. `closed`:
nothing is begun, and what runs has what was drawn for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..access.limits import Buckets, Late, Want, take
from ..money.allowance import grant
from ..streams.state import Balance, Draft, Taking

Policy = Literal["local", "closed", "open"]
Budget = tuple[str, str, str]

# As many budgets are remembered as Redis is told of by one process.
MOST_BUDGETS = 20_000


@dataclass(frozen=True, slots=True)
class _Known:
    """A budget when Redis was last heard; money in nano-dollars.

    Attributes:
        used: of this process, spent and drawn.
        left: what nobody had spent or drawn.
        own, spent, others: spent by this process and by all, and drawn by others.
    """

    used: int
    left: int
    own: int
    spent: int
    others: int


def budget_of(draft: Draft) -> Budget:
    """Which budget a draft is of."""
    return draft.name, draft.span, draft.period


class Apart:
    """Limits and budgets of a process that is by itself.

    Args:
        policy: what it lets in.
        processes: how many of them share the limits, as far as is known.
    """

    def __init__(self, policy: Policy, processes: Callable[[], int]) -> None:
        self._policy = policy
        self._processes = processes
        self._buckets = Buckets()
        self._known: OrderedDict[Budget, _Known] = OrderedDict()

    @property
    def closed(self) -> bool:
        """Whether nothing is begun."""
        return self._policy == "closed"

    @property
    def _share(self) -> int:
        return 1 if self._policy == "open" else max(1, self._processes())

    def heard(self, draft: Draft, own: int, balance: Balance) -> None:
        """Redis was heard of a budget, of which this process has spent `own` in all."""
        used = own + draft.keep + balance.granted
        left = max(0, draft.limit - balance.spent - balance.others - draft.keep - balance.granted)
        self._known[budget_of(draft)] = _Known(used, left, own, balance.spent, balance.others)
        self._known.move_to_end(budget_of(draft))
        if len(self._known) > MOST_BUDGETS:
            self._known.popitem(last=False)

    def draw(self, drafts: Sequence[Draft], own: Sequence[int]) -> list[Balance] | None:
        """Draws of what this process may spend by itself; None where that is nothing by the policy.

        Args:
            drafts: what it asks for.
            own: what it has spent of each by then, in all.
        """
        if self.closed:
            return None
        return [self._drawn(draft, spent) for draft, spent in zip(drafts, own, strict=True)]

    def _drawn(self, draft: Draft, own: int) -> Balance:
        known = self._known.get(budget_of(draft))
        if known is None:
            if self._policy == "local":
                return Balance(0, own, 0, known=False)
            known = _Known(0, draft.limit, 0, 0, 0)
        most = known.used + known.left // self._share
        granted = grant(most, own, draft.keep, draft.least, draft.ahead)
        return Balance(granted, known.spent + own - known.own, known.others)

    def take(self, wants: Sequence[Want], place: Taking, now: float) -> Late | str | None:
        """Takes of this process's own buckets, and a place; or says which of them has not enough.

        Args:
            wants, place: as `FleetLimits.take` has them.
            now: seconds since the epoch.
        """
        for here, most, refusal in (
            (place.here_of_subject, place.most_of_subject, "token streams"),
            (place.here, place.most, "streams"),
            (place.here_in_all, place.most_in_all, "all streams"),
        ):
            # At least one, since a bound that is smaller than the fleet would let nobody in.
            if most is not None and here > (max(1, most // self._share) if most else 0):
                return refusal
        shared = {want.key: want for want in wants}
        own = [replace(want, per_minute=max(1, want.per_minute // self._share)) for want in wants]
        late = take(self._buckets, own, now)
        return late if late is None else replace(late, want=shared[late.want.key])
