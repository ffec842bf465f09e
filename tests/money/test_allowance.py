"""Budgets: nothing passes them in any order of events, and what was held comes back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.money.allowance import Allowance, Hold, grant, nano, period, resets_at, youngest_to_cut

LIMIT = nano(0.10)


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


def test_days_and_months_are_those_of_utc() -> None:
    late = at(2026, 12, 31, 23, 59, 59)
    assert (period("day", late), period("month", late)) == ("2026-12-31", "2026-12")
    assert resets_at("day", late) == resets_at("month", late) == at(2027, 1, 1)
    assert resets_at("month", at(2026, 2, 3, 4)) == at(2026, 3, 1)
    assert resets_at("day", at(2026, 2, 28)) == at(2026, 3, 1)


def test_dollars_are_whole_nano_dollars() -> None:
    assert nano(25e-6) == 25_000
    assert nano(25.000000000000004) == 25_000_000_000


def test_a_hold_is_filled_from_what_every_budget_has_free() -> None:
    day, month = allowance(1000), allowance(600)
    hold = Hold([day, month])
    assert hold.fill(800) == 200
    assert (hold.amount, day.free, month.free) == (600, 400, 0)
    assert hold.fill(900) == 300
    assert hold.fill(100) == 0
    assert (day.free, month.free) == (900, 500)


def test_what_comes_is_charged_to_the_hold_first_and_what_is_above_it_to_what_is_free() -> None:
    day = allowance(1000)
    hold = Hold([day])
    hold.fill(300)
    hold.charge(200)
    assert (hold.amount, day.held, day.charged, day.free) == (100, 100, 200, 700)
    hold.charge(500)
    assert (hold.amount, day.held, day.charged, day.free) == (0, 0, 500, 500)
    hold.charge(1100)
    assert day.free == -100, "more came than was held for and free: it is told as it is"
    assert hold.fill(50) == 50


def test_a_stream_that_turns_out_cheaper_gives_back_what_it_was_charged() -> None:
    day = allowance(1000)
    hold = Hold([day])
    hold.fill(300)
    hold.charge(250)
    hold.settle(180)
    hold.settle(180)
    assert (hold.amount, day.held, day.charged, day.free) == (0, 0, 180, 820)


def test_what_is_booked_leaves_what_is_held_and_what_is_to_stay_free() -> None:
    day = allowance(1000)
    hold = Hold([day])
    hold.fill(300)
    hold.charge(200)
    assert day.book(keep_free=250) == 200
    assert (day.drawn, day.charged, day.held, day.free) == (350, 0, 100, 250)
    hold.charge(230)  # meanwhile, before the booking fails
    day.unbook(200)
    assert (day.drawn, day.charged, day.held, day.free) == (550, 230, 70, 250)


def test_a_new_day_is_whole_and_owes_what_is_held() -> None:
    day = allowance(1000)
    hold = Hold([day])
    hold.fill(300)
    hold.charge(200)
    day.dry = True
    day.begin("2026-11-27")
    assert (day.period, day.drawn, day.charged, day.used, day.free, day.dry) == ("2026-11-27", 0, 0, 0, -100, False)
    day.drawn += grant(LIMIT, 0, 0, 100, 0)
    assert hold.fill(100) == 0
    hold.settle(250)
    assert (day.charged, day.held) == (50, 0)


def test_what_is_left_is_never_below_nothing() -> None:
    day = allowance(1000)
    day.spent, day.charged = LIMIT, 5
    assert (day.used, day.left) == (LIMIT + 5, 0)


def test_a_process_is_given_what_it_needs_and_at_most_a_tenth_of_the_rest_in_advance() -> None:
    assert grant(1000, 100, 100, 300, 10_000) == 300 + 50
    assert grant(1000, 100, 100, 300, 20) == 320
    assert grant(1000, 500, 450, 300, 20) == 50
    assert grant(1000, 1100, 0, 300, 20) == 0
    assert grant(1000, 0, 0, -5, -5) == 0


def test_the_youngest_are_cut_first_and_as_few_as_make_up_for_what_is_missing() -> None:
    ages = [(1.0, 100), (3.0, 100), (2.0, 100)]
    assert youngest_to_cut(ages, 1) == 1
    assert youngest_to_cut(ages, 51) == 2
    assert youngest_to_cut(ages, 10_000) == 3
    assert youngest_to_cut([], 5) == 0


def allowance(drawn: int) -> Allowance:
    made = Allowance("acme", "day", "2026-11-26", LIMIT)
    made.drawn = drawn
    return made


class Budget:
    """A budget as it is kept for several processes, each with an allowance and some streams."""

    def __init__(self, processes: int) -> None:
        self.spent = 0
        self.allowances = [Allowance("acme", "day", "2026-11-26", LIMIT) for _ in range(processes)]
        self.held = [0] * processes
        self.streams: list[list[Hold]] = [[] for _ in range(processes)]
        self.costs: dict[int, int] = {}

    def sync(self, process: int, least: int, ahead: int, keep_free: int) -> None:
        mine = self.allowances[process]
        self.spent += mine.book(keep_free)
        self.held[process] = max(0, mine.drawn)
        given = grant(LIMIT, self.spent, sum(self.held), least, ahead)
        self.held[process] += given
        mine.drawn += given

    def dies(self, process: int) -> None:
        self.spent += self.held[process]
        self.held[process] = 0
        self.allowances[process] = Allowance("acme", "day", "2026-11-26", LIMIT)
        self.streams[process] = []

    def check(self) -> None:
        assert self.spent + sum(self.held) <= LIMIT
        for mine, held in zip(self.allowances, self.held, strict=True):
            assert mine.free >= 0
            assert mine.drawn <= held, "what is on disk covers what would be lost"


Step = Callable[[Budget], None]


def steps() -> st.SearchStrategy[list[tuple[str, int, int, int]]]:
    words = st.sampled_from(["start", "comes", "fill", "ends", "sync", "dies"])
    return st.lists(st.tuples(words, st.integers(0, 1), st.integers(0, 20), st.integers(0, LIMIT // 8)), max_size=120)


@given(steps())
def test_in_any_order_nothing_passes_the_budget_and_what_was_held_comes_back(
    played: list[tuple[str, int, int, int]],
) -> None:
    """As long as no more comes of a stream than is held for it, whatever the streams and the processes do."""
    budget = Budget(2)
    cost: dict[Hold, int] = {}
    for what, process, which, amount in played:
        streams = budget.streams[process]
        hold = streams[which % len(streams)] if streams else None
        if what == "start":
            streams.append(new := Hold([budget.allowances[process]]))
            if new.fill(amount):
                budget.sync(process, amount, amount // 2, 0)
                new.fill(amount)
            cost[new] = 0
        elif what == "sync":
            budget.sync(process, amount, amount // 2, which)
        elif what == "dies" and which == 0:
            budget.dies(process)
        elif hold is not None and what == "comes":
            cost[hold] += min(amount, hold.amount)
            hold.charge(cost[hold])
        elif hold is not None and what == "fill":
            hold.fill(amount)
        elif hold is not None and what == "ends":
            hold.settle(cost[hold] * which // 20)  # its usage says that it was at most what was estimated
            streams.remove(hold)
        budget.check()
    for process, streams in enumerate(budget.streams):
        for hold in streams:
            hold.settle(cost[hold])
        assert budget.allowances[process].held == 0
        budget.sync(process, 0, 0, 0)
        budget.check()
        assert budget.held[process] == budget.allowances[process].drawn == 0


def test_a_month_is_not_passed_where_the_day_has_more() -> None:
    day, month = allowance(1000), allowance(100)
    hold = Hold([day, month])
    assert hold.fill(100) == 0
    hold.charge(100)
    assert hold.fill(1) == 1
    assert (day.charged, month.charged, month.free) == (100, 100, 0)


@pytest.mark.parametrize("keep_free", [0, 10**9])
def test_booking_an_overdrawn_allowance_keeps_what_it_owes(keep_free: int) -> None:
    day = allowance(100)
    Hold([day]).charge(150)
    assert day.book(keep_free) == 150
    assert (day.drawn, day.free) == (-50, -50)
