"""Puts together what bounds callers: rates, places and budgets, and where they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path

from prometheus_client import CollectorRegistry

from ..access.guard import Guard
from ..fleet.limits import FleetLimits
from ..money.allowance import NANO
from ..money.ledger import Ledger
from ..money.prices import Prices
from ..settings import Settings
from ..streams.limiter import Kept, Limiter
from ..streams.pots import SpendingRules
from ..streams.spending import Spending
from ..streams.state import SharedState
from ..telemetry.callers import CallerMetrics
from .checks import state_folder
from .tasks import beside

# Two round trips to Claude, in seconds: what is on its way when a connection is closed.
_ROUND_TRIPS_S = 0.1
# How often budgets are looked at of which nobody asks anything: after a start, and when a day has begun.
_LOOK_S = 60.0


@asynccontextmanager
async def limiting(
    settings: Settings,
    guard: Guard,
    registry: CollectorRegistry,
    prices: Prices,
    ledger: Ledger,
    shared: FleetLimits | int,
    folder: str = "",
) -> AsyncIterator[Limiter]:
    """What lets answers in; when the block is left, all that was spent is booked. No stream may run then.

    Args:
        settings: how budgets are kept.
        guard: knows the callers, and what bounds all of them.
        registry: where the metrics live.
        prices, ledger: what answers cost.
        shared: where a fleet keeps limits and budgets; or how many workers share them on this machine.
        folder: of this worker and the one that takes its place, who share rates and places while both have streams.
    """
    names = guard.roster.callers
    metrics = CallerMetrics(registry, settings.budgets.named_callers, names)
    rules = SpendingRules(
        settings.budgets.budget_mode,
        settings.budgets.budget_warn_share,
        settings.streams.window_s + _ROUND_TRIPS_S,
        cuts=prices.bills(settings.costs.upstream) == "until_abort",
    )
    async with AsyncExitStack() as stack:
        state: FleetLimits | SharedState
        if isinstance(shared, int):
            state = SharedState(state_folder(settings), on_dead=lambda lost: metrics.unsettled(lost / NANO))
            await stack.enter_async_context(state)
        else:
            state = shared
            state.on_dead = lambda lost: metrics.unsettled(lost / NANO)
            await stack.enter_async_context(beside(state.run()))
        spending = Spending(state, rules, metrics)
        stack.push_async_callback(spending.close)
        await stack.enter_async_context(beside(spending.run()))
        await stack.enter_async_context(beside(_looking(spending, guard, settings.budgets.named_callers)))
        among = state if shared != 1 else None
        if folder and among is None:
            # In a folder that is there as long as the service, since that of budgets may not be.
            among = await stack.enter_async_context(SharedState(Path(folder)))
        kept = Kept(spending, among, prices, ledger.tokens_each)
        yield Limiter(lambda: guard.roster.limits, kept, metrics)


async def _looking(spending: Spending, guard: Guard, most: int) -> None:
    """Keeps the metrics of budgets true for the callers that have a name in them; never ends."""
    while True:
        spending.look(islice(guard.roster.callers.values(), most), guard.roster.limits)
        await asyncio.sleep(_LOOK_S)
