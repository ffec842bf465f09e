"""Answers that begin at once: as long as a budget has what each needs beside all that is held, none is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.access.callers import Caller, Limits, Token
from app.errors import BudgetHeld
from app.money.allowance import nano
from app.streams.state import Balance, Draft
from tests.support.books import end, start
from tests.support.budgets import MODEL, NOW, TOKEN, Bank, MemoryStore, answer, bank, poor
from tests.support.clock import jumping, run
from tests.support.fakes import Step, event, text


class SlowStore(MemoryStore):
    """Takes its time, so that much happens while a draft is under way."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)

    async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
        balances = await super().draw(drafts)
        await asyncio.sleep(self.rng.choice([0.0, 0.003, 0.02]))
        return balances


def short(tokens: int, every_s: float) -> list[Step]:
    """An answer of so many tokens, one at a time."""
    pieces: list[Step] = []
    for _ in range(tokens):
        pieces += [every_s, [text("xxxx")]]
    return [[start(MODEL, input_tokens=15)], *pieces, [end(tokens)], [event("message_stop")]]


async def come_and_go(kept: Bank, caller: Caller, bursts: Sequence[tuple[float, int, float]]) -> None:
    """Bursts of answers: when each begins, of how many, and how far apart their tokens are."""

    async def ask(at_s: float, every_s: float) -> None:
        await asyncio.sleep(at_s)
        session = await kept.stream(caller, short(20, every_s))
        while session.outcome is None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.1)

    await asyncio.gather(*(ask(at_s, every_s) for at_s, count, every_s in bursts for _ in range(count)))


# Some run, and take what is to spare, while a draft for the others is under way.
BURSTS = [(0.0, 1, 0.0), (0.05, 20, 0.0), (0.06, 4, 0.0), (0.07, 4, 0.0), (0.08, 4, 0.001)]


@example(seed=1, bursts=BURSTS, plenty=True)
@example(seed=1, bursts=BURSTS, plenty=False)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    bursts=st.lists(
        st.tuples(st.floats(0, 4), st.integers(1, 12), st.sampled_from([0.0, 0.001, 0.02])), min_size=1, max_size=3
    ),
    plenty=st.booleans(),
)
def test_however_bursts_meet_nobody_is_refused_as_long_as_there_is_enough_for_all(
    seed: int, bursts: list[tuple[float, int, float]], plenty: bool
) -> None:
    count = sum(count for _, count, _ in bursts)
    # Each needs some 32 tokens and its prompt at first, and holds no more than 256 to spare and 0.2 s of what comes.
    limit = 50.0 if plenty else count * (20 * 5_000 + 1_000 * TOKEN) / 1e9

    async def scene() -> None:
        async with bank(store=SlowStore(seed)) as kept:
            await come_and_go(kept, poor(limit), bursts)
            assert sum(kept.opened.settled().values()) == kept.opened.settled()["completed"] == count

    run(scene())


@jumping
async def test_a_burst_finds_a_fresh_budget_of_every_kind() -> None:
    token = Token("t", "ann", budget_nano_usd=nano(5.0), budget_id="t", expires_at=NOW + 900)
    caller = poor(50.0, budget_nano_usd_per_month=nano(500.0), token=token)
    of_all = Limits(budget_nano_usd_per_day=nano(1000.0), budget_nano_usd_per_month=nano(1000.0))
    async with bank(of_all, store=SlowStore(1)) as kept:
        await come_and_go(kept, caller, BURSTS)
        assert kept.opened.settled() == {"completed": 33}
        assert len({nano_usd for nano_usd in kept.store.spent.values() if nano_usd}) == 1, "charged alike, and once"


@jumping
async def test_of_a_burst_that_a_budget_cannot_hold_as_many_begin_as_it_can() -> None:
    need = 32 * TOKEN + 20 * 5_000
    async with bank(store=SlowStore(1)) as kept:
        found = await asyncio.gather(*(kept.admit(poor(7.5 * need / 1e9)) for _ in range(20)), return_exceptions=True)
        refused = [one for one in found if isinstance(one, BaseException)]
        assert [type(one) for one in refused] == [BudgetHeld] * 13
        for one in found:
            if not isinstance(one, BaseException):
                one.settle()


@jumping
async def test_who_waits_for_a_draft_comes_before_who_asks_later() -> None:
    need = 32 * TOKEN + 20 * 5_000
    async with bank(store=SlowStore(1)) as kept:
        caller = poor(3 * need / 1e9)
        (await kept.admit(caller)).settle()  # some is free now: enough for a short question
        first = asyncio.create_task(kept.admit(caller, body=b"x" * 900))  # needs 2.5 times as much
        await asyncio.sleep(0.0005)
        later = asyncio.create_task(kept.admit(caller))
        with pytest.raises(BudgetHeld):
            await later
        (await first).settle()


@jumping
async def test_what_running_answers_come_to_need_while_a_draft_is_under_way_is_drawn_with_the_next() -> None:
    class Late(MemoryStore):
        async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
            balances = await super().draw(drafts)
            await asyncio.sleep(0.35)  # three reads come meanwhile
            return balances

    async with bank(store=Late()) as kept:
        session = await kept.stream(poor(50.0), list(answer(2000, 1)))
        for ticket in await asyncio.gather(*(kept.admit(poor(50.0)) for _ in range(5))):
            ticket.settle()
        while session.outcome is None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.1)
        assert kept.opened.settled() == {"completed": 1}


@jumping
async def test_who_is_given_up_just_as_its_draft_has_come_holds_nothing() -> None:
    class GivesUp(MemoryStore):
        async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
            balances = await super().draw(drafts)
            asyncio.get_running_loop().call_soon(waiting.cancel)
            return balances

    async with bank(store=GivesUp()) as kept:
        waiting = asyncio.create_task(kept.admit(poor(5.0)))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not kept.spending._meters
        assert kept.spending._pots["acme", "day", ""].allowance.held == 0


@jumping
async def test_those_who_give_up_while_they_wait_leave_nothing_held_or_asked_for() -> None:
    async with bank(store=SlowStore(1)) as kept:
        rng = random.Random(1)

        async def ask() -> None:
            await asyncio.sleep(rng.uniform(0, 0.05))
            async with asyncio.timeout(rng.uniform(0, 0.02)):
                (await kept.admit(poor(0.01))).settle()

        found = await asyncio.gather(*(ask() for _ in range(60)), return_exceptions=True)
        assert {type(one) for one in found} == {type(None), TimeoutError}
        pot = kept.spending._pots["acme", "day", ""]
        assert (pot.asked, pot.allowance.held, len(pot.meters)) == (0, 0, 0)
