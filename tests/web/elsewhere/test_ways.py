"""Processes that serve readers through this one and are gone without a word: when that is noticed, and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import aiohttp
import pytest

from app.web.elsewhere.ways import LOOK_S, SILENT_S, Ways
from app.web.tasks import beside
from tests.support.clock import jumping, loop


class Comes:
    """What comes for a reader."""

    def __init__(self) -> None:
        self.failed_at: float | None = None

    def set_exception(self, exc: BaseException) -> None:
        assert isinstance(exc, aiohttp.ClientError)
        self.failed_at = self.failed_at or loop().time()


class Others:
    """Other processes, of which some are there; says how often it was asked."""

    def __init__(self) -> None:
        self.gone = False
        self.asked = 0

    async def are_there(self) -> bool:
        self.asked += 1
        return not self.gone


@asynccontextmanager
async def looking() -> AsyncIterator[Ways]:
    ways = Ways()
    async with beside(ways.run()):
        yield ways


@jumping
async def test_of_one_that_is_gone_without_a_word_all_its_readers_are_told_after_one_question() -> None:
    others, contents, elsewhere = Others(), [Comes() for _ in range(50)], Comes()
    async with looking() as ways:
        with ExitStack() as stack:
            for content in contents:
                stack.enter_context(ways.on("gone", others.are_there, content))
            stack.enter_context(ways.on("there", Others().are_there, elsewhere))
            others.gone = True
            began = loop().time()
            await asyncio.sleep(SILENT_S + LOOK_S)
    assert [content.failed_at for content in contents] == [pytest.approx(began + SILENT_S, abs=LOOK_S)] * 50
    assert others.asked == 1
    assert elsewhere.failed_at is None


@jumping
async def test_nobody_is_asked_for_while_bytes_come_and_who_is_there_is_asked_again_only_after_as_long() -> None:
    others, content = Others(), Comes()
    async with looking() as ways:
        with ways.on("there", others.are_there, content) as way:
            for _ in range(10):
                await asyncio.sleep(SILENT_S / 2)
                way.heard_at = loop().time()
            assert others.asked == 0
            await asyncio.sleep(5 * SILENT_S + LOOK_S)
        assert others.asked == 5
        await asyncio.sleep(5 * SILENT_S)
    assert (others.asked, content.failed_at) == (5, None), "who serves nobody is not asked"
