"""When another connection stands in for one that may be dead; on a jumping clock, over connections that are figures."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from app.upstream.understudy import Understudy
from tests.support.clock import jumping, loop


class Line:
    """A connection whose peer was heard at `heard_at`, and never again; deaf from the beginning of its request on."""

    def __init__(self, heard_at: float) -> None:
        self.heard_at = heard_at
        self.aborted_at: float | None = None

    @property
    def unheard_s(self) -> float:
        return loop().time() - self.heard_at

    def abort(self) -> None:
        self.aborted_at = loop().time()


async def stood_in_at(first: Any, failures: int = 0) -> float:
    """After how many seconds the other one stood in, where connecting fails so often before."""
    began, tries = loop().time(), 0
    other: Any = Line(0.0)

    async def connect() -> Any:
        nonlocal tries
        tries += 1
        if tries <= failures:
            raise httpx2.ConnectTimeout("the network is away")
        return other

    understudy = Understudy(first, connect, 1.0)
    while first.aborted_at is None:
        assert understudy.taken_over() is None
        assert loop().time() < began + 60, "it never does"
        await asyncio.sleep(0.05)
    assert understudy.taken_over() is other
    assert await understudy.close() is None
    assert loop().timers() == 0
    return float(first.aborted_at) - began


@jumping
async def test_it_stands_in_once_nothing_was_heard_for_so_long() -> None:
    assert await stood_in_at(Line(loop().time() - 30)) == pytest.approx(1.0)


@jumping
async def test_a_word_just_before_the_request_delays_it_and_does_not_send_it_home() -> None:
    assert 1.0 <= await stood_in_at(Line(loop().time() + 0.004)) < 1.2
    assert 1.5 <= await stood_in_at(Line(loop().time() + 0.5)) < 1.7


@jumping
async def test_where_no_other_can_be_had_it_tries_again() -> None:
    assert 1.2 < await stood_in_at(Line(loop().time() - 30), failures=3) < 1.5


@jumping
async def test_one_that_is_heard_is_never_replaced() -> None:
    class Heard(Line):
        unheard_s = 0.0

    first = Heard(0.0)

    async def connect() -> Any:
        raise AssertionError("nobody asked for it")

    understudy = Understudy(first, connect, 1.0)  # type: ignore[arg-type]
    for _ in range(200):
        await asyncio.sleep(0.05)
    assert await understudy.close() is None
    assert first.aborted_at is None


@jumping
async def test_a_request_that_ends_waits_for_the_end_of_what_was_begun_for_it() -> None:
    ended = False

    async def connect() -> Any:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            ended = True

    first: Any = Line(loop().time() - 30)
    understudy = Understudy(first, connect, 1.0)
    await asyncio.sleep(2)
    assert await understudy.close() is None
    assert ended
    assert loop().timers() == 0
