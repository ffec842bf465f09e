"""A reader who takes the frames from Redis, as its stream's owner sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from app.answer.sse import numbered
from app.fleet.contact import Contact
from app.fleet.far_readers import SAY_S, VANISH_S, FarReader, FarReaders
from app.fleet.names import Keys, id_prefix
from app.streams.connection import Interrupted
from app.streams.liveness import Finding
from app.web.tasks import beside
from app.wire.plain import framed
from tests.support.clock import jumping, loop


def far(released: list[FarReader] | None = None) -> FarReader:
    return FarReader(4, loop().time(), (released if released is not None else []).append, lambda: None)


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


class Heard:
    """A Redis that notes what it is told."""

    def __init__(self) -> None:
        self.contact = Contact()
        self.told: list[tuple[str, dict[str, str]]] = []

    async def ask(self, *command: str | bytes | int, anyway: bool = False) -> Any:
        assert command[0] == "EVAL"
        words = [str(word) for word in command[5:]]
        self.told.append((str(command[3]), dict(zip(words[::2], words[1::2], strict=True))))


@dataclass
class Far:
    """A reader who has all up to that frame."""

    sent_id: int


@asynccontextmanager
async def speaking(heard: Heard) -> AsyncIterator[FarReaders]:
    far_readers = FarReaders(heard, Keys("t"), "myselfxx", dict, lambda _session: None)
    async with beside(far_readers.run()):
        yield far_readers


@jumping
async def test_owners_are_told_of_any_number_of_readers_in_a_few_commands() -> None:
    heard = Heard()
    ids = [id_prefix(0, "abcdefgh") + f"s{n}" for n in range(1200)]
    async with speaking(heard) as far_readers:
        with ExitStack() as here:
            for stream_id in ids:
                here.enter_context(far_readers.reading(stream_id, Far(3)))
                here.enter_context(far_readers.reading(stream_id, Far(4)))
            here.enter_context(far_readers.reading(id_prefix(0, "otherone") + "x", Far(9)))
            await asyncio.sleep(SAY_S)
    assert [len(words) for _, words in heard.told] == [500, 500, 200, 1]
    assert {word for key, words in heard.told[:3] for word in words.values()} == {"4:1"}
    assert sorted(about for _, words in heard.told[:3] for about in words) == sorted(ids)
    assert heard.told[3][0] == Keys("t").far("otherone")


@jumping
async def test_a_reader_is_spoken_of_each_second_in_other_words_for_as_long_as_it_is_there() -> None:
    heard, reader = Heard(), Far(3)
    stream_id = id_prefix(0, "abcdefgh") + "x"
    async with speaking(heard) as far_readers:
        with far_readers.reading(stream_id, reader):
            await asyncio.sleep(1.5 * SAY_S)
            reader.sent_id = 8
            await asyncio.sleep(2 * SAY_S)
        words = [word[stream_id] for _, word in heard.told]
        assert [word.partition(":")[0] for word in words] == ["3", "3", "8", "8"]
        assert len(set(words)) == 4, "one that is slow is not one that has vanished"
        await asyncio.sleep(5 * SAY_S)
        assert len(heard.told) == 4
        with far_readers.reading(stream_id, reader):
            await asyncio.sleep(0.5 * SAY_S)
    assert len(heard.told) == 5, "who comes is spoken of at once"
