"""Rates and places: what is let in, what is refused and until when, and that nothing taken is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.limits import MOST_NAMES, PERIOD_S, Buckets, Key, Place, Places, Want, correct, take

REQUESTS: Key = ("requests", "acme")
TOKENS: Key = ("output-tokens", "acme")
ALL: Key = ("requests", "")


def test_a_minute_worth_is_let_in_at_once_and_then_as_fast_as_it_refills() -> None:
    buckets = Buckets()
    want = Want(REQUESTS, 60)
    assert [take(buckets, [want], 0.0) for _ in range(60)] == [None] * 60
    late = take(buckets, [want], 0.0)
    assert late is not None
    assert [late.wait_s, late.remaining, late.full_s] == pytest.approx([1.0, 0, 60.0])
    assert take(buckets, [want], 0.999) is not None
    assert take(buckets, [want], 1.0) is None
    assert take(buckets, [want], 1.0) is not None


def test_what_one_bucket_refuses_takes_nothing_of_the_others() -> None:
    buckets = Buckets()
    for _ in range(2):
        assert take(buckets, [Want(ALL, 2)], 0.0) is None
    before = dict(buckets)
    late = take(buckets, [Want(REQUESTS, 60), Want(TOKENS, 1000, 300), Want(ALL, 2)], 0.0)
    assert late is not None
    assert late.want.key == ALL
    assert dict(buckets) == before


def test_the_bucket_that_takes_longest_is_named() -> None:
    buckets = Buckets()
    take(buckets, [Want(REQUESTS, 1), Want(TOKENS, 100, 100)], 0.0)
    late = take(buckets, [Want(TOKENS, 100, 10), Want(REQUESTS, 1)], 0.0)
    assert late is not None
    assert late.want.key == REQUESTS
    assert late.wait_s == pytest.approx(60.0)


def test_a_correction_may_leave_debt_that_is_paid_back_before_anything_is_let_in() -> None:
    buckets = Buckets()
    assert take(buckets, [Want(TOKENS, 600, 100)], 0.0) is None
    correct(buckets, Want(TOKENS, 600, 1100), 0.0)  # it came to 1,200, where the bucket holds 600
    late = take(buckets, [Want(TOKENS, 600, 1)], 0.0)
    assert late is not None
    assert [late.wait_s, late.remaining] == pytest.approx([60.1, 0])
    assert take(buckets, [Want(TOKENS, 600, 1)], 60.2) is None


def test_what_an_estimate_took_too_much_is_given_back_and_a_full_bucket_is_forgotten() -> None:
    buckets = Buckets()
    assert take(buckets, [Want(TOKENS, 600, 600)], 0.0) is None
    correct(buckets, Want(TOKENS, 600, -590), 0.0)
    assert take(buckets, [Want(TOKENS, 600, 590)], 0.0) is None
    correct(buckets, Want(TOKENS, 600, -10_000), 1.0)
    assert not buckets


def test_more_than_a_bucket_holds_is_let_in_when_it_is_full() -> None:
    """A question above the limit of a minute could never be asked, otherwise; it leaves debt."""
    buckets = Buckets()
    assert take(buckets, [Want(TOKENS, 100, 250)], 0.0) is None
    late = take(buckets, [Want(TOKENS, 100, 1)], 0.0)
    assert late is not None
    assert late.wait_s == pytest.approx(90.6)


@pytest.mark.parametrize("ahead_s", [0.5, 600.0, 3_459_526.0])
def test_a_clock_that_is_set_back_makes_nobody_wait_for_it(ahead_s: float) -> None:
    buckets = Buckets()
    wants = [Want(REQUESTS, 60), Want(TOKENS, 600, 100)]
    for _ in range(6):
        assert take(buckets, wants, 1000.0 + ahead_s) is None
    correct(buckets, Want(TOKENS, 600, 300), 1000.0 + ahead_s)  # 30 s of debt
    late = take(buckets, wants, 1000.0)
    assert late is not None
    assert [late.want.key, late.wait_s] == [TOKENS, pytest.approx(40.0)], "as if no time had passed"
    assert take(buckets, [Want(REQUESTS, 60)], 1000.0) is None
    late = take(buckets, wants, 1039.0)
    assert late is not None
    assert late.wait_s == pytest.approx(1.0), "a refusal has seen it, and time goes on from there"
    assert take(buckets, wants, 1040.1) is None


def test_a_clock_that_is_set_forward_finds_buckets_full() -> None:
    buckets = Buckets()
    for _ in range(2):
        assert take(buckets, [Want(REQUESTS, 2)], 0.0) is None
    assert [take(buckets, [Want(REQUESTS, 2)], 86_400.0) is None for _ in range(3)] == [True, True, False]


def test_invented_names_take_bounded_memory() -> None:
    buckets = Buckets()
    for number in range(MOST_NAMES + 500):
        take(buckets, [Want(("requests", f"sub{number}"), 1)], 0.0)
    assert len(buckets) == MOST_NAMES
    assert ("requests", "sub0") not in buckets


@given(
    per_minute=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 400)), max_size=60),
)
def test_no_window_of_any_length_lets_in_more_than_its_share(per_minute: int, steps: list[tuple[float, int]]) -> None:
    """What is let in within t seconds is at most one bucket and what t seconds bring, however the requests come."""
    buckets, now = Buckets(), 0.0
    let_in: list[tuple[float, float]] = []
    for passed_s, cost in steps:
        now += passed_s
        want = Want(TOKENS, per_minute, min(cost, per_minute))
        late = take(buckets, [want], now)
        if late is None:
            let_in.append((now, want.cost))
        else:
            assert take(Buckets(buckets), [want], now + late.wait_s + 1e-6) is None, "it says when to come again"
            assert take(Buckets(buckets), [want], now + late.wait_s * 0.99 - 1e-6) is not None, (
                "and no later than needed"
            )
    for first, (begin, _) in enumerate(let_in):
        taken = 0.0
        for at, of_one in let_in[first:]:
            taken += of_one
            assert taken <= per_minute * (1 + (at - begin) / PERIOD_S) + 1e-3


def test_the_last_place_is_given_once_and_the_refusal_says_whose_bound_it_is() -> None:
    places = Places()
    mine = [places.take("acme") for _ in range(2)]
    places.take("other")
    assert places.lacking("acme", 2, None) == "streams"
    assert places.lacking("acme", 3, 3) == "all streams"
    assert places.lacking("acme", 3, 4) is None
    assert places.lacking("acme", None, None) is None
    mine[0].release()
    mine[0].release()
    assert (places.of("acme"), places.taken) == (1, 2)
    assert places.lacking("acme", 2, None) is None


@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_places_never_pass_their_bounds_and_none_is_lost(steps: list[tuple[str, bool]]) -> None:
    places = Places()
    held: list[Place] = []
    for name, comes in steps:
        if comes and places.lacking(name, 3, 5) is None:
            held.append(places.take(name))
        elif not comes and held:
            held.pop(0).release()
        assert places.taken == len(held) <= 5
        assert all(places.of(one) == sum(place.name == one for place in held) <= 3 for one in "abc")
    for place in held:
        place.release()
    assert (places.taken, places._of) == (0, {})


def test_a_subject_has_a_bound_within_its_callers() -> None:
    places = Places()
    first, _ = places.take("acme", "acme\nann"), places.take("acme", "acme\nbob")
    places.take("acme")
    ann = ("acme\nann", 1)
    assert places.lacking("acme", 4, 4, ann) == "token streams"
    assert places.lacking("acme", 4, 4, ("acme\nann", 2)) is None
    assert places.lacking("acme", 3, None) == "streams", "each of them is the caller's too, once"
    assert places.taken == 3
    first.release()
    assert places.lacking("acme", 3, None, ann) is None
    assert places.of("acme\nann") == 0
