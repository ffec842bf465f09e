"""A reader who takes the frames from Redis, as its stream's owner sees it."""

from __future__ import annotations

import asyncio

import pytest

from app.answer.sse import numbered
from app.fleet.far_readers import VANISH_S, FarReader
from app.streams.connection import Interrupted
from app.streams.liveness import Finding
from app.wire.plain import framed
from tests.support.clock import jumping, loop


def far(released: list[FarReader] | None = None) -> FarReader:
    return FarReader(4, loop().time(), (released if released is not None else []).append)


async def given(reader: FarReader, count: int) -> None:
    """Frames of a kilobyte, as `Frames.write_some` writes them."""
    data = b"".join(numbered(reader.sent_id + n, framed({"text": "x" * 1000})) for n in range(1, count + 1))
    await reader.write(data)
    reader.sent_id += count


@jumping
async def test_what_is_not_read_holds_the_writer_until_it_is_heard_that_it_was() -> None:
    reader = far()
    await given(reader, 10)
    await given(reader, 10)
    waiting = asyncio.create_task(given(reader, 1))
    await asyncio.sleep(1)
    assert not waiting.done()
    reader.heard(13, loop().time())  # not all of the first write
    await asyncio.sleep(1)
    assert not waiting.done()
    reader.heard(14, loop().time())
    await waiting
    assert reader.sent_id == 25


@jumping
async def test_a_reader_of_whom_nothing_is_heard_has_vanished() -> None:
    reader = far()
    await asyncio.sleep(VANISH_S)
    assert reader.look(loop().time()) is None
    await asyncio.sleep(0.1)
    assert reader.look(loop().time()) is Finding.VANISHED
    reader.heard(4, loop().time())
    assert reader.look(loop().time()) is None


@jumping
async def test_a_writer_that_waits_is_broken_off_when_another_reader_comes() -> None:
    released: list[FarReader] = []
    reader = far(released)
    await given(reader, 20)
    waiting = asyncio.create_task(given(reader, 1))
    await asyncio.sleep(0)
    reader.interrupt()
    with pytest.raises(Interrupted):
        await waiting
    await reader.write_last(b"for nobody")
    reader.release(None)
    assert released == [reader]
