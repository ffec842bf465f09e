"""Budgets of callers: what their answers hold and are charged, what is drawn for them, and who is cut when one is spent.

    admission ──▶ a hold for what can come before a cut works      `Spending.open`
    a batch   ──▶ charged to the hold, which is filled up again    `Meter.charge`, `Spending.fill`
    running low ▶ one draft for all budgets that need it           `Spending.run`, the only task
    nothing left ▶ the youngest answers are cut, until the others' holds are whole again

An answer that is cut gives the rest of its hold back, which others live on: so a budget is used to its last hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

from ..access.callers import Caller, Limits
from ..errors import Forbidden, SluicewayError
from ..money.ahead import Ahead
from ..money.allowance import NANO, Allowance, Hold, youngest_to_cut
from ..money.quote import Quote
from ..telemetry.callers import CallerMetrics
from . import budget_words
from .meter import Came, Meter
from .pots import Budget, BudgetStore, Opening, Pot, SpendingRules, budgets_of, end_period, newer_period, undrawn
from .state import Balance, Draft, StateAway

# Answers that are held still are looked at this often, in seconds: what nobody reads of them grows meanwhile.
TICK_S = 0.1
# What was charged is booked this often, in seconds; and a budget that is spent is asked again after the second.
_BOOK_S, _RETRY_S = 1.0, 0.25
# So much is drawn in advance, in seconds of what is being spent; and again once half a second of it is left.
_AHEAD_S, _LOW_S = 2.0, 0.5
# Where there is plenty, a hold has so many tokens to spare, so that not every batch need be charged.
_SPARE_TOKENS = 256
# Characters that a token has at least: what of the spare is counted down before the next charge.
_CHARS_A_TOKEN = 2
# So many drafts an opening waits for, some milliseconds each. One is enough, but for what running answers came to need
# while it was under way.
_MOST_DRAFTS = 10
# Characters between two looks where only tokens are counted.
_COUNTED_CHARS = 1000


class Spending:
    """The budgets of one process. `run()` belongs beside whatever uses it, and `close()` after it.

    Args:
        store: where they are kept for all processes.
        rules: how.
        metrics: told what is spent, left and cut.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: BudgetStore, rules: SpendingRules, metrics: CallerMetrics, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self.rules = rules
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pots: dict[tuple[str, ...], Pot] = {}
        self._meters: dict[Meter, Sequence[Pot]] = {}  # of the answers that run, with what each is charged to
        self._pending: dict[Pot, None] = {}  # are drawn from in the next round
        self._late: list[Draft] = []  # of days and months that are over, not booked yet
        self._openings: dict[Opening, asyncio.Future[bool]] = {}  # wait for money: who came first first
        self._wanted = asyncio.Event()  # set: a round is due, or there is something to tick for
        self._reaped_at = -1e9

    def pots(self, caller: Caller, of_all: Limits) -> list[Pot]:
        """The budgets that a caller's answers are charged to: its own, and those of all callers."""
        return [self._pot(budget) for budget in budgets_of(caller, of_all, self._clock())]

    def look(self, callers: Iterable[Caller], of_all: Limits) -> None:
        """Reads in the next round how budgets stand, so that their metrics are true though nobody asks."""
        for caller in callers:
            for pot in self.pots(caller, of_all):
                self._pending[pot] = None
                self._wanted.set()

    def _pot(self, budget: Budget) -> Pot:
        pot = self._pots.get(budget.key)
        if pot is None:
            pot = Pot(Allowance(budget.name, budget.span, budget.period, budget.limit), self._loop.time(), budget.until)
            self._pots[budget.key] = pot
        pot.allowance.limit = budget.limit
        return pot

    async def open(self, pots: Sequence[Pot], quote: Quote, ahead: Ahead, came: Came) -> tuple[Meter, str]:
        """A meter for an answer that is to be asked for, and a warning where a budget is nearly spent; empty for none.

        Raises:
            BudgetExhausted, BudgetHeld, BudgetAway: there is no money for it. Forbidden: nobody knows its price.
            Cancelling is safe: nothing is held then.
        """
        hold = Hold([pot.allowance for pot in pots])
        meter = Meter(self, hold, quote, ahead, came)
        if not pots:
            return meter, ""
        if not quote.each:
            raise Forbidden("this model has no known price, and a budget bounds what you spend: see prices_file")
        need = 0 if self.may_be_over else meter.need(meter.began_at)
        least = [max(need, min(pot.too_little, quote.most)) for pot in pots]
        opening = Opening(meter, pots, least, 0 if self.may_be_over else quote.unmeasured)
        # Nobody takes what a draft brings to those who wait for it.
        if not opening.unmeasured and self._has(pots, [own + pot.asked for own, pot in zip(least, pots, strict=True)]):
            self._let_in(opening)
        elif not await self._waited(opening):
            raise self._refusal(pots, least)
        return meter, budget_words.warning([pot.allowance for pot in pots], self.rules.warn_share, self._clock())

    async def _waited(self, opening: Opening) -> bool:
        """Whether it was let in, once drafts have said whether there is money for it."""
        if await self._drawn(opening):
            return True
        if self._loop.time() <= self._reaped_at + _BOOK_S:
            return False
        self._reaped_at = self._loop.time()
        await self._reap()  # what is left may be held for a process that is dead
        return await self._drawn(opening)

    def _let_in(self, opening: Opening) -> None:
        """There is enough: it is held from now on. Nothing is waited for from the look at it to this."""
        meter, pots = opening.meter, opening.pots
        need = 0 if self.may_be_over else meter.need(meter.began_at)
        if opening.unmeasured:
            # What nobody can tell yet is held for as far as there is money: it bounds how much of it runs at once, and
            # refuses nobody for good.
            meter.quote.input += min(opening.unmeasured, min(pot.allowance.free for pot in pots) - need)
            need = max(need, meter.need(meter.began_at))
        meter.hold.fill(need)
        self._meters[meter] = pots
        for pot in pots:
            pot.meters[meter] = None
        self._wanted.set()

    @property
    def may_be_over(self) -> bool:
        """Whether budgets may be passed by what runs. See `Charged`."""
        return self.rules.mode == "one_batch"

    def _has(self, pots: Iterable[Pot], least: Iterable[int]) -> bool:
        """Whether an answer may begin. All is there at once, or nothing is taken: two halves would help nobody.

        Args:
            least: of each, what must be free.
        """
        if self.may_be_over:
            return all(pot.allowance.drawn and pot.allowance.left > 0 for pot in pots)
        return all(pot.allowance.free >= needed for pot, needed in zip(pots, least, strict=True))

    def _refusal(self, pots: Sequence[Pot], least: Iterable[int]) -> SluicewayError:
        """Why there is no money: spent rather than held, where both are so."""
        if any(pot.away for pot in pots):
            return budget_words.away()
        for pot, needed in zip(pots, least, strict=True):
            if pot.allowance.left < max(needed, 1):
                return budget_words.exhausted(pot.allowance, self._clock())
        return budget_words.held(min(pots, key=lambda pot: pot.allowance.free).allowance, self._clock())

    # While answers run.

    def fill(self, meter: Meter, now: float) -> int:
        """Fills a hold up again. See `Charged`."""
        if not meter.hold.allowances:
            return _COUNTED_CHARS
        pots = self._meters[meter]
        frees = [pot.allowance.free for pot in pots]
        free = min(frees)
        if any(own < pot.burn * _LOW_S for own, pot in zip(frees, pots, strict=True)):
            self._ask(pots, now)
        if self.rules.mode == "one_batch":
            for pot in pots:
                if pot.allowance.dry or not pot.allowance.left:
                    self._make_room(pot, now)
            return 0 if free < meter.quote.each * _SPARE_TOKENS * len(pots) else _SPARE_TOKENS * _CHARS_A_TOKEN
        need = meter.need(now)
        over = max(0, free - max(pot.asked for pot in pots))  # whoever waits for a draft comes before what is to spare
        spare = min(_SPARE_TOKENS * meter.quote.each, over // (2 * max(len(pot.meters) for pot in pots)))
        meter.hold.fill(need + spare)
        if meter.hold.amount < need:
            self._fall_short(meter, need, pots, now)
            return 0
        return (meter.hold.amount - need) // max(1, meter.quote.each) * _CHARS_A_TOKEN

    def _fall_short(self, meter: Meter, need: int, pots: Sequence[Pot], now: float) -> None:
        """There is not enough free: more is drawn, or where nothing is left somebody is cut."""
        empty = [pot for pot in pots if pot.allowance.free <= 0]
        for pot in empty:
            if pot.allowance.dry:
                self._make_room(pot, now)
            elif meter.hold.amount < need // 2 and undrawn(pot.allowance) < pot.missing(now):
                self._cut(pot, [meter], now)  # a draft is on its way, but this one cannot wait for it
        self._ask(empty, now)

    def _make_room(self, pot: Pot, now: float) -> None:
        """Cuts the youngest answers of a budget that is spent, as many as the others' holds need; without holds all."""
        if self.rules.mode == "one_batch":
            self._cut(pot, list(pot.meters) if pot.allowance.free < 0 else (), now)
            return
        missing = pot.missing(now) - pot.coming_back
        if missing > 0:
            others = [meter for meter in pot.meters if not meter.is_cut and meter.running is not None]
            others.sort(key=lambda meter: meter.began_at, reverse=True)
            count = youngest_to_cut([(meter.began_at, meter.hold.amount) for meter in others], missing)
            self._cut(pot, others[:count], now)

    def _cut(self, pot: Pot, meters: Iterable[Meter], now: float) -> None:
        for meter in meters:
            if self.rules.cuts and not meter.is_cut and meter.running is not None:
                if not pot.away:
                    needed = meter.need(now) - meter.ahead.unseen(now) * meter.quote.each
                    pot.too_little = max(pot.too_little, needed)
                self._metrics.cut(pot.allowance.name)
                away = budget_words.away(cut=True) if pot.away else None
                meter.cut(away or budget_words.cut(pot.allowance, self._clock()))

    def settled(self, meter: Meter) -> None:
        """An answer has ended, and the rest of its hold has gone back; others may need it. See `Charged`."""
        for pot in self._meters.pop(meter, ()):
            del pot.meters[meter]
            if pot.allowance.dry:
                self._share(pot, self._loop.time())
        for name in dict.fromkeys(allowance.name for allowance in meter.hold.allowances):
            self._metrics.spent(name, meter.hold.charged / NANO)
        self._wanted.set()

    def _share(self, pot: Pot, now: float) -> None:
        """Fills the holds that lack something, the oldest first."""
        for meter in pot.meters:
            if pot.allowance.free <= 0:
                break
            if not meter.is_cut and meter.hold.amount < (need := meter.need(now)):
                meter.hold.fill(need)

    # Drawing, in one task.

    def _ask(self, pots: Iterable[Pot], now: float) -> None:
        """These are drawn from in the next round, unless they were found dry just now."""
        for pot in pots:
            if not pot.allowance.dry or now >= pot.retry_at:
                self._pending[pot] = None
                self._wanted.set()

    async def _drawn(self, opening: Opening) -> bool:
        """Waits for drafts that ask for it too, until one of them lets it in or came short of it."""
        let_in = self._openings[opening] = self._loop.create_future()
        opening.drafts = 0
        opening.wait()
        self._pending.update(dict.fromkeys(opening.pots))
        self._wanted.set()
        try:
            return bool(await let_in)
        except BaseException:
            if opening in self._openings:
                self._answer(opening, let_in=False)
            elif opening.meter in self._meters:
                opening.meter.give_up()
            raise

    def _answer(self, opening: Opening, *, let_in: bool) -> None:
        """It waits no more."""
        waits = self._openings.pop(opening)
        opening.wait(-1)
        if let_in:
            self._let_in(opening)
        if not waits.done():
            waits.set_result(let_in)

    def _judge(self, openings: Iterable[Opening]) -> None:
        """Those that a draft asked for are let in where there is enough, or refused where that is known; else they wait on.

        A draft that came short of something has brought all that nobody had drawn. One that did not has brought enough
        for all of them, unless answers that run came to need some of it meanwhile: then the next one asks for that too.
        """
        for opening in openings:
            if opening not in self._openings:
                continue  # given up
            opening.drafts += 1
            if self._has(opening.pots, opening.least):
                self._answer(opening, let_in=True)
            elif opening.drafts >= _MOST_DRAFTS or any(
                (pot.allowance.dry or pot.allowance.left < max(needed, 1)) and not self._has([pot], [needed])
                for pot, needed in zip(opening.pots, opening.least, strict=True)
            ):
                self._answer(opening, let_in=False)
            else:
                self._pending.update(dict.fromkeys(opening.pots))

    async def _reap(self) -> None:
        try:
            await self._store.reap()
        except StateAway:
            return  # the next draft meets it too, and says so

    async def run(self) -> None:
        """Draws and books until cancelled. Without answers, and with nothing to book, no timer runs."""
        tick_at = 0.0
        while True:
            while not self._pending:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(max(tick_at, self._loop.time()) if self._pots else None):
                        await self._wanted.wait()
                self._wanted.clear()
                if (now := self._loop.time()) >= tick_at:
                    self._tick(now)
                    tick_at = now + TICK_S
            await self._draw(self._loop.time())

    def _tick(self, now: float) -> None:
        """Charges answers that are held still, and sees to it that all is booked in time."""
        for meter in list(self._meters):
            if meter.running is not None and not meter.is_cut and meter.running.paused():
                meter.charge()
        for key, pot in list(self._pots.items()):
            idle = not (pot.meters or pot.asked or (pot.too_little and self._clock() < pot.until))
            if idle and not (pot.allowance.drawn or pot.allowance.charged):
                del self._pots[key]
            elif now >= pot.booked_at + _BOOK_S or newer_period(pot.allowance, self._clock()):
                self._pending[pot] = None

    async def _draw(self, now: float) -> None:
        """One round: books and draws for all budgets that asked, in one go."""
        pots, self._pending = list(self._pending), {}
        openings = list(self._openings)  # each of whose pots is among these
        wall = self._clock()
        late = [*self._late, *(end_period(pot, newer) for pot in pots if (newer := newer_period(pot.allowance, wall)))]
        drafts = [self._draft(pot, now) for pot in pots]
        try:
            balances = await self._store.draw([*late, *drafts])
        except StateAway:
            self._late = late
            for pot, draft in zip(pots, drafts, strict=True):
                pot.allowance.unbook(draft.book)
                pot.allowance.dry = pot.away = True
        else:
            self._late = []
            for pot, draft, balance in zip(pots, drafts, balances[len(late) :], strict=True):
                self._take_in(pot, draft, balance)
        self._metrics.away(any(pot.away for pot in pots))
        for pot in pots:
            pot.retry_at = now + _RETRY_S
            self._share(pot, self._loop.time())
        self._judge(openings)
        for pot in pots:
            if pot.allowance.dry:
                self._make_room(pot, self._loop.time())

    def _draft(self, pot: Pot, now: float) -> Draft:
        allowance = pot.allowance
        passed_s = now - pot.booked_at
        if passed_s > 0:
            pot.burn += (allowance.charged / passed_s - pot.burn) * min(1.0, passed_s)
            pot.booked_at = now
        spare = sum(_SPARE_TOKENS * meter.quote.each for meter in pot.meters)
        ahead = int(pot.burn * _AHEAD_S) + spare if pot.meters else 0
        asked = pot.asked
        booked = allowance.book(keep_free=asked + ahead)
        lacks = asked + (pot.missing(now) if self.rules.mode == "never_over" else 0)
        least = max(0, lacks - allowance.free)
        return Draft(
            allowance.name, allowance.span, allowance.period, allowance.limit, booked, allowance.drawn, least,
            max(0, ahead + asked - max(0, allowance.free - lacks)),
        )  # fmt: skip

    def _take_in(self, pot: Pot, draft: Draft, balance: Balance) -> None:
        allowance = pot.allowance
        pot.away = not balance.known
        allowance.drawn += balance.granted
        allowance.spent, allowance.others = balance.spent, balance.others
        allowance.dry = balance.granted < draft.least
        if allowance.span == "token":
            return  # there may be any number of them
        self._metrics.budget(
            allowance.name, allowance.span, allowance.limit / NANO, allowance.left / NANO,
            warned=allowance.used >= allowance.limit * self.rules.warn_share,
        )  # fmt: skip

    async def close(self) -> None:
        """Books everything, and gives back what is not spent; call it when no answer runs and `run()` has ended."""
        now = self._loop.time()
        self._pending = dict.fromkeys(self._pots.values())
        if self._pending or self._late:
            await self._draw(now)
