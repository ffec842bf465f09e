"""Lets answers in, or refuses them: places, requests and tokens a minute, budgets. All of it is taken, or nothing.

One process keeps rates and places in its memory, exactly. Several share them through the file of `state.py`: one
transaction of some 0.2 ms each time a caller with such bounds asks, so that they hold for all workers together as
exactly. (Dividing them by the number of workers would refuse falsely: the kernel gives each connection to any of them.)
Where that file cannot be used, each worker keeps them by itself until it can.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from ..access.callers import Caller, Limits
from ..access.limits import Buckets, Late, Place, Places, Want, correct, take
from ..answer.events import ClaudeEvent
from ..errors import NoPlace, RateLimited, SluicewayError
from ..money.ahead import WHOLE_TOKENS_PER_S, Ahead
from ..money.entry import Entry
from ..money.prices import Prices
from ..money.quote import Quote
from ..telemetry.callers import CALLER_REFUSALS, CallerMetrics
from .meter import Meter, Running
from .spending import Spending
from .state import StateAway, Taking

# What an answer is taken to come to, in tokens, before it is known: a short one. The rest is taken as it comes.
_FIRST_TOKENS = 256
# No answer is longer, whatever its request says in words that only Claude understands.
_MOST_TOKENS = 300_000
# Tokens that came are taken from a bucket in pieces of this size, so that not every batch does it.
_PIECE_TOKENS = 200
# A place is free again when any answer ends; so long is said to be waited for one, in seconds.
_PLACE_RETRY_S = 2.0
# A debt is told up to a year, because no calendar goes on for ever.
_LONGEST_S = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Asking:
    """What is to be let in.

    Attributes:
        caller: who asks.
        model, max_tokens: what for.
        body: the request, whose length says what its prompt costs; empty where it costs nothing.
        name: the caller's own name for the stream; an older one of this name makes room for it.
        whole: the answer comes whole, so that nobody sees it grow.
    """

    caller: Caller
    model: str = ""
    max_tokens: int = 0
    body: bytes = b""
    name: str = ""
    whole: bool = False

    @property
    def most_tokens(self) -> int:
        """How long the answer can be: by `max_tokens` where that is a number that we read, else as long as any."""
        return self.max_tokens or (_MOST_TOKENS if self.body else 0)


class Shared(Protocol):
    """Where rates and places are kept for all processes."""

    async def take(self, wants: Sequence[Want], place: Taking) -> Late | str | None:
        """Takes of all buckets, and a place; or says which of them has not enough. Raises StateAway."""

    def note(self, places: Sequence[tuple[str, int]], corrections: Sequence[Want]) -> None:
        """Tells how many places this process has of some callers, and what was taken too little or too much."""

    async def reap(self) -> None:
        """Frees the places of processes that died. Raises StateAway."""


class GivesWay(Protocol):
    """Who has the streams: `Streams`."""

    def give_way(self, caller: Caller | None, name: str = "", *, of_subject: bool = False) -> bool:
        """Ends a stream that makes room for another one; tells whether there was one."""


@dataclass(eq=False, slots=True)
class Ticket:
    """What was taken for one answer, or for one reader of a kept one, from its admission to `settle`.

    Attributes:
        place: is given back at its end.
        meter: of its money and tokens; None where neither is bounded.
        warning: of a budget that is nearly spent, for a header; empty for none.
    """

    place: Place
    meter: Meter | None = None
    warning: str = ""
    on_end: Callable[[], None] = lambda: None

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's headers tell of it."""
        return {"X-Budget-Warning": self.warning} if self.warning else {}

    def begin(self, running: Running) -> None:
        """The answer is asked for."""
        if self.meter is not None:
            self.meter.running = running

    def see(self, event: ClaudeEvent) -> None:
        """An event of it came."""
        if self.meter is not None:
            self.meter.see(event)

    def settle(self, entry: Entry | None = None) -> None:
        """It has ended. Idempotent."""
        self.leave()
        if self.meter is not None:
            self.meter.settle(entry)

    def leave(self) -> None:
        """Gives the place back. Idempotent."""
        if not self.place.released:
            self.place.release()
            self.on_end()


@asynccontextmanager
async def settled(ticket: Ticket) -> AsyncIterator[None]:
    """Settles a ticket at the block's end, whatever ends it, if nothing did before."""
    try:
        yield
    finally:
        ticket.settle()


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a limiter keeps what it counts.

    Attributes:
        spending: the budgets.
        shared: rates and places of several processes; None for one alone.
        prices, tokens_each: what answers cost.
    """

    spending: Spending
    shared: Shared | None
    prices: Prices
    tokens_each: Callable[[str], tuple[float, ...]]


class Limiter:
    """Lets answers in.

    Args:
        of_all: the bounds of all callers together, as they are now.
        kept: where it counts.
        metrics: told who is refused.
        clock: seconds since the epoch.

    Attributes:
        streams: which make room; set once they are there.
    """

    def __init__(
        self,
        of_all: Callable[[], Limits],
        kept: Kept,
        metrics: CallerMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._of_all = of_all
        self._kept = kept
        self._metrics = metrics
        self._clock = clock
        self._buckets = Buckets()
        self.places = Places()
        self.streams: GivesWay | None = None

    async def admit(self, asking: Asking) -> Ticket:
        """Lets an answer in; whoever gets the ticket settles it.

        The place comes last, because somebody else may have to give way for it.

        Raises:
            NoPlace, RateLimited, BudgetExhausted, BudgetHeld, BudgetAway, Forbidden: it is refused, and nothing is
            taken. Cancelling is safe.
        """
        caller, of_all = asking.caller, self._of_all()
        tokens = _Tokens(_token_wants(caller, of_all, asking.most_tokens), self._correct)
        with self._counted(caller):
            meter, warning = await self._metered(asking, of_all, tokens)
            try:
                wants = [*_request_wants(caller, of_all), *tokens.wants]
                place = await self._placed(caller, of_all, wants, asking.name)
            except BaseException:
                if meter is not None:
                    meter.give_up()
                raise
        return Ticket(place, meter, warning, partial(self._left, caller, of_all))

    async def admit_reader(self, caller: Caller) -> Ticket:
        """A place for a reader of a kept answer, for which nothing is asked of Claude.

        Raises:
            NoPlace: there is none. Cancelling is safe.
        """
        of_all = self._of_all()
        with self._counted(caller):
            place = await self._placed(caller, of_all, [], "")
        return Ticket(place, on_end=partial(self._left, caller, of_all))

    @contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        try:
            yield
        except SluicewayError as error:
            if error.refusal in CALLER_REFUSALS:
                self._metrics.refused(caller.name, error.refusal)
            raise

    async def _metered(self, asking: Asking, of_all: Limits, tokens: _Tokens) -> tuple[Meter | None, str]:
        spending = self._kept.spending
        pots = spending.pots(asking.caller, of_all) if asking.body else []
        if not (pots or tokens.wants):
            return None, ""
        quote = Quote(self._kept.prices, self._kept.tokens_each, asking.model, asking.body, asking.most_tokens)
        if not spending.rules.cuts:
            ahead = Ahead(None, asking.most_tokens)
        elif asking.whole:
            ahead = Ahead(spending.rules.cut_s, asking.most_tokens, WHOLE_TOKENS_PER_S)
            ahead.pause(asyncio.get_running_loop().time())
        else:
            ahead = Ahead(spending.rules.cut_s)
        return await spending.open(pots, quote, ahead, tokens.came)

    async def _placed(self, caller: Caller, of_all: Limits, wants: Sequence[Want], name: str) -> Place:
        """Takes of the buckets, and a place; streams that nobody reads make room for it."""
        shared = self._kept.shared
        bounds = (caller.streams, of_all.streams, caller.subject_streams)
        bounded = bool(wants) or any(bound is not None for bound in bounds)
        if shared is not None and bounded:
            try:
                return await self._placed_among_all(shared, caller, of_all, wants, name)
            except StateAway:
                pass  # the log has said so: this process goes by what it knows itself
        if (late := take(self._buckets, wants, self._clock())) is not None:
            raise _too_many(late, self._clock())
        try:
            return self._placed_here(caller, of_all, name)
        except NoPlace:
            self._correct([replace(want, cost=-want.cost) for want in wants])
            raise

    def _placed_here(self, caller: Caller, of_all: Limits, name: str) -> Place:
        while lacking := self.places.lacking(caller.name, caller.streams, of_all.streams, caller.subject_streams):
            if not self._makes_room(lacking, caller, name):
                raise _no_place(lacking, caller, of_all)
        subject = caller.subject_streams
        return self.places.take(caller.name, subject[0] if subject is not None else "")

    async def _placed_among_all(
        self, shared: Shared, caller: Caller, of_all: Limits, wants: Sequence[Want], name: str
    ) -> Place:
        place = self._placed_here(caller, of_all, name)
        try:
            reaped = False
            while True:
                refused = await shared.take(wants, self._taking(caller, of_all))
                if refused is None:
                    return place
                if isinstance(refused, Late):
                    raise _too_many(refused, self._clock())
                if not self._makes_room(refused, caller, name):
                    if reaped:
                        raise _no_place(refused, caller, of_all)
                    reaped = True
                    await shared.reap()  # the others' places may be those of a process that is dead
        except BaseException:
            place.release()
            self._left(caller, of_all)
            raise

    def _taking(self, caller: Caller, of_all: Limits) -> Taking:
        here = Taking(caller.name, self.places.of(caller.name), self.places.taken, caller.streams, of_all.streams)
        if (subject := caller.subject_streams) is None:
            return here
        name, most = subject
        return replace(here, subject=name, here_of_subject=self.places.of(name), most_of_subject=most)

    def _makes_room(self, lacking: str, caller: Caller, name: str) -> bool:
        if self.streams is None:
            return False
        if name and self.streams.give_way(caller, name):
            return True
        if lacking == "token streams":
            return self.streams.give_way(caller, of_subject=True)
        return self.streams.give_way(caller if lacking == "streams" else None)

    def _left(self, caller: Caller, of_all: Limits) -> None:
        """A place is free again: other processes are told, as far as they were told of it or count by now."""
        if self._kept.shared is None:
            return
        bounds = (caller.streams, of_all.streams, self._of_all().streams)
        names = [caller.name] if any(bound is not None for bound in bounds) else []
        if (subject := caller.subject_streams) is not None:
            names.append(subject[0])
        if names:
            self._kept.shared.note([(name, self.places.of(name)) for name in names], [])

    def _correct(self, wants: Sequence[Want]) -> None:
        """More, or less, came than was taken for."""
        if self._kept.shared is not None:
            self._kept.shared.note([], wants)
            return
        for want in wants:
            correct(self._buckets, want, self._clock())


class _Tokens:
    """What one answer takes of the buckets of tokens: an estimate at first, corrected as it comes.

    Attributes:
        wants: of each bucket, at first.
    """

    def __init__(self, wants: Sequence[Want], correct: Callable[[Sequence[Want]], None]) -> None:
        self.wants = wants
        self._correct = correct
        self._taken = wants[0].cost if wants else 0.0

    def came(self, tokens: float, *, ended: bool) -> None:
        """There are so many output tokens; once the answer has ended, that is all of them."""
        more = tokens - self._taken
        if self.wants and (more >= _PIECE_TOKENS or (ended and more)):
            self._taken = tokens
            self._correct([replace(want, cost=more) for want in self.wants])


def _request_wants(caller: Caller, of_all: Limits) -> list[Want]:
    bounds = ((caller.name, caller.requests_per_minute), ("", of_all.requests_per_minute))
    return [Want(("requests", name), bound) for name, bound in bounds if bound is not None]


def _token_wants(caller: Caller, of_all: Limits, max_tokens: int) -> list[Want]:
    """Of requests that generate none, such as `count_tokens`, nothing."""
    bounds = ((caller.name, caller.output_tokens_per_minute), ("", of_all.output_tokens_per_minute))
    cost = min(max_tokens, _FIRST_TOKENS)
    return [Want(("output-tokens", name), bound, cost) for name, bound in bounds if bound is not None and cost]


def _no_place(lacking: str, caller: Caller, of_all: Limits) -> NoPlace:
    of, who, most = {
        "streams": ("caller", "you have", caller.streams),
        "token streams": ("token", "whom your token stands for has", caller.token and caller.token.streams),
        "all streams": ("all", "all callers together have", of_all.streams),
    }[lacking]
    error = NoPlace(f"{who} as many streams at once as may be, {most}", retry_after_s=_PLACE_RETRY_S)
    error.facts = {"limit": "streams", "of": of}
    return error


def _too_many(late: Late, now: float) -> RateLimited:
    """The refusal, with the bucket's state in the Messages API's own headers (Messages API, Rate limits)."""
    (kind, name), per_minute = late.want.key, late.want.per_minute
    words = {"requests": "requests_per_minute", "output-tokens": "output_tokens_per_minute"}[kind]
    error = RateLimited(
        f"{'your' if name else 'the'} {words}{'' if name else ' of all callers'}, {per_minute}, "
        f"{'is' if kind == 'requests' else 'are'} used up",
        retry_after_s=math.ceil(late.wait_s),
    )
    error.facts = {"limit": words, "of": "caller" if name else "all"}
    full_at = datetime.fromtimestamp(now + min(late.full_s, _LONGEST_S), UTC)
    error.limit_headers = {
        f"anthropic-ratelimit-{kind}-limit": str(per_minute),
        f"anthropic-ratelimit-{kind}-remaining": str(late.remaining),
        f"anthropic-ratelimit-{kind}-reset": full_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return error
