"""A stream's page in the books: whatever the booking does, the place, the gauges and the replay are given back."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.answer.outcome import Outcome
from app.answer.transcript import Transcript
from app.money.entry import Entry
from app.money.ledger import Account, Ledger
from app.money.prices import SHIPPED, load_prices
from app.streams.books import Books, Recount
from app.streams.terms import Policy, Terms
from app.telemetry.prometheus import Metrics
from tests.support.books import STOP, end, start
from tests.support.books import settled as settled_entry
from tests.support.clock import jumping, settled
from tests.support.connections import FakeConnection, Page, streams_under_test
from tests.support.fakes import Step, event, text
from tests.support.tickets import unbounded

SHORT: list[Step] = [[event("message_start")], [text("all of it")], [event("message_stop")]]


@pytest.mark.parametrize("policy", list(Policy))
@jumping
async def test_a_booking_that_fails_keeps_nothing_back(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any exception in the ledger or the metrics would: a defect of ours that is to cost one entry, and no more."""
    async with streams_under_test() as opened:

        def fails(account: Account, outcome: Outcome, now: float) -> Entry:
            account.settled = True
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(Account, "settle", fails)
            for place in range(5):
                opened.start(SHORT, connection := FakeConnection(), policy=policy, stream_id=f"st_{place}")
                await connection.over.wait()
                await settled()
        assert not opened.streams.live
        assert opened.registry.get_sample_value("sluiceway_streams_active") == 0
        if policy is not Policy.ABORT:
            await opened.resume("st_3", "c", again := FakeConnection())
            page = Page()
            page.take(again.received)
            assert page.text == "all of it"
        await opened.streams.drain()  # returns: nothing is left that it would wait for
        opened.accounts.clear()


@jumping
async def test_a_whole_answer_whose_booking_fails_is_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async with streams_under_test() as opened:

        def fails(account: Account, outcome: Outcome, now: float) -> Entry:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(Account, "settle", fails)
            async with opened.streams.whole(Terms("", "c", "claude-opus-4-8"), 10**400, unbounded()):
                pass
        await opened.streams.drain()


@pytest.mark.parametrize("fails", [False, True])
@jumping
async def test_an_aborted_answer_is_booked_once_whatever_its_recount_does(fails: bool) -> None:
    async def recount(entry: Entry, transcript: Transcript) -> Entry:
        if fails:
            raise ConnectionResetError("count_tokens is away")
        return entry.reconciled(77)

    recounts: list[Coroutine[Any, Any, Entry]] = []

    def counting(entry: Entry, transcript: Transcript) -> Coroutine[Any, Any, Entry]:
        recounts.append(recount(entry, transcript))
        return recounts[-1]

    registry = CollectorRegistry()
    given: Recount = counting
    async with Books(Ledger(load_prices()), Metrics(registry, ["claude-opus-4-8"]), recount=given) as books:
        page = books.open("claude-opus-4-8", 1000, unbounded())
        page.see(event("message_start"))
        page.see(text("x" * 400))
        entry = page.settle(Outcome.STOPPED)
        assert entry is not None
    assert len(recounts) == 1
    booked = registry.get_sample_value(
        "sluiceway_output_tokens_total", {"model": "claude-opus-4-8", "basis": "estimated"}
    )
    assert booked == (entry.generated if fails else 77)


async def test_what_has_no_price_is_said_once_and_one_answer_cannot_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger, metrics = Ledger(load_prices(SHIPPED)), Metrics(CollectorRegistry(), ["claude-opus-4-8"])
    advisors = [
        {"type": "advisor_message", "model": f"m{n}", "input_tokens": 5, "output_tokens": 5} for n in range(300)
    ]
    async with Books(ledger, metrics) as books:
        books.book(settled_entry(ledger, Outcome.COMPLETED, start(), end(9, iterations=advisors[:2] * 9), STOP))
        assert [message.count("'m0'") for message in caplog.messages] == [1, 0]
        for _ in range(2):
            books.book(settled_entry(ledger, Outcome.COMPLETED, start(), end(9, iterations=advisors), STOP))
        assert len(caplog.messages) == 2 + 2 * 4
        assert caplog.messages[-1] == f"{300 - 2 - 2 * 3} more such things in one answer are not told"
        for _ in range(100):
            books.book(settled_entry(ledger, Outcome.COMPLETED, start(), end(9, iterations=advisors), STOP))
    assert len(caplog.messages) == 100 + -(-98 // 3)
    assert len(set(caplog.messages)) == len(caplog.messages)
