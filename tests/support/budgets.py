"""Budgets kept in memory, and streams whose callers have them, on a jumping clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from app.access.callers import Caller, Limits
from app.money.allowance import NANO, grant, nano
from app.streams.limiter import Asking, Kept, Limiter, Ticket
from app.streams.pots import SpendingRules
from app.streams.session import Session
from app.streams.spending import Spending
from app.streams.state import Balance, Draft, StateAway
from app.streams.terms import Policy
from app.telemetry.callers import CallerMetrics
from tests.support.books import PRICES, start
from tests.support.connections import FakeConnection, StreamsUnderTest, streams_under_test
from tests.support.fakes import Step, event, text

MODEL = "claude-opus-4-8"  # 25 $ a million output tokens
TOKEN = 25_000  # so many nano-dollars each
UNBOUNDED = Limits()
NOW = 1_795_600_000.0  # seconds since the epoch, at the loop's own 1000


@dataclass
class MemoryStore:
    """Budgets in memory, for one process and whatever else is drawn.

    Attributes:
        spent: by name, span and period.
        others: drawn by other processes.
        away: it cannot be used.
        rounds: how often it was drawn from.
    """

    spent: dict[tuple[str, str, str], int] = field(default_factory=dict)
    others: int = 0
    away: bool = False
    rounds: int = 0
    reaped: int = 0

    async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
        self.rounds += 1
        await asyncio.sleep(0.001)
        if self.away:
            raise StateAway
        found = []
        for draft in drafts:
            key = draft.name, draft.span, draft.period
            spent = self.spent[key] = self.spent.get(key, 0) + draft.book
            granted = grant(draft.limit, spent, self.others + draft.keep, draft.least, draft.ahead)
            found.append(Balance(granted, spent, self.others))
        return found

    async def reap(self) -> None:
        self.reaped += 1

    @property
    def spent_usd(self) -> float:
        """Of all budgets, the most."""
        return max(self.spent.values(), default=0) / NANO


@dataclass
class Bank:
    """Streams, and what lets them in.

    Attributes:
        registry: of the callers' metrics.
        wall_s: added to the clock of days and months.
    """

    limiter: Limiter
    spending: Spending
    store: MemoryStore
    opened: StreamsUnderTest
    registry: CollectorRegistry
    of_all: Limits
    wall_s: float = 0.0
    count: int = 0

    async def admit(self, caller: Caller, **asked: Any) -> Ticket:
        given: dict[str, Any] = {"model": MODEL, "max_tokens": 64_000, "body": b"x" * 57} | asked
        return await self.limiter.admit(Asking(caller, **given))

    async def stream(
        self, caller: Caller, steps: Sequence[Step], connection: FakeConnection | None = None, **more: Any
    ) -> Session:
        """A stream that was let in."""
        ticket = await self.admit(caller)
        self.count += 1
        connection = connection or FakeConnection()
        session, _ = self.opened.start(
            steps, connection, stream_id=f"st_{self.count}", caller=caller.name, ticket=ticket,
            **{"policy": Policy.ABORT} | more,
        )  # fmt: skip
        return session


def poor(usd: float, **more: Any) -> Caller:
    """A caller with a budget for the day."""
    return Caller(name="acme", budget_nano_usd_per_day=nano(usd), **more)


def answer(rate: float, seconds: float, every_s: float = 0.1) -> Iterator[Step]:
    """An answer of so many tokens a second, as the ledger counts them before it has learned; read every so often."""
    yield [start(MODEL, input_tokens=15)]
    for _ in range(round(seconds / every_s)):
        yield every_s
        yield [text("x" * round(rate * every_s / 0.27))]
    yield [event("message_stop")]


@asynccontextmanager
async def bank(of_all: Limits = UNBOUNDED, *, store: MemoryStore | None = None, **rules: Any) -> AsyncIterator[Bank]:
    """Streams whose callers have budgets; at the end nothing is held, and all is booked."""
    registry, store = CollectorRegistry(), store or MemoryStore()
    metrics = CallerMetrics(registry, names=["acme"])
    loop = asyncio.get_running_loop()
    made: list[Bank] = []

    def clock() -> float:
        return NOW + loop.time() - 1000 + (made[0].wall_s if made else 0.0)

    spending = Spending(store, SpendingRules(**rules), metrics, clock)
    async with streams_under_test() as opened:
        ledger = opened.streams._books.ledger
        limiter = Limiter(lambda: of_all, Kept(spending, None, PRICES, ledger.tokens_each), metrics, clock)
        limiter.streams = opened.streams
        made.append(Bank(limiter, spending, store, opened, registry, of_all))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(spending.run())
            try:
                yield made[0]
            finally:
                await opened.streams.drain()
                running.cancel()
    store.away = False
    await spending.close()
    assert limiter.places.taken == 0
    assert all(pot.allowance.held == pot.allowance.charged == 0 for pot in spending._pots.values())
