"""What a process lets in by itself, of limits that it shares with others."""

from __future__ import annotations

import pytest

from app.access.limits import Late, Want
from app.fleet.apart import Apart, Policy
from app.streams.state import Balance, Draft, Taking

DAY = ("acme", "day", "2026-11-26")


def draft(book: int = 0, keep: int = 0, least: int = 0, ahead: int = 0) -> Draft:
    return Draft(*DAY, 1000, book, keep, least, ahead)


def drawn(alone: Apart, draft: Draft, own: int) -> Balance:
    balances = alone.draw([draft], [own])
    assert balances is not None
    return balances[0]


def apart(policy: Policy = "local", processes: int = 4) -> Apart:
    return Apart(policy, lambda: processes)


def test_of_a_budget_each_spends_its_share_of_what_was_left_and_what_it_had_drawn() -> None:
    alone = apart()
    alone.heard(draft(keep=50), 100, Balance(50, 300, 200))  # 400 of 1,000 are left, 100 of them for each
    balance = drawn(alone, draft(keep=100, least=70), 100)
    assert balance == Balance(70, 300, 200)
    balance = drawn(alone, draft(book=60, keep=110, least=1000), 160)
    assert balance == Balance(30, 360, 200)  # 100 beyond the 200 that it had: 60 spent, and 140 drawn
    balance = drawn(alone, draft(book=140, keep=0, least=1), 300)
    assert balance == Balance(0, 500, 200)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_all_together_pass_no_budget(count: int) -> None:
    spent = 0
    for _ in range(count):
        alone = apart(processes=count)
        alone.heard(draft(), 10, Balance(0, 10 * count, 0))
        balance = drawn(alone, draft(least=10_000), 10)
        spent += 10 + balance.granted
    assert 1000 - count < spent <= 1000


def test_of_a_budget_that_was_never_heard_of_nothing_is_spent_unless_all_is_open() -> None:
    assert apart("local").draw([draft(least=5)], [0]) == [Balance(0, 0, 0, known=False)]
    assert apart("open").draw([draft(least=5)], [0]) == [Balance(5, 0, 0)]
    assert apart("closed").draw([draft(least=5)], [0]) is None


@pytest.mark.parametrize(("policy", "most"), [("local", 2), ("open", 8)])
def test_places_are_shared_and_at_least_one(policy: Policy, most: int) -> None:
    alone = apart(policy)
    bounds: tuple[tuple[str, int | None, int | None], ...] = (("streams", 8, None), ("all streams", None, 8))
    for label, own, all_ in bounds:
        assert alone.take([], Taking("acme", most, most, own, all_), 0.0) is None
        assert alone.take([], Taking("acme", most + 1, most + 1, own, all_), 0.0) == label
    one = Taking("acme", 1, 1, 3, None, subject="acme\nuser", here_of_subject=1, most_of_subject=1)
    assert alone.take([], one, 0.0) is None
    two = Taking("acme", 1, 1, 3, None, subject="acme\nuser", here_of_subject=2, most_of_subject=1)
    assert alone.take([], two, 0.0) == "token streams"
    assert alone.take([], Taking("acme", 1, 1, 0, None), 0.0) == "streams"


@pytest.mark.parametrize(("policy", "most"), [("local", 15), ("open", 60)])
def test_rates_are_shared(policy: Policy, most: int) -> None:
    alone, want, place = apart(policy), Want(("requests", "acme"), 60), Taking("acme", 1, 1, None, None)
    for _ in range(most):
        assert alone.take([want], place, 100.0) is None
    late = alone.take([want], place, 100.0)
    assert isinstance(late, Late)
    assert late.want == want  # the caller is told of the limit that it knows
    assert alone.take([want], place, 100.0 + late.wait_s + 0.001) is None
