"""Budgets while answers run: nobody is refused for what could be, nothing is spent above one, and all of it can be."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from app.access.callers import Caller, Limits, Token
from app.answer.outcome import Outcome
from app.errors import BudgetAway, BudgetCut, BudgetExhausted, BudgetHeld, Forbidden
from app.money.allowance import nano
from app.streams.session import Session
from app.streams.terms import Policy, Terms
from tests.support.books import end, start
from tests.support.budgets import MODEL, NOW, TOKEN, Bank, answer, bank, poor
from tests.support.clock import jumping
from tests.support.connections import FakeConnection
from tests.support.fakes import event, text
from tests.support.tickets import admitted


async def run_out(kept: Bank, sessions: list[Session], within_s: float = 600) -> None:
    """Returns when all of them have ended."""
    async with asyncio.timeout(within_s):
        while any(session.outcome is None for session in sessions) or kept.opened.streams.live:  # noqa: ASYNC110 - no event tells of them all
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)  # until all is booked


RATES: dict[str, list[float]] = {
    "slow": [20.0] * 50,
    "ordinary": [100.0] * 50,
    "fast": [400.0] * 50,
    "mixed": [20.0, 400.0, 100.0, 250.0, 50.0] * 10,
}


@pytest.mark.parametrize(
    "rates",
    [pytest.param(rates, id=name, marks=[pytest.mark.slow] * (name != "mixed")) for name, rates in RATES.items()],
)
@jumping
async def test_fifty_answers_spend_a_budget_to_its_end_and_none_is_refused(rates: list[float]) -> None:
    async with bank() as kept:
        caller = poor(0.10)
        sessions = await asyncio.gather(*(kept.stream(caller, list(answer(rate, 120))) for rate in rates))
        await run_out(kept, sessions)
        assert {session.outcome for session in sessions} == {Outcome.BUDGET}
        assert 0.095 <= kept.store.spent_usd <= 0.10, kept.store.spent_usd
        cut = kept.registry.get_sample_value("sluiceway_budget_cuts_total", {"caller": "acme"})
        assert cut == 50


@pytest.mark.slow
@jumping
async def test_without_holds_each_is_over_by_one_batch_at_most() -> None:
    async with bank(mode="one_batch") as kept:
        caller = poor(0.10)
        sessions = [await kept.stream(caller, list(answer(100, 120))) for _ in range(50)]
        await run_out(kept, sessions)
        assert {session.outcome for session in sessions} == {Outcome.BUDGET}
        assert 0.10 <= kept.store.spent_usd <= 0.10 + 50 * 11 * TOKEN / 1e9
        with pytest.raises(BudgetExhausted):
            await kept.admit(caller)


@pytest.mark.slow
@jumping
async def test_readers_who_stall_are_held_for_and_the_budget_is_kept_all_the_same() -> None:
    """Each takes a little and then nothing for seconds, while Claude writes on into the buffers."""
    async with bank() as kept:
        caller = poor(0.10)
        sessions = [
            await kept.stream(caller, list(answer(60, 200)), FakeConnection(drain_s=1.0 + place % 4))
            for place in range(50)
        ]
        await run_out(kept, sessions)
        assert {session.outcome for session in sessions} == {Outcome.BUDGET}
        assert 0.095 <= kept.store.spent_usd <= 0.10, kept.store.spent_usd


async def _comes_back(kept: Bank, session: Session, connection: FakeConnection, seed: int) -> int:
    """Reads a stream whose connection breaks again and again, until it has ended; returns how often it came back."""
    rng = random.Random(seed)
    count = 0
    while True:
        await connection.over.wait()
        session.lost(connection)
        await asyncio.sleep(rng.uniform(0, 0.3))
        if session.outcome is not None:
            return count
        count += 1
        connection = FakeConnection(connection.sent_id, cut_at=rng.randrange(40, 120))
        await kept.opened.streams.resume(session.terms.stream_id, poor(0.10), connection, admitted)


@pytest.mark.slow
@jumping
async def test_readers_who_come_and_go_spend_their_budget_no_further_than_those_who_stay() -> None:
    async with bank() as kept, asyncio.TaskGroup() as tasks:
        readers, sessions = [], []
        for place, rate in enumerate(RATES["slow"]):
            connection = FakeConnection(cut_at=40 + 3 * place)
            sessions.append(await kept.stream(poor(0.10), list(answer(rate, 120)), connection, policy=Policy.GRACE))
            readers.append(tasks.create_task(_comes_back(kept, sessions[-1], connection, place)))
        await run_out(kept, sessions)
        assert {session.outcome for session in sessions} == {Outcome.BUDGET}
        assert sum([await reader for reader in readers]) > 50, "hardly any came back"
        assert 0.095 <= kept.store.spent_usd <= 0.10, kept.store.spent_usd


@jumping
async def test_thinking_is_charged_as_it_comes() -> None:
    thinking = [text("x" * 37).__class__(0, "thinking", "x" * 37)]
    steps: list[Any] = [[start(MODEL, input_tokens=15)], *([0.1, thinking] * 2000)]
    async with bank() as kept:
        session = await kept.stream(poor(0.01), steps)
        await run_out(kept, [session])
        assert session.outcome is Outcome.BUDGET
        assert 0.0085 <= kept.store.spent_usd <= 0.01


@jumping
async def test_a_start_whose_hold_does_not_fit_is_refused_for_a_moment_and_not_for_the_day() -> None:
    async with bank() as kept:
        caller = poor(0.0021)
        sessions = [
            await kept.stream(
                caller, [[start(MODEL, input_tokens=1)], 5.0, [text("x")], [end(1)], [event("message_stop")]]
            )
            for _ in range(2)
        ]
        with pytest.raises(BudgetHeld) as refused:
            await kept.admit(caller)
        assert refused.value.retry_after_s == 1.0
        assert refused.value.facts["limit"] == "budget_usd_per_day"
        await run_out(kept, sessions)
        (await kept.admit(caller)).settle()  # what was held has come back
        reason = {"caller": "acme", "reason": "budget_held"}
        assert kept.registry.get_sample_value("sluiceway_caller_refused_total", reason) == 1


@jumping
async def test_once_spent_it_says_how_much_and_until_when_and_the_next_day_is_another() -> None:
    async with bank() as kept:
        caller = poor(0.01)
        session = await kept.stream(caller, list(answer(100, 60)), connection := FakeConnection())
        await run_out(kept, [session])
        assert b'"type":"budget_exhausted"' in connection.received
        with pytest.raises(BudgetExhausted) as refused:
            await kept.admit(caller)
        facts = refused.value.facts
        assert (facts["limit_usd"], facts["resets_at"], facts["of"]) == (0.01, "2026-11-26T00:00:00Z", "caller")
        assert 0.0085 < facts["spent_usd"] <= 0.01
        assert not isinstance(session.error, BudgetExhausted), "its outcome counts it, and no refusal"
        kept.wall_s = 86_400
        (await kept.admit(caller)).settle()


@jumping
async def test_how_a_budget_stands_is_told_though_nobody_asks() -> None:
    async with bank() as kept:
        for day, spent_usd in (("2026-11-25", 3.0), ("2026-11-26", 0.0)):
            kept.store.spent["acme", "day", day] = nano(spent_usd)
            kept.spending.look([poor(5.0)], Limits())
            await asyncio.sleep(0.1)
            told = {"caller": "acme", "span": "day"}
            assert kept.registry.get_sample_value("sluiceway_budget_usd", told) == 5
            assert kept.registry.get_sample_value("sluiceway_budget_left_usd", told) == 5 - spent_usd
            await asyncio.sleep(5)
            assert not kept.spending._pots, "and nothing is kept for it"
            kept.wall_s = 86_400


@jumping
async def test_a_day_that_ends_in_the_middle_of_an_answer_takes_what_came_in_it() -> None:
    async with bank() as kept:
        session = await kept.stream(poor(5.0), list(answer(100, 10)))
        await asyncio.sleep(5)
        kept.wall_s = 86_400
        await run_out(kept, [session])
        assert session.outcome is Outcome.COMPLETED
        first, second = (kept.store.spent["acme", "day", day] / TOKEN for day in ("2026-11-25", "2026-11-26"))
        assert 300 < first < 510, "it is charged now and then, where there is plenty"
        assert first + second == pytest.approx(1000, abs=60)


@jumping
async def test_all_callers_together_have_a_budget_too_and_the_smaller_one_counts() -> None:
    async with bank(Limits(budget_nano_usd_per_month=nano(0.005))) as kept:
        session = await kept.stream(poor(1.0), list(answer(100, 60)), connection := FakeConnection())
        await run_out(kept, [session])
        assert b'"limit":"budget_usd_per_month","of":"all"' in connection.received
        assert kept.store.spent["", "month", "2026-11"] == kept.store.spent["acme", "day", "2026-11-25"] <= nano(0.005)


@jumping
async def test_an_answer_warns_once_most_of_a_budget_is_spent() -> None:
    async with bank() as kept:
        caller = poor(0.02)
        first = await kept.admit(caller)
        assert first.warning == ""
        first.settle()
        session = await kept.stream(
            caller, [[start(MODEL, input_tokens=15)], [text("x" * 9)], [end(680)], [event("message_stop")]]
        )
        await run_out(kept, [session])
        warned = await kept.admit(caller)
        assert warned.headers["X-Budget-Warning"].startswith("budget_usd_per_day; of=caller; used=0.85; resets=")
        warned.settle()


@jumping
async def test_a_whole_answer_is_held_for_by_the_time_it_takes_and_cut_when_that_is_spent() -> None:
    async with bank() as kept:
        ticket = await kept.admit(poor(0.02), whole=True)

        async def ask() -> None:
            async with kept.opened.streams.whole(Terms("", "c", MODEL), 64_000, ticket) as page:
                kept.opened.accounts.append(page.account)
                await asyncio.sleep(3600)

        with pytest.raises(BudgetCut):
            await ask()
        await asyncio.sleep(1.5)
        assert 0.015 <= kept.store.spent_usd <= 0.02, "nobody saw what was generated: it is taken for what was held"
        assert kept.opened.settled() == {"budget": 1}


@jumping
async def test_an_upstream_that_bills_whole_answers_holds_all_that_can_come_and_cuts_nothing() -> None:
    async with bank(cuts=False) as kept:
        caller = poor(0.10)
        with pytest.raises(BudgetExhausted):
            await kept.admit(caller)  # 64,000 tokens are 1.60 $
        ticket = await kept.admit(caller, max_tokens=3000)
        with pytest.raises(BudgetHeld):
            await kept.admit(caller, max_tokens=3000)
        ticket.settle()


@jumping
async def test_a_store_that_is_away_lets_running_answers_use_what_was_drawn_and_nobody_in() -> None:
    async with bank() as kept:
        caller = poor(0.10)
        session = await kept.stream(caller, list(answer(100, 600)), connection := FakeConnection())
        await asyncio.sleep(3)
        kept.store.away = True
        await asyncio.sleep(1)
        with pytest.raises(BudgetAway):
            await kept.admit(caller, body=b"x" * 30_000)  # more than had been drawn
        await run_out(kept, [session])
        assert session.outcome is Outcome.BUDGET
        assert b'"type":"budget_unavailable"' in connection.received, "it is not spent"
        kept.store.away = False
        (await kept.admit(caller)).settle()
        await asyncio.sleep(1.5)
        assert kept.store.spent_usd <= 0.10


@jumping
async def test_a_model_whose_price_nobody_knows_is_refused_to_who_has_a_budget_and_to_nobody_else() -> None:
    async with bank() as kept:
        with pytest.raises(Forbidden):
            await kept.admit(poor(1.0), model="unheard-of")
        (await kept.admit(Caller(name="rich"), model="unheard-of")).settle()


@jumping
async def test_without_a_budget_nothing_is_drawn_and_no_timer_runs() -> None:
    async with bank() as kept:
        ticket = await kept.admit(Caller(name="rich"))
        assert ticket.meter is None
        await asyncio.sleep(100)
        ticket.settle()
        assert kept.store.rounds == 0


@jumping
async def test_a_reader_who_leaves_pays_for_the_prompt_and_for_what_nobody_saw() -> None:
    async with bank() as kept:
        caller = poor(1.0)
        session = await kept.stream(caller, [3600.0], connection := FakeConnection())
        await asyncio.sleep(1)
        session.lost(connection)
        await run_out(kept, [session])
        assert kept.store.spent["acme", "day", "2026-11-25"] == 20 * 5_000, "Claude had the prompt"


@pytest.mark.parametrize("spent", [0.0, 1.0])
@jumping
async def test_a_budget_of_nothing_lets_nothing_in(spent: float) -> None:
    async with bank(mode="never_over" if spent else "one_batch") as kept:
        with pytest.raises(BudgetExhausted):
            await kept.admit(poor(0.0))


@jumping
async def test_of_a_budget_that_is_too_small_for_any_answer_it_is_not_said_that_it_is_spent() -> None:
    async with bank() as kept:
        with pytest.raises(BudgetExhausted) as refused:
            await kept.admit(poor(0.0001))
        said = "your budget_usd_per_day, 0.0001 USD, is less than must be free for one answer"
        assert (refused.value.message, refused.value.facts["spent_usd"]) == (said, 0.0)


@jumping
async def test_a_tokens_budget_cuts_what_was_asked_for_with_it_and_another_token_has_its_own() -> None:
    def page(name: str) -> Caller:
        expires_at = NOW + 900
        return poor(5.0, token=Token(name, "ann", budget_nano_usd=nano(0.01), budget_id=name, expires_at=expires_at))

    async with bank() as kept:
        sessions = [await kept.stream(page("one"), list(answer(100, 60))) for _ in range(2)]
        other = await kept.stream(page("two"), list(answer(100, 1)))
        await run_out(kept, [*sessions, other])
        assert [session.outcome for session in (*sessions, other)] == [Outcome.BUDGET] * 2 + [Outcome.COMPLETED]
        assert 8_500_000 <= kept.store.spent["acme", "token", "one"] <= 10_000_000
        assert kept.store.spent["acme", "day", "2026-11-25"] > kept.store.spent["acme", "token", "one"]
        kept.store.spent["acme", "token", "one"] = nano(0.01)  # another process has spent the rest
        await asyncio.sleep(1.5)
        with pytest.raises(BudgetExhausted) as refused:
            await kept.admit(page("one"))
        assert refused.value.message == "your token's budget_usd, 0.01 USD, is spent; another token has its own"
        assert (refused.value.facts["of"], refused.value.retry_after_s) == ("token", None)
        assert "resets_at" not in refused.value.facts
        (ticket := await kept.admit(page("two"))).settle()
        assert ticket.warning == ""
        assert kept.registry.get_sample_value("sluiceway_budget_usd", {"caller": "acme", "span": "token"}) is None
        kept.wall_s = 901  # both have expired
        await asyncio.sleep(1.5)
        assert [key for key in kept.spending._pots if "token" in key] == []


@jumping
async def test_what_is_left_after_a_cut_serves_an_answer_that_it_is_enough_for() -> None:
    async with bank() as kept:
        caller = poor(0.05)
        session = await kept.stream(caller, list(answer(2000, 60)))
        await run_out(kept, [session])
        assert session.outcome is Outcome.BUDGET
        with pytest.raises(BudgetExhausted, match=r"0\.05 USD, has too little left, 0\.0"):
            await kept.admit(caller)
        (await kept.admit(caller, max_tokens=10)).settle()


@jumping
async def test_an_answer_whose_length_nobody_can_read_is_held_for_as_the_longest() -> None:
    async with bank() as kept:
        ticket = await kept.admit(poor(0.02), whole=True, max_tokens=0)

        async def ask() -> None:
            async with kept.opened.streams.whole(Terms("", "c", MODEL), 0, ticket) as page:
                kept.opened.accounts.append(page.account)
                await asyncio.sleep(3600)

        with pytest.raises(BudgetCut):
            await ask()
        await asyncio.sleep(1.5)
        assert kept.store.spent_usd <= 0.02


@jumping
async def test_of_prompts_that_nobody_can_measure_as_many_run_at_once_as_there_is_money_for() -> None:
    async with bank() as kept:
        caller, asked = poor(2.5), b'{"source":{"type":"url","url":"https://a.example/book.pdf"}}'
        first = [await kept.admit(caller, body=asked) for _ in range(3)]  # a dollar each, and what is left
        with pytest.raises(BudgetHeld):
            await kept.admit(caller, body=asked)
        for ticket in first:
            ticket.settle()
        (await kept.admit(caller, body=asked)).settle()


@jumping
async def test_where_budgets_may_be_passed_who_leaves_pays_for_the_whole_prompt() -> None:
    async with bank(mode="one_batch") as kept:
        caller = poor(0.001)
        ticket = await kept.admit(caller, body=b"x" * 300_000)
        session, _ = kept.opened.start(
            [3600.0], connection := FakeConnection(), caller="acme", ticket=ticket, policy=Policy.ABORT
        )
        await asyncio.sleep(1)
        session.lost(connection)
        await run_out(kept, [session])
        assert kept.store.spent["acme", "day", "2026-11-25"] >= 100_001 * 5_000
