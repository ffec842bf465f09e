"""The marks, without a clock: what waits on the way to a reader before, at and after the point where Claude is held."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from dataclasses import dataclass

from app.settings import Settings
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.readers.sse_connection import SseConnection
from app.web.runner import Running
from tests.support.readers import Reader, Told, events_of, steady

SETTINGS = Settings.model_validate({})
QUEUE_BYTES = SETTINGS.streams.queue_bytes
SEND_BUFFER_BYTES = SETTINGS.readers.send_buffer_bytes


@dataclass(frozen=True)
class Waiting:
    """Bytes that wait, by where; `paused` where the queue has no room for the next.

    Attributes:
        kernel: not acknowledged by the reader's side.
    """

    queue: int
    transport: int
    kernel: int
    paused: bool


def waiting(service: Running) -> Waiting:
    """A look at the one running stream."""
    (session,) = service.streams.live.values()
    connection = session.delivery.connection
    assert isinstance(connection, SseConnection)
    transport = connection._request.transport
    assert transport is not None
    unsent = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return Waiting(
        session.channel.statistics().size_bytes,
        transport.get_write_buffer_size(),
        int.from_bytes(unsent, sys.byteorder),
        session.channel.paused,
    )


async def test_each_buffer_is_full_before_the_one_above_it_and_holds_no_more_than_its_bound(
    service: Running, simulator: Simulator
) -> None:
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.ask("tokens=20000 text=numbered")
    await reader.head()
    seen: list[Waiting] = []
    while not simulator.books[0].is_blocked.is_set():  # every turn of the loop, to the mark
        seen.append(waiting(service))
        await asyncio.sleep(0)
    for look in seen:
        assert look.queue <= QUEUE_BYTES
        assert look.transport <= 2 * QUEUE_BYTES, "one batch, in its frame"
        assert look.kernel <= 2 * SEND_BUFFER_BYTES

    await steady(lambda: simulator.books[0].tokens)
    at_the_mark = waiting(service)
    print("at the mark:", at_the_mark)
    assert at_the_mark.paused
    assert at_the_mark.transport > 0, "the kernel had taken all it would"
    assert at_the_mark.queue > QUEUE_BYTES / 2
    assert simulator.books[0].is_blocked.is_set()

    body = await reader.rest()
    reader.leave()
    assert Told.of(events_of(body)).text == numbered_text(20_000)


async def test_before_the_mark_nothing_waits_above_the_kernel(service: Running, simulator: Simulator) -> None:
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=40 rate=200 text=numbered")
    await reader.head()
    while not reader.ended:
        await reader.some(65_536)
        if service.streams.live:
            look = waiting(service)
            assert (look.transport, look.paused) == (0, False)
    reader.leave()
    assert simulator.books[0].paused_s == 0
