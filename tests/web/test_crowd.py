"""All places taken: who has been idle for longest gives way, whoever is answered stays, and no client has too many."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from app.access.proxies import Proxies
from app.errors import Overloaded, TooManyConnections
from app.web.crowd import Crowd


@dataclass(eq=False)
class FakeMember:
    """A connection that only remembers what it was told."""

    address: str = "192.0.2.1"
    gone: bool = field(default=False)

    ends: bool = field(default=False)

    def give_way(self) -> None:
        self.gone = True

    def end_soon(self) -> None:
        self.ends = True


class Clock:
    """Goes on when it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def members(crowd: Crowd, count: int) -> list[FakeMember]:
    found = [FakeMember() for _ in range(count)]
    assert [crowd.enter(member) for member in found] == [None] * count
    return found


def test_a_new_one_takes_the_place_of_who_has_been_idle_for_longest() -> None:
    clock = Clock()
    crowd = Crowd(3, clock=clock)
    first, second, third = members(crowd, 3)
    crowd.is_busy(first)
    crowd.is_busy(second)
    clock.now = 2.0
    crowd.is_idle(first)  # it was answered, after the third had begun to wait
    members(crowd, 1)
    assert [member.gone for member in (first, second, third)] == [False, False, True]
    members(crowd, 1)
    assert [member.gone for member in (first, second, third)] == [True, False, True]
    assert len(crowd) == 3


def test_a_new_one_keeps_its_place_for_a_second_since_its_request_may_lie_unread() -> None:
    clock = Clock()
    crowd = Crowd(2, clock=clock)
    first, second = members(crowd, 2)
    clock.now = 0.9
    assert isinstance(crowd.enter(FakeMember()), Overloaded)
    crowd.is_busy(second)
    crowd.is_idle(second)  # it was answered, and may ask again whenever it wants
    assert crowd.enter(FakeMember()) is None
    assert (first.gone, second.gone) == (False, True)
    clock.now = 1.0
    assert crowd.enter(FakeMember()) is None
    assert first.gone


def test_where_all_are_busy_a_new_one_is_refused_until_one_is_done() -> None:
    clock = Clock()
    crowd = Crowd(2, clock=clock)
    busy = members(crowd, 2)
    for member in busy:
        crowd.is_busy(member)
    assert isinstance(crowd.enter(FakeMember()), Overloaded)
    crowd.leave(busy[0])
    crowd.leave(busy[0])
    crowd.is_idle(busy[0])  # its answer was cut, so it ends after it has left
    members(crowd, 1)
    clock.now = 1.0
    assert isinstance(crowd.enter(FakeMember()), type(None)), "the one that is idle gives way"
    assert len(crowd) == 2


def test_ten_thousand_that_come_and_go_leave_nothing_behind() -> None:
    crowd = Crowd(100, 10)
    for number in range(10_000):
        member = FakeMember(f"192.0.{number % 50}.1")
        crowd.enter(member)
        crowd.is_busy(member)
        crowd.is_idle(member)
        crowd.leave(member)
    assert (len(crowd), crowd._of_clients, crowd._new, crowd._idle) == (0, {}, {}, {})


def test_one_client_has_no_more_than_its_share() -> None:
    crowd = Crowd(10, 2)
    first, _ = members(crowd, 2)
    assert isinstance(crowd.enter(FakeMember()), TooManyConnections)
    assert crowd.enter(FakeMember("192.0.2.2")) is None
    crowd.leave(first)
    assert crowd.enter(FakeMember()) is None


@pytest.mark.parametrize("address", ["", "10.0.0.1"])
def test_a_proxys_connections_are_not_one_clients(address: str) -> None:
    crowd = Crowd(10, 2, Proxies(("10.0.0.0/8", "unix")))
    assert [crowd.enter(FakeMember(address)) for _ in range(9)] == [None] * 9


def test_all_are_told_to_end_soon_busy_or_not() -> None:
    crowd = Crowd(3)
    told = members(crowd, 3)
    crowd.is_busy(told[0])
    crowd.leave(told[2])
    crowd.end_soon()
    assert [member.ends for member in told] == [True, True, False]


def test_they_rest_while_none_waits_for_an_answer() -> None:
    crowd = Crowd(3)
    assert crowd.rests.is_set()
    first, second = members(crowd, 2)
    assert crowd.rests.is_set(), "nothing was asked"
    crowd.is_busy(first)
    crowd.is_busy(second)
    crowd.is_idle(first)
    assert not crowd.rests.is_set()
    crowd.leave(second)
    assert crowd.rests.is_set()
