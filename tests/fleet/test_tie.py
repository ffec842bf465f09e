"""A child that ends with its parent: both ends in one process."""

from __future__ import annotations

import asyncio
import os

from app.fleet.tie import ParentsEnd, Tie


def tied() -> tuple[ParentsEnd, Tie]:
    parent = ParentsEnd()
    child = Tie(os.dup(parent.theirs.fileno()))  # as the child inherits it
    parent.theirs.close()
    return parent, child


async def test_the_child_is_told_to_begin_after_it_said_that_it_is_ready() -> None:
    parent, child = tied()
    beginning = asyncio.create_task(child.ready())
    assert await parent.is_ready()
    assert not beginning.done()
    await parent.begin()
    assert await beginning
    parent.close()
    child.close()


async def test_a_child_hears_that_its_parent_is_gone_before_it_could_begin() -> None:
    parent, child = tied()
    parent.close()
    assert not await child.ready()
    child.close()


async def test_a_child_hears_once_that_its_parent_is_gone() -> None:
    parent, child = tied()
    heard: list[str] = []
    gone = asyncio.Event()

    def hear() -> None:
        heard.append("gone")
        gone.set()

    child.when_cut(hear)
    await asyncio.sleep(0)  # the loop looks at the socket
    assert not heard
    parent.close()
    parent.close()  # changes nothing
    await gone.wait()
    for _ in range(3):  # the loop looks again
        await asyncio.sleep(0)
    assert heard == ["gone"]
    child.close()


async def test_a_parent_hears_that_a_child_ended_before_it_was_ready() -> None:
    parent, child = tied()
    child.close()
    assert not await parent.is_ready()
    await parent.begin()  # nobody hears it
    parent.close()
