"""The counters against the simulated Claude's own books, over a thousand streams that are left at random moments."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from aiohttp import ClientSession, TCPConnector
from prometheus_client.parser import text_string_to_metric_families

from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve

AT_ONCE = 40
# What may lie unread in the sockets of a stream that is cut by the clock: the simulator has written it, nobody will count
# it. It comes slowly, or a busy machine leaves more there.
UNREAD_TOKENS_EACH = 2.0


async def _counters(service: Running, client: ClientSession) -> Counter[str]:
    """Every counter of the service, its labels but `basis` summed up."""
    async with client.get(f"{service.admin_url}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    sums: Counter[str] = Counter()
    for family in families:
        for sample in family.samples:
            basis = sample.labels.get("basis", "")
            sums[sample.name + (f":{basis}" if basis else "")] += sample.value  # type: ignore[assignment]
    return sums


async def _ask(
    client: ClientSession, url: str, prompt: str, patience_s: float | None = None, *, sees_the_head: bool = False
) -> None:
    """Reads to the end, or leaves after `patience_s` seconds, counted from the question or from the answer's head."""
    asked = client.post(f"{url}/api/stream", json={"prompt": prompt})
    try:
        async with asyncio.timeout(None if sees_the_head else patience_s) as patience, asked as answer:
            if sees_the_head and patience_s is not None:
                patience.reschedule(asyncio.get_running_loop().time() + patience_s)
            await answer.read()
    except TimeoutError:
        pass


async def _leave(client: ClientSession, url: str, prompt: str, after_tokens: int) -> None:
    """Leaves once so many tokens were read."""
    async with client.post(f"{url}/api/stream", json={"prompt": prompt}) as answer:
        read = b""
        while read.count(b"token0") < after_tokens:
            read += await answer.content.readany()
        answer.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("streams", [300, pytest.param(1000, marks=pytest.mark.soak)])
async def test_random_abandonments_add_up_to_the_simulators_books(
    serve: Serve, simulator: Simulator, streams: int
) -> None:
    luck = random.Random(20261122)
    service = await serve()
    async with ClientSession(connector=TCPConnector(limit=AT_ONCE)) as client:
        for _ in range(60):  # what a token of this text is worth is learned from whole answers
            await _ask(client, service.url, "{{tokens=50 text=numbered}}")
        before, known_before = await _counters(service, client), sum(book.tokens for book in simulator.books)
        assert before["sluiceway_output_tokens_total:exact"] == known_before == 60 * 50

        gate = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with gate:
                first_s = luck.choice(("", " ttft_s=0.05", " first_event_s=0.05"))
                # However slow the machine, some are cut in the answer's midst: Claude falls silent there, and they leave
                # once they have read what came, so that nothing is unread. Others leave by the clock, before the answer
                # begins or in it, and some not at all.
                if luck.random() < 0.4:
                    tokens = luck.randrange(1, 200)
                    prompt = f"{{{{tokens=100000 fault=silence after={tokens} text=numbered{first_s}}}}}"
                    return await _leave(client, service.url, prompt, tokens)
                prompt = f"{{{{tokens=20 rate=20 text=numbered{first_s} seed={luck.randrange(10**6)}}}}}"
                patience_s = luck.uniform(0.0, 0.35) if luck.random() < 0.9 else None
                await _ask(client, service.url, prompt, patience_s, sees_the_head=luck.random() < 0.8)

        await asyncio.gather(*(one() for _ in range(streams)))
        while service.streams.live or any(book.live for book in simulator.books):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
        after = await _counters(service, client)
    books = simulator.books[60:]
    settled = after["sluiceway_streams_total"] - before["sluiceway_streams_total"]
    # A reader that leaves before its request was read has no stream: none is settled, and none is in the books.
    assert len(books) <= settled <= streams
    finished = sum(book.tokens for book in books if book.finished)
    exact = after["sluiceway_output_tokens_total:exact"] - known_before
    estimated = after["sluiceway_output_tokens_total:estimated"]
    cut = [book for book in books if not book.finished]
    by_the_clock = [book for book in cut if book.fault == "none"]
    written = sum(book.tokens for book in books)
    print(f"{len(books)} streams, {len(cut)} cut; exact {exact}, estimated {estimated}, in the books {written}")
    assert len(cut) > streams / 4
    assert sum(book.tokens for book in cut) > sum(book.tokens for book in by_the_clock) + streams
    # An answer whose usage came is exact, also where the reader left before it was told.
    assert 0 < exact <= finished
    unread = UNREAD_TOKENS_EACH * len(by_the_clock)
    assert written - unread - 0.5 * len(cut) <= exact + estimated <= written + 0.5 * len(cut)
    assert after["sluiceway_wasted_tokens_total"] <= exact + estimated
