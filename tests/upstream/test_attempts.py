"""One answer over several attempts: each has the whole of its deadlines."""

from __future__ import annotations

import pytest

from app.settings.sections import UpstreamOptions
from app.upstream.claude import Claude
from tests.support import loopback
from tests.support.raw_upstream import END, RESET, START, Play, chunk, delta, raw_upstream, stream_head

pytestmark = pytest.mark.real


def test_the_clock_of_progress_begins_anew_with_each_attempt() -> None:
    async def scene() -> int:
        cut: Play = [stream_head(), 3.0, RESET]
        slow: Play = [stream_head(), 3.0, chunk(START + delta("Hello") + END), chunk(b"")]
        async with raw_upstream(cut, cut, slow) as upstream:
            options = UpstreamOptions(idle_timeout_s=5.0, progress_timeout_s=5.0, retries=2)
            claude = Claude(options, 0.02, "k", upstream.url, lambda: None)
            answer = claude.ask({"model": "m", "max_tokens": 9, "messages": []})
            try:
                await answer.open()
                assert await answer.read()
            finally:
                await answer.close()
                await claude.close()
            return len(upstream.requests)

    assert loopback.run(scene()) == 3
