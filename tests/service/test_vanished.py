"""Readers that vanish: a network namespace whose link is cut, so that no FIN and no RST ever comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.tools.simulator.server import Simulator
from tests.conftest import Serve
from tests.service.test_stalled import outcomes
from tests.support.browser import chromium
from tests.support.far import Far, far_away
from tests.support.nginx import free_port, nginx, shipped
from tests.support.readers import AT_ONCE_S, Reader


@pytest.fixture
def far() -> Iterator[Far]:
    with far_away() as made:
        yield made


TOKENS = "tokens=60000 rate=50 text=numbered"
SILENT = "tokens=60 rate=50 text=numbered fault=silence after=50"


async def vanish(reader: Reader, far: Far, simulator: Simulator, directive: str, within_s: float) -> float:
    """Reads for a moment, cuts the link; seconds until the connection to Claude was closed."""
    await reader.ask(directive)
    await reader.head()
    await reader.until(b"token0050")
    cut_at = time.time()  # at the latest: the link is down before the command has ended
    far.cut()
    book = simulator.books[0]
    async with asyncio.timeout(within_s + 10):
        await book.ended.wait()
    assert book.gone_at is not None
    return book.gone_at - cut_at


def bound_of(settings: Settings) -> float:
    return settings.streams.heartbeat_s + settings.readers.vanish_timeout_s + 1


def test_by_default_the_bound_is_twenty_seconds() -> None:
    assert bound_of(Settings()) <= 20


@pytest.mark.parametrize(
    ("directive", "quick"),
    [
        pytest.param(TOKENS, True, id="tokens in flight"),
        pytest.param(SILENT, True, id="Claude silent"),
        pytest.param(SILENT, False, id="Claude silent, defaults", marks=pytest.mark.soak),
        pytest.param(TOKENS, False, id="tokens in flight, defaults", marks=pytest.mark.soak),
    ],
)
async def test_a_vanished_reader_is_found_within_its_bound(
    directive: str, quick: bool, far: Far, serve: Serve, simulator: Simulator
) -> None:
    given: dict[str, float] = {"heartbeat_s": 1.0, "vanish_timeout_s": 2.0} if quick else {}
    settings = Settings.model_validate(given)
    bound_s = bound_of(settings)
    service = await serve(host=far.host, auth="none", **given)
    reader = await far.reader(int(service.url.rpartition(":")[2]))
    found_s = await vanish(reader, far, simulator, directive, bound_s)
    print(f"vanished: upstream closed {found_s:.2f} s after the cut; bound {bound_s} s")
    assert found_s >= settings.readers.vanish_timeout_s
    assert found_s <= bound_s + AT_ONCE_S
    assert await outcomes(service) == {"vanished": 1}
    reader.leave()


@pytest.mark.nginx
async def test_behind_nginx_a_vanished_reader_is_found_once_the_buffers_between_are_full(
    far: Far, serve: Serve, simulator: Simulator, tmp_path: Path
) -> None:
    """nginx acknowledges for the reader: nothing is known until its socket and ours are full, and nothing moves."""
    port, unix = free_port(), f"unix:{tmp_path}/s"
    service = await serve(unix=unix.removeprefix("unix:"), stall_timeout_s=3.0)
    config = shipped(tmp_path, unix, port).replace("listen 127.0.0.1:", "listen 0.0.0.0:")
    async with nginx(tmp_path, config, port):
        reader = await far.reader(port)
        found_s = await vanish(reader, far, simulator, "tokens=60000 rate=4000 text=numbered", 20)
        print(f"vanished behind nginx, 4,000 tokens/s, stall 3 s: closed {found_s:.2f} s after the cut")
        assert 3 <= found_s <= 15
        assert await outcomes(service) == {"stalled": 1}
        reader.leave()


@pytest.mark.nginx
async def test_behind_nginx_a_page_with_credits_is_found_by_its_silence(
    far: Far, serve: Serve, simulator: Simulator, tmp_path: Path
) -> None:
    """However much nginx still takes for it: at this rate its buffers would last for minutes."""
    port, unix = free_port(), f"unix:{tmp_path}/s"
    service = await serve(unix=unix.removeprefix("unix:"), vanish_timeout_s=1.0)
    config = shipped(tmp_path, unix, port).replace("listen 127.0.0.1:", "listen 0.0.0.0:")
    async with nginx(tmp_path, config, port):
        reader = await far.reader(port)
        await reader.ask("tokens=60000 rate=50 text=numbered", credits=True)
        await reader.head()
        await reader.until(b"token0010")
        speaking = await far.reader(port)
        word = {"id": 0, "again_s": 0.5, "stop_token": reader.headers["x-stop-token"]}
        path = f"/api/stream/{reader.headers['x-stream-id']}/shown"
        await speaking.send(speaking.request(json.dumps(word).encode(), path=path))
        assert await speaking.head() == 204
        speaking.leave()
        far.cut()
        async with asyncio.timeout(20):
            await simulator.books[0].ended.wait()
        assert await outcomes(service) == {"vanished": 1}
        reader.leave()


@pytest.mark.soak
@pytest.mark.nginx
@pytest.mark.timeout(300)
async def test_what_nginx_adds_with_defaults(far: Far, serve: Serve, simulator: Simulator, tmp_path: Path) -> None:
    port, unix = free_port(), f"unix:{tmp_path}/s"
    service = await serve(unix=unix.removeprefix("unix:"))
    config = shipped(tmp_path, unix, port).replace("listen 127.0.0.1:", "listen 0.0.0.0:")
    async with nginx(tmp_path, config, port):
        reader = await far.reader(port)
        found_s = await vanish(reader, far, simulator, TOKENS, 200)
        print(
            f"vanished behind nginx, 50 tokens/s, defaults: closed {found_s:.2f} s after the cut; {await outcomes(service)}"
        )
        assert found_s <= 150
        reader.leave()


@pytest.mark.soak
@pytest.mark.nginx
@pytest.mark.timeout(120)
@pytest.mark.parametrize("directive", [TOKENS, SILENT], ids=["tokens in flight", "Claude silent"])
async def test_a_page_in_a_browser_that_vanishes_behind_nginx_stops_generation_within_20_s(
    directive: str, far: Far, serve: Serve, simulator: Simulator, tmp_path: Path
) -> None:
    port, unix = free_port(), f"unix:{tmp_path}/s"
    service = await serve(unix=unix.removeprefix("unix:"))
    config = shipped(tmp_path, unix, port).replace("listen 127.0.0.1:", "listen 0.0.0.0:")
    over_there = tmp_path / "chromium"
    over_there.write_text(f'#!/bin/sh\nexec ip netns exec {far.name} chromium "$@"\n', "utf-8")
    over_there.chmod(0o700)
    async with nginx(tmp_path, config, port), chromium(executable=over_there) as browser:
        page = await browser.new_page()
        await page.goto(f"http://{far.host}:{port}/client.d.ts")
        await page.evaluate(
            """async (prompt) => {
              const { stream } = await import("/client.js");
              let text = "";
              await new Promise((resolve) => stream(prompt, {
                credits: true,
                onText: (more) => (text += more).includes("token0050") && resolve(),
              }));
            }""",
            f"Go. {{{{{directive}}}}}",
        )
        cut_at = time.time()
        far.cut()
        book = simulator.books[0]
        async with asyncio.timeout(60):
            await book.ended.wait()
        assert book.gone_at is not None
        print(f"a page that vanished behind nginx, with credits: closed {book.gone_at - cut_at:.2f} s after the cut")
        assert book.gone_at - cut_at <= 20
        assert await outcomes(service) == {"vanished": 1}
