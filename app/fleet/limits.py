"""Budgets, rates and places of a fleet, in Redis: each question is one script, one round trip, by Redis's own clock.

The same promises as `streams/state.py` keeps on one machine. What a process has spent of a budget stands there as one
number, absolute, and so does what it has drawn, so that an answer that was lost is made good by the next one, and a Redis
that has forgotten learns from each process what that has spent. What a process holds lapses: its places after 30 s, what
it drew after 60 s, which then counts as spent, since nobody knows how much of it was. Whoever still lives says both anew
well before that.

A Redis that refuses a script has done nothing of it (or too much, where an ACL lets it do a part), so that limits and budgets
go on as while Redis is away. An answer that did not come leaves it open.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ..access.limits import PERIOD_S, Late, Want
from ..streams.state import Balance, Draft, StateAway, Taking
from .apart import MOST_BUDGETS, Apart, Budget, budget_of
from .contact import RedisAway, RedisRefused, ScriptUnknown
from .errors import FleetAway
from .limit_scripts import DRAW, NOTE, PLACES_S, TAKE, TRY
from .member import Asking
from .names import digest

# While Redis is away or refuses it is tried again this often, in seconds.
_AGAIN_S = 1.0


class _Refused(StateAway):
    """Redis refused a script, so that nothing of it is done."""


class FleetLimits:
    """What the processes of a fleet share of limits and budgets.

    Args:
        asks: of Redis.
        prefix: of every key.
        process: this one's incarnation.
        apart: what it lets in by itself while Redis is away.
        clock: seconds since the epoch, for that alone.

    Attributes:
        on_dead: told what was booked as spent for processes that died, in nano-dollars.
    """

    def __init__(
        self, asks: Asking, prefix: str, process: str, apart: Apart, clock: Callable[[], float] = time.time
    ) -> None:
        self._asks = asks
        # One tag: a script's keys must lie in one place.
        self._tag = f"{prefix}:{{l}}"
        self._process = process
        self._apart = apart
        self._clock = clock
        self._spent: OrderedDict[Budget, int] = OrderedDict()  # by this process, as Redis knows
        self._places: dict[str, int] = {}  # of this process, by caller; none at zero
        self._words = 0  # about places, ever
        self._said: dict[str, int] = {}  # which of them was the last about each of those
        self._noted: set[str] = set()  # whose places have changed since they were last read to be told
        self._untold: list[Want] = []  # corrections
        self._wake = asyncio.Event()
        self._refused = False  # something, since the last round of telling
        self.on_dead: Callable[[int], None] = lambda _nano: None

    async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
        """Books what was spent, and draws more as far as it is there.

        While Redis is away or refuses it is drawn from what this process may spend by itself.

        Raises:
            StateAway: that is nothing by the policy; or Redis did not answer in time, and is not known to be away, so that
            nobody knows whether it was done. Cancelling leaves it open whether it was done; the next draft tells
            anew.
        """
        if not drafts:
            return []
        own: dict[Budget, int] = {}
        sums: list[int] = []  # of each draft's budget, with that draft's; a budget may come twice
        given: list[int] = []
        for draft in drafts:
            budget = budget_of(draft)
            own[budget] = own.get(budget, self._spent.get(budget, 0)) + draft.book
            sums.append(own[budget])
            given += [own[budget], draft.limit, draft.keep, draft.least, draft.ahead]
        keys = [f"{self._tag}:b:{digest(name)}:{span}:{period}" for name, span, period in map(budget_of, drafts)]
        balances: list[Balance] | None
        try:
            balances = self._told(drafts, sums, await self._do(DRAW, keys, given))
        except StateAway as error:
            balances = self._apart.draw(drafts, sums) if self._is_undone(error) else None
            if balances is None:
                raise
        for budget, spent in own.items():
            self._spent[budget] = spent
            self._spent.move_to_end(budget)
        while len(self._spent) > MOST_BUDGETS:
            self._spent.popitem(last=False)
        return balances

    def _told(self, drafts: Sequence[Draft], sums: Sequence[int], raw: Sequence[bytes]) -> list[Balance]:
        told = [int(figure) for figure in raw]
        balances = [Balance(told[at], told[at + 1], told[at + 2]) for at in range(0, len(told), 4)]
        for draft, own, balance in zip(drafts, sums, balances, strict=True):
            self._apart.heard(draft, own, balance)
        if dead := sum(told[3::4]):
            self.on_dead(dead)
        return balances

    async def take(self, wants: Sequence[Want], place: Taking) -> Late | str | None:
        """Takes of all buckets, and a place; nothing where one of them has not enough, and says which.

        While Redis is away or refuses this process goes by its own share.

        Raises:
            FleetAway: that is nothing by the policy; or it did not answer in time, and is not known to be away. Cancelling
            as in `draw`.
        """
        counted, word = _counted(place), self._next_word()
        given: list[int | str] = [len(counted)]
        for _, here, most, refusal in counted:
            given += [here, "" if most is None else most, refusal]
        for want in wants:
            given += [f"{_seconds(want, want.cost):.6f}", f"{_seconds(want, min(want.cost, want.per_minute)):.6f}"]
        keys = [*(self._place(name) for name, *_ in counted), *map(self._bucket, wants)]
        try:
            answer = await self._do(TAKE, keys, given)
        except StateAway as error:
            if not self._is_undone(error):  # whoever is let in besides would be one too many
                raise FleetAway("Redis did not answer in time", retry_after_s=1.0) from error
            if self._apart.closed:
                raise FleetAway("Redis takes no limits, so that nothing is started", retry_after_s=1.0) from error
            refused = self._apart.take(wants, place, self._clock())
            if refused is None:
                self._say([(name, here) for name, here, *_ in counted if name], word)
            return refused
        match answer[0]:
            case b"taken":
                self._say([(name, here) for name, here, *_ in counted if name], word)
                return None
            case b"late":
                want, wait_s, owed_s = wants[answer[1]], float(answer[2]), float(answer[3])
                remaining = max(0, int((PERIOD_S - owed_s) * want.per_minute / PERIOD_S))
                return Late(want, wait_s, remaining, owed_s)
            case which:
                return str(which.decode())

    def note(self, places: Sequence[tuple[str, int]], corrections: Sequence[Want]) -> None:
        """Tells how many places this process has of some callers, and what estimates took too little or too much.

        Nobody waits for it. Where it cannot be told, places are told again, and corrections are lost.
        """
        self._say(places, self._next_word())
        self._noted.update(name for name, _ in places)
        self._untold += corrections
        self._wake.set()

    def tell_again(self) -> None:
        """Redis has forgotten: it is told of all places of this process at once."""
        self._wake.set()

    async def reap(self) -> None:
        """Nothing: what processes held that died lapses by itself."""

    async def run(self) -> None:
        """Tells what is to be told, and all places anew before they lapse, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(PLACES_S / 3):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._tell()
                if self._asks.contact.refuses and not self._refused:
                    await self._do(TRY, [f"{self._tag}:t", f"{self._tag}:t:h"], [])
                    self._asks.contact.accepted()
            except StateAway:
                pass  # its own log line has said so
            else:
                if not self._asks.contact.refuses:
                    continue
            self._refused = False
            self._wake.set()  # again as soon as it is back
            await asyncio.sleep(_AGAIN_S)

    async def _tell(self) -> None:
        """Tells what is to be told. Raises StateAway."""
        corrections, self._untold = self._untold, []
        self._noted.clear()
        of_callers = sum(count for name, count in self._places.items() if not _is_subject(name))
        places = {**self._places, "": of_callers}
        if not (self._places or corrections):
            return
        keys = [*map(self._place, places), *map(self._bucket, corrections)]
        given: list[int | str] = [len(places), *places.values()]
        given += [f"{_seconds(want, want.cost):.6f}" for want in corrections]
        await self._do(NOTE, keys, given)
        # Who came to have none meanwhile is told of in the next round, even if he had none before: he may have taken one.
        self._places = {name: count for name, count in self._places.items() if count or name in self._noted}
        self._said = {name: self._said[name] for name in self._places}

    def _next_word(self) -> int:
        self._words += 1
        return self._words

    def _say(self, places: Sequence[tuple[str, int]], word: int) -> None:
        """So many places this process has, unless a later word has said otherwise: Redis answers later than it was asked."""
        for name, count in places:
            if self._said.get(name, 0) <= word:
                self._places[name], self._said[name] = count, word

    async def _do(self, script: str, keys: Sequence[str], given: Sequence[int | str]) -> Any:
        rest = (len(keys), *keys, self._process, *given)
        try:
            try:
                return await self._asks.ask("EVALSHA", hashlib.sha1(script.encode()).hexdigest(), *rest)
            except ScriptUnknown:
                return await self._asks.ask("EVAL", script, *rest)
        except RedisRefused as refused:
            self._asks.contact.refused(refused.code)
            self._refused = True
            self._wake.set()
            raise _Refused(str(refused)) from refused
        except RedisAway as away:
            raise StateAway(str(away)) from away

    def _is_undone(self, error: StateAway) -> bool:
        """Whether nothing of what was asked is done: Redis refused, or nobody asks it since it is away."""
        return isinstance(error, _Refused) or self._asks.contact.away

    def _place(self, name: str) -> str:
        return f"{self._tag}:p:{digest(name)}" if name else f"{self._tag}:p"

    def _bucket(self, want: Want) -> str:
        kind, name = want.key
        return f"{self._tag}:r:{kind}:{digest(name)}"


def _counted(place: Taking) -> list[tuple[str, int, int | None, str]]:
    """Under which names a place is counted, each with how many this process has, may be in all, and what is said then."""
    counted: list[tuple[str, int, int | None, str]] = []
    if place.most is not None or place.most_in_all is not None:
        counted = [
            (place.name, place.here, place.most, "streams"),
            ("", place.here_in_all, place.most_in_all, "all streams"),
        ]
    if place.most_of_subject is not None:
        counted.append((place.subject, place.here_of_subject, place.most_of_subject, "token streams"))
    return counted


def _is_subject(name: str) -> bool:
    """Whether places are counted under the name of a caller's user: it holds a line feed, as no caller's does."""
    return "\n" in name


def _seconds(want: Want, cost: float) -> float:
    """What it costs, in seconds in which that comes again."""
    return cost * PERIOD_S / want.per_minute
