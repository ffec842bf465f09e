"""Whatever is sent to whatever path: an answer, one that `/openapi.json` tells of, no defect, and other streams go on."""

from __future__ import annotations

import asyncio
from itertools import islice

import aiohttp
import pytest
from yarl import URL

from app.web.runner import Running
from tests.support.documented import Document
from tests.support.fuzzed import Fuzzed, requests
from tests.support.readers import Reader, eventually

# So many are on their way at once.
_AT_ONCE = 20


async def tried(service: Running, client: aiohttp.ClientSession, document: Document, fuzzed: Fuzzed) -> tuple[int, str]:
    """The status, and what is wrong with the answer."""
    url = URL(service.url + fuzzed.path, encoded=True)
    async with client.request(fuzzed.method, url, data=fuzzed.body or None, headers=fuzzed.headers) as response:
        body = await response.read()
        wrong = document.wrong(fuzzed.method, fuzzed.template, response.status, response.content_type, body)
        # 404 and 405 of a path that such an id made another one's.
        elsewhere = response.status in (404, 405) and fuzzed.path.count("/") != fuzzed.template.count("/")
        return response.status, "" if elsewhere else wrong


async def fuzz(service: Running, client: aiohttp.ClientSession, count: int, seed: int) -> dict[int, int]:
    """Tries so many; the statuses, counted."""
    async with client.get(f"{service.url}/openapi.json") as response:
        document = Document(await response.json())
    operations = [key for key in document.operations if not key[1].endswith((".js", ".ts", ".css", ".svg"))]
    streaming = await Reader.connect(service.url)
    await streaming.ask("tokens=90000 rate=50")
    await streaming.head()
    statuses: dict[int, int] = {}
    source = requests(operations, seed)
    for _ in range(0, count, _AT_ONCE):
        batch = list(islice(source, _AT_ONCE))
        answers = await asyncio.gather(*(tried(service, client, document, fuzzed) for fuzzed in batch))
        for fuzzed, (status, wrong) in zip(batch, answers, strict=True):
            assert not wrong, f"{wrong}\n{fuzzed}"
            assert status < 500, fuzzed
            statuses[status] = statuses.get(status, 0) + 1
    streaming.body = b""
    await streaming.until(b"data: ")  # one that was not there yet
    assert len(service.streams.live) == 1
    streaming.leave()
    await eventually(lambda: not service.streams.live)
    return statuses


async def test_a_twentieth_of_them_is_answered_as_documented(service: Running, client: aiohttp.ClientSession) -> None:
    statuses = await fuzz(service, client, 5000, seed=1)
    assert {200, 204, 400, 404, 415} <= statuses.keys(), "or little was tried"


@pytest.mark.soak
async def test_a_hundred_thousand_are_answered_as_documented(service: Running, client: aiohttp.ClientSession) -> None:
    assert sum((await fuzz(service, client, 100_000, seed=2)).values()) == 100_000
