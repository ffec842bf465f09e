"""An aborted answer's text, counted anew by the simulated Claude's count_tokens."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession

from app.answer.events import Delta, Event
from app.answer.outcome import Outcome
from app.answer.transcript import MOST_CHARS, Transcript
from app.money.entry import ReconcileLimit
from app.money.ledger import Ledger
from app.settings.sections import UpstreamOptions
from app.upstream.claude import Claude
from app.upstream.recount import Reconciler
from tests.conftest import Serve
from tests.support.books import PRICES, settled, start, text
from tests.support.raw_upstream import raw_upstream, response

pytestmark = pytest.mark.real


def test_a_transcript_keeps_what_it_sees_in_order() -> None:
    transcript = Transcript()
    transcript.see(Delta(0, "text", "Hello"))
    transcript.see(Event("ping", b"{}", {}))
    transcript.see(Delta(0, "text", " world"))
    assert transcript.text == "Hello world"


def test_an_answer_that_is_too_long_or_empty_has_no_text() -> None:
    transcript = Transcript()
    assert transcript.text is None
    for _ in range(3):
        transcript.see(Delta(0, "text", "x" * (MOST_CHARS // 2)))
    assert transcript.text is None


async def _aborted_tokens(serve: Serve, client: ClientSession, per_minute: float) -> float:
    """The tokens booked for one answer that its reader left, as the metrics show them."""
    service = await serve(reconcile_per_minute=per_minute)
    body = {"prompt": "{{tokens=40 text=numbered fault=silence after=40}}"}
    async with client.post(f"{service.url}/api/stream", json=body) as response:
        received = b""
        while b"token0039" not in received:
            received += await response.content.readany()
    while True:
        async with client.get(f"{service.admin_url}/metrics") as metrics:
            text = await metrics.text()
        name = 'sluiceway_aborted_tokens_total{model="claude-opus-4-8",reason="disconnected"}'
        value = next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))
        if value:
            return value
        await asyncio.sleep(0)  # lets the service settle


async def test_an_aborted_answer_is_counted_anew_once_where_that_is_asked_for(
    serve: Serve, client: ClientSession
) -> None:
    # 400 characters; the simulator's count_tokens says a quarter of that, the ledger's prior something else.
    counted = await _aborted_tokens(serve, client, 60.0)
    estimated = await _aborted_tokens(serve, client, 0.0)
    assert abs(counted - 100) <= 5
    assert estimated != counted


@pytest.mark.parametrize("told", ["null", "-5", '"ten"', "[]", "9" * 400])
async def test_a_recount_that_counts_nothing_leaves_the_estimate(told: str) -> None:
    body = b'{"input_tokens": %b}' % told.encode()
    async with raw_upstream([response(body, content_type="application/json")]) as upstream:
        claude = Claude(UpstreamOptions(), 0.1, api_key="k", base_url=upstream.url)
        entry = settled(Ledger(PRICES), Outcome.STOPPED, start(), text(400))
        transcript = Transcript()
        transcript.see(text(400))
        assert await Reconciler(claude, ReconcileLimit(60.0)).reconcile(entry, transcript) is entry
        await claude.close()
