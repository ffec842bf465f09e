"""Ends add up to starts: whatever the readers are, whatever becomes of their streams, and whenever the test ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tools.load.connection import Target
from app.tools.load.figures import StreamEnd
from app.tools.load.findings import Findings
from app.tools.load.plan import Kind, Plan
from app.tools.load.protocols import PLAIN, Question
from app.tools.load.report import reader_columns, reader_rows
from app.tools.load.run import run
from tests.support import loopback

pytestmark = pytest.mark.real

HEAD = b"HTTP/1.1 200 OK\r\nX-Stream-Id: st0_x\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSAL = b'HTTP/1.1 %d X\r\nretry-after: 0\r\ncontent-length: 13\r\n\r\n{"error":"x"}'


def frame(number: int, data: bytes = b'{"text":"x"}') -> bytes:
    event = b"id: %d\ndata: %b\n\n" % (number, data)
    return b"%x\r\n%b\r\n" % (len(event), event)


class MoodyService:
    """Does to every request whatever comes to its mind."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        moods = ("hang up", "503", "401", "nonsense", "silence", "cut", "fail", "skip", "finish", "finish", "trickle")
        mood = self._random.choice(moods)
        start = frame(1) + frame(2)
        match mood:
            case "503" | "401":
                writer.write(REFUSAL % int(mood))
            case "nonsense":
                writer.write(b"SSH-2.0\r\n\r\n")
            case "cut":
                writer.write(HEAD + start)
            case "fail":
                writer.write(HEAD + start + frame(3, b'{"error":"x"}') + b"0\r\n\r\n")
            case "skip":
                writer.write(HEAD + start + frame(4) + frame(5, b'{"done":true}') + b"0\r\n\r\n")
            case "finish":
                writer.write(HEAD + start + frame(3, b'{"done":true}') + b"0\r\n\r\n")
            case "silence" | "trickle":
                writer.write(HEAD + (start if mood == "trickle" else b""))
                await reader.read()  # until the reader is gone
        await writer.drain()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Target]:
        server = await asyncio.start_server(self.serve, "127.0.0.1")
        try:
            yield Target.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finally:
            server.close()
            await server.wait_closed()


async def met(plan: Plan, seed: int, over_s: float | None) -> Findings:
    service = MoodyService(seed)
    over = asyncio.Event()
    if over_s is not None:
        asyncio.get_running_loop().call_later(over_s, over.set)
    async with service.listening() as target:
        return await run(plan, target, Question(PLAIN, target.host, "x", None, 9), where="x", timeout_s=0.15, over=over)


@settings(max_examples=25)
@given(
    mix=st.dictionaries(st.sampled_from(Kind), st.integers(1, 5), min_size=1),
    streams=st.integers(1, 30),
    duration_s=st.sampled_from([0.0, 0.05, 0.3]),
    over_s=st.none() | st.floats(0, 0.3),
    seed=st.integers(0, 1000),
)
def test_every_stream_that_is_started_comes_to_exactly_one_end(
    mix: dict[Kind, float], streams: int, duration_s: float, over_s: float | None, seed: int
) -> None:
    plan = Plan(
        streams, ramp_s=0.1, duration_s=duration_s, mix=mix, stall_s=0.05, vanish_s=0.05, turn_s=(0.0, 0.1), seed=seed
    )
    figures = loopback.run(met(plan, seed, over_s)).figures

    assert figures.live == 0
    assert figures.refusals.total() == figures.count(StreamEnd.REFUSED, StreamEnd.REJECTED)
    assert figures.started == figures.ends.total() == sum(second.asked for second in figures.seconds)
    for kind, one in figures.kinds.items():
        assert one.started == one.ends.total(), kind
        assert one.answered <= one.started
    columns = reader_columns(figures)
    for row in reader_rows(figures):
        assert int(row[1]) == sum(map(int, row[2 : columns.index("TTFT p50")]))
    if not duration_s and over_s is None:
        assert figures.started == streams
        assert not figures.count(StreamEnd.RUN_OVER)
