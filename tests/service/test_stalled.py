"""Slow is not stalled: a reader that takes a little lives, beside one that takes nothing and is found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from app.settings import Settings
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.conftest import Serve
from tests.support.nginx import free_port, nginx, shipped
from tests.support.readers import AT_ONCE_S, Reader, Told, events_of, eventually, sockets, steady


async def outcomes(service: Running) -> dict[str, float]:
    """Ended streams by outcome, as the admin port tells."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith("sluiceway_streams_total{") and not line.endswith(" 0.0"):
            found[line.partition('outcome="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
    return found


async def side_by_side(url: str, service: Running, simulator: Simulator, stall_s: float, lives_s: float) -> None:
    """One reader of 1 kB/s for `lives_s` seconds, which then hurries; one that reads 4 kB and stops."""
    tokens = round(lives_s * 100 + 8000)
    slow, stalled = [await Reader.connect(url, rcvbuf_bytes=4096) for _ in range(2)]
    await slow.ask(f"tokens={tokens} text=numbered")
    book = await simulator.book(0)
    await stalled.ask(f"tokens={tokens} text=numbered")
    other = await simulator.book(1)
    await slow.head()
    await stalled.head()
    while stalled.body_bytes < 4000:
        await stalled.some(500)
    stopped_at = time.time()

    with_head_bytes = slow.body_bytes
    await slow.at(1000, lives_s)
    assert slow.body_bytes - with_head_bytes <= 1000 * lives_s
    assert book.live, "a reader that takes a little is left alone"
    async with asyncio.timeout(stall_s + 10):
        await other.ended.wait()
    assert other.gone_at is not None
    found_s = other.gone_at - stopped_at
    print(
        f"stalled: found {found_s:.2f} s after its last read, with a deadline of {stall_s} s; {await outcomes(service)}"
    )
    assert stall_s <= found_s <= stall_s + 2 + AT_ONCE_S
    assert await outcomes(service) == {"stalled": 1}

    told = Told.of(events_of(await slow.rest()))
    assert told.text == numbered_text(tokens)
    slow.leave()
    stalled.leave()


@asynccontextmanager
async def serving(simulator: Simulator, **given: object) -> AsyncIterator[Running]:
    """A service of its own, since each of those below counts its streams."""
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0, "auth": "none"} | given)
    async with running(settings, Credentials("k", simulator.url, True)) as service:
        yield service


async def straight(stall_s: float, lives_s: float) -> None:
    async with Simulator() as simulator, serving(simulator, stall_timeout_s=stall_s) as service:
        await side_by_side(service.url, service, simulator, stall_s, lives_s)


async def through_nginx(folder: Path, stall_s: float, lives_s: float) -> None:
    port, unix = free_port(), str(folder / "s")
    async with (
        Simulator() as simulator,
        serving(simulator, stall_timeout_s=stall_s, unix=unix) as service,
        nginx(folder, shipped(folder, f"unix:{unix}", port), port) as url,
    ):
        await side_by_side(url, service, simulator, stall_s, lives_s)


# A receiver tells of room only once half a buffer or more is free, a sender asks only at growing intervals, and nginx
# asks for more only once a third of its own is free: at 1 kB/s steps of 5 s were seen, and through nginx of 11 s. A
# deadline below would take steps for a stall. Both at once, for all they do is wait.
@pytest.mark.nginx
@pytest.mark.parametrize(
    ("tcp", "behind"),
    [
        ((9.0, 13.0), (13.0, 16.0)),
        pytest.param((20.0, 120.0), (20.0, 120.0), marks=[pytest.mark.soak, pytest.mark.timeout(300)]),
    ],
)
async def test_a_reader_of_1_kb_a_second_lives_while_a_stalled_one_is_found(
    tcp: tuple[float, float], behind: tuple[float, float], tmp_path: Path
) -> None:
    async with asyncio.TaskGroup() as both:
        both.create_task(straight(*tcp))
        both.create_task(through_nginx(tmp_path, *behind))


async def test_a_stalled_reader_of_a_finished_stream_is_found_too(serve: Serve) -> None:
    service = await serve(stall_timeout_s=1.0)
    first = await Reader.connect(service.url)
    await first.ask("tokens=30000 text=numbered", resumable=True)
    await first.head()
    await first.rest()
    first.leave()
    idle = await steady(sockets)
    again = await Reader.connect(service.url, rcvbuf_bytes=4096)
    path = f"/api/stream/{first.headers['x-stream-id']}"
    await again.send(again.request(b"", method="GET", path=path))
    await again.head()
    await eventually(lambda: sockets() == idle + 1)  # our end alone: the service has given its own up
    await again.rest()
    assert not again.ended
    again.leave()
