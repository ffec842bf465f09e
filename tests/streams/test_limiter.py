"""Who is let in: places, requests and tokens a minute; all of it is taken or nothing, and nothing taken is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.access.callers import Caller, Limits
from app.answer.outcome import Outcome
from app.errors import BudgetExhausted, NoPlace, RateLimited
from app.money.allowance import nano
from app.money.ledger import Ledger
from app.streams.limiter import Asking, Kept, Limiter, Ticket
from app.streams.pots import SpendingRules
from app.streams.spending import Spending
from app.streams.state import SharedState
from app.streams.terms import Policy
from app.telemetry.callers import CallerMetrics
from tests.support.books import PRICES
from tests.support.budgets import MODEL, MemoryStore, answer, bank
from tests.support.clock import jumping
from tests.support.connections import FakeConnection

WIDE = Caller(name="wide", streams=100)


@jumping
async def test_of_a_thousand_starts_at_once_as_many_run_as_there_are_places() -> None:
    async with bank() as kept:
        asked = await asyncio.gather(*(kept.admit(WIDE) for _ in range(1000)), return_exceptions=True)
        tickets = [one for one in asked if isinstance(one, Ticket)]
        assert len(tickets) == 100
        refused = [one for one in asked if isinstance(one, NoPlace)]
        assert len(refused) == 900
        assert (refused[0].status, refused[0].facts) == (429, {"limit": "streams", "of": "caller"})
        for ticket in tickets:
            ticket.settle()
            ticket.settle()
        (await kept.admit(WIDE)).settle()


@jumping
async def test_all_callers_together_have_a_bound() -> None:
    async with bank(Limits(streams=2, requests_per_minute=100)) as kept:
        tickets = [await kept.admit(Caller(name=name)) for name in ("a", "b")]
        with pytest.raises(NoPlace, match="all callers together"):
            await kept.admit(Caller(name="c"))
        for ticket in tickets:
            ticket.settle()


@jumping
async def test_a_held_stream_gives_way_to_a_reader_and_nobody_elses_does() -> None:
    async with bank() as kept:
        caller = Caller(name="acme", streams=1)
        other = await kept.stream(
            Caller(name="other"), list(answer(10, 100)), lost := FakeConnection(), policy=Policy.GRACE
        )
        await asyncio.sleep(1)
        other.lost(lost)
        held = await kept.stream(caller, list(answer(10, 100)), gone := FakeConnection(), policy=Policy.GRACE)
        await asyncio.sleep(1)
        with pytest.raises(NoPlace):
            await kept.admit(caller)  # it is read
        held.lost(gone)
        ticket = await kept.admit(caller)
        assert held.outcome is Outcome.EXPIRED
        assert other.outcome is None
        with pytest.raises(NoPlace):
            await kept.admit(caller)
        ticket.settle()


@jumping
async def test_a_newer_question_of_a_chat_has_its_older_ones_place() -> None:
    async with bank() as kept:
        caller = Caller(name="acme", streams=1)
        older = await kept.stream(caller, list(answer(10, 100)))
        kept.opened.archive.claim(replace(older.terms, name="chat"))
        with pytest.raises(NoPlace):
            await kept.admit(caller, name="another chat")
        newer = await kept.admit(caller, name="chat")
        assert older.outcome is Outcome.TAKEN_OVER
        with pytest.raises(NoPlace):
            await kept.admit(caller, name="chat")  # it gives its place once
        newer.settle()


@jumping
async def test_readers_of_a_kept_answer_have_places_of_their_caller() -> None:
    async with bank() as kept:
        caller = Caller(name="acme", streams=2)
        tickets = [await kept.limiter.admit_reader(caller) for _ in range(2)]
        with pytest.raises(NoPlace):
            await kept.limiter.admit_reader(caller)
        with pytest.raises(NoPlace):
            await kept.admit(caller)
        for ticket in tickets:
            ticket.settle()
        reason = {"caller": "acme", "reason": "places"}
        assert kept.registry.get_sample_value("sluiceway_caller_refused_total", reason) == 2


@jumping
async def test_a_rate_refuses_in_claudes_own_words_and_headers() -> None:
    async with bank() as kept:
        caller = Caller(name="acme", requests_per_minute=2)
        for _ in range(2):
            (await kept.admit(caller)).settle()
        with pytest.raises(RateLimited) as refused:
            await kept.admit(caller)
        error = refused.value
        assert (error.status, error.type, error.retry_after_s) == (429, "rate_limit_error", 30)
        assert error.facts == {"limit": "requests_per_minute", "of": "caller"}
        assert error.limit_headers == {
            "anthropic-ratelimit-requests-limit": "2",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-25T09:47:40Z",
        }
        await asyncio.sleep(30)
        (await kept.admit(caller)).settle()


@jumping
async def test_tokens_are_taken_by_an_estimate_and_then_as_they_come() -> None:
    async with bank() as kept:
        caller = Caller(name="acme", output_tokens_per_minute=1000)
        session = await kept.stream(caller, list(answer(100, 30)))
        await asyncio.sleep(20)  # 2,000 tokens have come, and the answer runs
        with pytest.raises(RateLimited) as refused:
            await kept.admit(caller)
        assert refused.value.facts["limit"] == "output_tokens_per_minute"
        assert refused.value.retry_after_s == pytest.approx(55, abs=8)
        await asyncio.sleep(15)
        assert session.outcome is Outcome.COMPLETED
        await asyncio.sleep(60 * 3 - 35 + 20)
        (await kept.admit(caller)).settle()


@jumping
async def test_an_answer_whose_length_nobody_can_read_takes_tokens_all_the_same() -> None:
    async with bank() as kept:
        caller = Caller(name="acme", output_tokens_per_minute=1000)
        tickets = [await kept.admit(caller, max_tokens=0) for _ in range(3)]
        with pytest.raises(RateLimited):
            await kept.admit(caller, max_tokens=0)
        for ticket in tickets:
            ticket.settle()


@jumping
async def test_what_is_refused_takes_nothing() -> None:
    async with bank(Limits(requests_per_minute=1)) as kept:
        spender = Caller(name="acme", budget_nano_usd_per_day=nano(1), streams=1, output_tokens_per_minute=1000)
        (await kept.admit(Caller(name="other"))).settle()
        with pytest.raises(RateLimited, match="of all callers"):
            await kept.admit(spender)
        assert kept.limiter.places.taken == 0
        assert list(kept.limiter._buckets) == [("requests", "")]
        await asyncio.sleep(60)
        with pytest.raises(BudgetExhausted):
            await kept.admit(spender, body=b"x" * 900_000)  # whose prompt costs more than there is
        assert kept.limiter.places.taken == 0
        (await kept.admit(spender)).settle()
        await asyncio.sleep(60)
        running = await kept.admit(spender)
        await asyncio.sleep(60)
        with pytest.raises(NoPlace):
            await kept.admit(spender)
        running.settle()
        (await kept.admit(spender)).settle()


@jumping
async def test_a_request_given_up_while_it_waits_for_its_budget_holds_nothing() -> None:
    async with bank() as kept:
        spender = Caller(name="acme", budget_nano_usd_per_day=nano(1), streams=1)
        waiting = asyncio.create_task(kept.admit(spender))
        await asyncio.sleep(0.0005)  # its draft is on its way
        waiting.cancel()
        await asyncio.wait([waiting])
        assert kept.limiter.places.taken == 0
        (await kept.admit(spender)).settle()


def limiter_of(folder: Path, state: SharedState, of_all: Callable[[], Limits] = Limits) -> Limiter:
    metrics = CallerMetrics(CollectorRegistry())
    spending = Spending(MemoryStore(), SpendingRules(), metrics)
    return Limiter(of_all, Kept(spending, state, PRICES, Ledger(PRICES).tokens_each), metrics)


async def test_two_workers_have_a_callers_places_and_rates_together(tmp_path: Path) -> None:
    async with SharedState(tmp_path / "state") as one, SharedState(tmp_path / "state") as two:
        workers = [limiter_of(tmp_path, state) for state in (one, two)]
        asking = Asking(WIDE, MODEL, 10)
        asked = await asyncio.gather(
            *(worker.admit(asking) for _ in range(500) for worker in workers), return_exceptions=True
        )
        tickets = [ticket for ticket in asked if isinstance(ticket, Ticket)]
        assert len(tickets) == 100
        assert all(isinstance(refused, NoPlace) for refused in asked if refused not in tickets)
        for ticket in tickets:
            ticket.settle()
        for state in (one, two):
            await state.reap()  # what was noted is written by then
        (await workers[0].admit(asking)).settle()
        busy = Asking(Caller(name="busy", requests_per_minute=2), MODEL, 10)
        for worker in workers:
            (await worker.admit(busy)).settle()
        with pytest.raises(RateLimited):
            await workers[0].admit(busy)


async def test_a_place_taken_under_a_bound_that_is_gone_since_is_given_back_all_the_same(tmp_path: Path) -> None:
    async with SharedState(tmp_path / "state") as one, SharedState(tmp_path / "state") as two:
        bounds = [Limits(streams=1)]
        workers = [limiter_of(tmp_path, state, lambda: bounds[-1]) for state in (one, two)]
        asking = Asking(Caller(name="acme"), MODEL, 10)
        ticket = await workers[0].admit(asking)
        with pytest.raises(NoPlace):
            await workers[1].admit(asking)
        bounds.append(Limits())
        ticket.settle()
        await one.reap()  # what was noted is written by then
        bounds.append(Limits(streams=1))
        (await workers[1].admit(asking)).settle()


async def test_where_workers_cannot_share_each_goes_by_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    async with SharedState(tmp_path / "state") as state:
        limiter = limiter_of(tmp_path, state)
        asking = Asking(Caller(name="acme", streams=1), MODEL, 10)
        ticket = await limiter.admit(asking)
        with pytest.raises(NoPlace):
            await limiter.admit(asking)
        ticket.settle()
