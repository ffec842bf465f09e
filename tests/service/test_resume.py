"""Grace, resume, takeover and stop over real sockets, and through a real nginx with the shipped configuration."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.connections import Page
from tests.support.nginx import free_port, nginx, shipped
from tests.support.readers import AT_ONCE_S, Reader, eventually, sockets, steady

KEYS = "key-of-one,key-of-two"
ONE = {"Content-Type": "application/json", "Authorization": "Bearer key-of-one"}
TWO = {"Content-Type": "application/json", "Authorization": "Bearer key-of-two"}


@pytest.fixture
async def proxied(serve: Serve, tmp_path: Path) -> AsyncIterator[str]:
    """The service on a unix socket behind nginx; nginx's URL."""
    port, unix = free_port(), f"unix:{tmp_path}/s"
    await serve(unix=unix.removeprefix("unix:"))
    async with nginx(tmp_path, shipped(tmp_path, unix, port), port) as url:
        yield url


async def ask(
    url: str, directive: str, headers: Mapping[str, str] = ONE, rcvbuf_bytes: int | None = None, **body: object
) -> Reader:
    """Asks, and reads the head."""
    reader = await Reader.connect(url, rcvbuf_bytes)
    raw = json.dumps({"prompt": f"{{{{{directive}}}}}", "resumable": True} | body).encode()
    await reader.send(reader.request(raw, headers=headers))
    await reader.head()
    return reader


async def call(
    url: str, method: str, path: str, headers: Mapping[str, str] = ONE, body: bytes = b"", last_id: object = None
) -> Reader:
    """Any other request, its head read."""
    reader = await Reader.connect(url)
    extra = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    await reader.send(reader.request(body, method=method, path=path, headers={**headers, **extra}))
    await reader.head()
    return reader


async def told(reader: Reader) -> tuple[int, dict[str, Any]]:
    body = await reader.rest()
    reader.leave()
    return reader.status, json.loads(body)


def path_of(reader: Reader) -> str:
    return f"/api/stream/{reader.headers['x-stream-id']}"


async def read_in_pieces(url: str, rng: random.Random, tokens: int) -> tuple[Page, int]:
    """One answer over as many connections as chance makes of it."""
    page, cuts = Page(), 0
    reader = await ask(url, f"tokens={tokens} text=numbered rate={rng.choice([0, 0, 2000])} tokens_per_delta=1-5")
    path = path_of(reader)
    while True:
        most = rng.randrange(1, 15 * tokens + 200) if cuts < 5 else 10**9
        while reader.body_bytes < most and await reader.some(rng.choice([16, 200, 5000, 65536])):
            pass
        page.take(reader.body[:most])
        reader.reset() if rng.random() < 0.5 else reader.leave()
        if page.last:
            return page, cuts
        cuts += 1
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() / 20)
        reader = await call(url, "GET", path, last_id=page.last_id)
        assert reader.status == 200


@pytest.mark.nginx
async def test_300_answers_cut_at_random_bytes_come_whole_through_nginx(proxied: str, simulator: Simulator) -> None:
    rng = random.Random(4)
    cuts = 0
    for _ in range(20):
        tokens = [rng.randrange(1, 400) for _ in range(15)]
        async with asyncio.TaskGroup() as tasks:
            reads = [tasks.create_task(read_in_pieces(proxied, random.Random(rng.random()), n)) for n in tokens]
        for read, n in zip(reads, tokens, strict=True):
            page, times = read.result()
            assert page.text == numbered_text(n)
            assert "done" in page.last
            cuts += times
    assert cuts > 300
    assert len(simulator.books) == 300, "nothing was asked twice"


@pytest.mark.parametrize("through", ["tcp", pytest.param("nginx", marks=pytest.mark.nginx)])
async def test_generation_is_held_while_no_one_reads_and_aborted_at_the_grace_periods_end(
    through: str, serve: Serve, simulator: Simulator, tmp_path: Path, record_property: Any
) -> None:
    port, unix = free_port(), f"unix:{tmp_path}/s"
    if through == "tcp":
        await held((await serve()).url, simulator, record_property)
        return
    await serve(unix=unix.removeprefix("unix:"))
    async with nginx(tmp_path, shipped(tmp_path, unix, port), port) as url:
        await held(url, simulator, record_property)


async def held(url: str, simulator: Simulator, record_property: Any) -> None:
    reader = await ask(url, "tokens=60000 text=numbered", rcvbuf_bytes=4096, grace_s=2)
    while reader.body_bytes < 20_000:
        await reader.some(2000)
    seen = reader.body.count(b" token")
    reader.leave()
    book = simulator.books[0]
    held_at = await steady(lambda: book.tokens)
    record_property("tokens ahead", held_at - seen)
    print("tokens ahead of the reader:", held_at - seen)
    assert held_at - seen <= 1500
    async with asyncio.timeout(20):
        await book.ended.wait()
    assert book.tokens == held_at
    assert book.gone_at is not None
    late_s = book.gone_at - reader.left_at - 2
    print("aborted after the grace period's end, in s:", round(late_s, 4))
    assert 0 <= late_s < AT_ONCE_S


@pytest.mark.parametrize("body", [{"grace_s": 0}, {"resumable": False}, {"policy": "abort"}])
async def test_without_grace_the_disconnect_aborts_at_once(
    body: dict[str, Any], service: Running, simulator: Simulator
) -> None:
    reader = await ask(service.url, "tokens=60000 rate=100", ONE, **body)
    await reader.until(b"\n\n")
    reader.leave()
    book = simulator.books[0]
    async with asyncio.timeout(20):
        await book.ended.wait()
    assert book.gone_at is not None
    print("aborted after the disconnect, in s:", round(book.gone_at - reader.left_at, 4))
    assert book.gone_at - reader.left_at < AT_ONCE_S


async def test_a_second_reader_gets_the_whole_answer_and_the_first_says_so(
    service: Running, simulator: Simulator
) -> None:
    first = await ask(service.url, "tokens=3000 text=numbered rate=100")
    await first.until(b"token0030")
    second = await call(service.url, "GET", path_of(first))
    assert second.status == 200
    simulator.books[0].hurried = True
    rest, whole = Page(last_id=0), Page()
    whole.take(await second.rest())
    body = await first.rest()
    first.leave()
    second.leave()
    assert first.ended, "the first one's response ended as it should"
    assert json.loads(body.rstrip().rpartition(b"data: ")[2])["type"] == "taken_over"
    assert rest.last == {}
    assert whole.text == numbered_text(3000)


async def test_a_reader_taken_over_while_it_was_stalled_is_not_kept_for_ever(serve: Serve) -> None:
    service = await serve(stall_timeout_s=1.0)
    idle = sockets()
    stalled = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await stalled.ask("tokens=20000 text=numbered", resumable=True)
    await stalled.head()
    (session,) = service.streams.live.values()
    await eventually(lambda: session.channel.paused)
    second = await call(service.url, "GET", path_of(stalled))
    page = Page()
    page.take(await second.rest())
    second.leave()
    assert page.text == numbered_text(20_000)
    # Our end, and both ends of the connection to Claude, which is kept: the service has given its own end up.
    await eventually(lambda: sockets() == idle + 3)
    await stalled.rest()
    assert not stalled.ended, "the service gave it up with what it had not read"
    stalled.leave()


async def test_a_finished_stream_is_readable_from_any_place_until_its_time_is_over(serve: Serve) -> None:
    service = await serve()
    reader = await ask(service.url, "tokens=2000 text=numbered")
    body = await reader.rest()
    reader.leave()
    frames = body.split(b"\n\n")[:-1]
    for last_id in (0, 1, len(frames) // 2, len(frames) - 1):
        again = await call(service.url, "GET", path_of(reader), last_id=last_id)
        assert again.status == 200
        assert await again.rest() == b"".join(frame + b"\n\n" for frame in frames[last_id:])
        assert again.ended
        again.leave()
    brief = await serve(replay_s=1)
    reader = await ask(brief.url, "tokens=20 text=numbered")
    await reader.rest()
    reader.leave()
    async with asyncio.timeout(20):
        while (again := await call(brief.url, "GET", path_of(reader))).status == 200:
            await again.rest()
            again.leave()
            await asyncio.sleep(0.05)  # what passes is the time that it is kept
    status, error = await told(again)
    assert (status, error["type"]) == (404, "not_found_error")


async def test_what_is_not_kept_any_more_is_told_by_its_type(serve: Serve) -> None:
    service = await serve(replay_bytes=4096)
    url = service.url
    reader = await ask(url, "tokens=4000 text=numbered")
    assert reader.headers["x-resumable"] == "true"
    path, body = path_of(reader), await reader.rest()
    reader.leave()
    last_id = body.count(b"\n\n")
    expected = [(1, 410, "expired"), (last_id + 1, 400, "invalid_request_error"), ("x", 400, "invalid_request_error")]
    for given, status, kind in expected:
        answered, error = await told(await call(url, "GET", path, last_id=given))
        assert (answered, error["type"], error["retryable"]) == (status, kind, False)
    newest = await call(url, "GET", path, last_id=last_id - 1)
    assert newest.status == 200
    newest.leave()
    assert (await told(await call(url, "GET", "/api/stream/st_unknown")))[0] == 404

    unkept = await ask(url, "tokens=60000 rate=100", resumable=False)
    assert unkept.headers["x-resumable"] == "false"
    status, error = await told(await call(url, "GET", path_of(unkept)))
    assert (status, error["type"]) == (410, "expired")
    unkept.leave()


async def test_past_the_global_budget_a_stream_is_told_that_it_is_not_resumable(serve: Serve) -> None:
    service = await serve(replay_total_bytes=60_000)
    held = await ask(service.url, "tokens=60000 text=numbered")
    assert held.headers["x-resumable"] == "true"
    await held.until(b"token8000")
    new = await ask(service.url, "tokens=400 text=numbered")
    assert new.headers["x-resumable"] == "false"
    page = Page()
    page.take(await new.rest())
    assert page.text == numbered_text(400), "and is whole all the same"
    for reader in (held, new):
        reader.leave()


async def test_a_stream_is_bound_to_its_caller(serve: Serve) -> None:
    url = (await serve(api_keys=KEYS)).url
    reader = await ask(url, "tokens=60000 rate=100")
    path = path_of(reader)
    for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/stop"), ("POST", f"{path}/shown")):
        body = b'{"id": 1}' if where.endswith("shown") else b""
        status, error = await told(await call(url, method, where, TWO, body))
        assert (status, error["type"]) == (404, "not_found_error")
        assert (await told(await call(url, method, where, {}, body)))[0] == 401
    resumed = await call(url, "GET", path)
    assert resumed.status == 200
    for each in (reader, resumed):
        each.leave()


@pytest.mark.parametrize("how", ["key", "DELETE", "token", "beacon"])
async def test_a_stop_ends_the_stream_at_once_and_is_its_last_event(
    how: str, serve: Serve, simulator: Simulator
) -> None:
    url = (await serve(api_keys=KEYS)).url
    reader = await ask(url, "tokens=60000 rate=100")
    await reader.until(b"\n\n")
    path, token = path_of(reader), reader.headers["x-stop-token"]
    began = time.time()
    match how:
        case "key":
            answered = await call(url, "POST", f"{path}/stop")
        case "DELETE":
            answered = await call(url, "DELETE", path)
        case "token":
            answered = await call(url, "POST", f"{path}/stop", {"X-Stop-Token": token})
        case _:
            beacon = json.dumps({"stop_token": token}).encode()
            answered = await call(url, "POST", f"{path}/stop", {"Content-Type": "text/plain;charset=UTF-8"}, beacon)
    assert await told(answered) == (200, {"stopped": True})
    last = json.loads((await reader.rest()).rstrip().rpartition(b"data: ")[2])
    reader.leave()
    assert (last["type"], last["retryable"]) == ("stopped", False)
    await simulator.books[0].ended.wait()
    gone_at = simulator.books[0].gone_at
    assert gone_at is not None
    print("stop to upstream closed, in s:", round(gone_at - began, 4))
    assert gone_at - began < AT_ONCE_S
    await asyncio.sleep(0)
    again = await call(url, "POST", f"{path}/stop")
    assert await told(again) == (200, {"stopped": False})


@pytest.mark.parametrize("keys", [KEYS, ""])
@pytest.mark.parametrize("token", ["", "wrong", "é"])
async def test_nobody_stops_a_stream_without_its_key_or_token(keys: str, token: str, serve: Serve) -> None:
    service = await serve(api_keys=keys)
    reader = await ask(service.url, "tokens=60000 rate=100")
    path = path_of(reader)
    for url in (path, f"{path}?stop_token={reader.headers['x-stop-token']}"):
        beacon = json.dumps({"stop_token": token}).encode()
        where = url.replace("?", "/stop?") if "?" in url else f"{url}/stop"
        status, _ = await told(await call(service.url, "POST", where, {}, beacon))
        assert status == 404
    status, _ = await told(await call(service.url, "POST", f"{path}/stop", {}))
    assert status == (401 if keys else 403)
    assert service.streams.live
    reader.leave()


async def test_a_draining_stream_runs_to_its_end_without_a_reader(service: Running, simulator: Simulator) -> None:
    reader = await ask(service.url, "tokens=3000 text=numbered", policy="drain")
    page = Page()
    await reader.some(500)
    page.take(reader.body)
    reader.leave()
    async with asyncio.timeout(20):
        await simulator.books[0].ended.wait()
    assert simulator.books[0].finished
    await eventually(lambda: not service.streams.live)
    late = await call(service.url, "GET", path_of(reader), last_id=page.last_id)
    page.take(await late.rest())
    late.leave()
    assert page.text == numbered_text(3000)
    assert page.last["stop_reason"] == "end_turn"


async def test_a_page_with_credits_holds_claude_by_what_it_has_shown(service: Running, simulator: Simulator) -> None:
    reader = await ask(service.url, "tokens=60000 text=numbered", credits=True)
    path = path_of(reader)
    arriving = asyncio.create_task(reader.rest())
    book = await simulator.book()
    held = await steady(lambda: book.tokens)
    assert held < (65_536 + 60_000) / 10
    shown = reader.body.count(b"\n\n")
    answered = await call(
        service.url,
        "POST",
        f"{path}/shown",
        ONE | {"X-Stop-Token": reader.headers["x-stop-token"]},
        b'{"id": %d}' % shown,
    )
    assert answered.status == 204
    await eventually(lambda: book.tokens > held + 3000)
    arriving.cancel()
    reader.leave()
    answered.leave()


@pytest.mark.parametrize("way", ["asks", "comes back"])
async def test_a_page_may_want_less_out_than_the_service_allows(
    service: Running, simulator: Simulator, way: str
) -> None:
    asked = 4096 if way == "asks" else 65_536
    reader = await ask(service.url, "tokens=60000 text=numbered", credits=asked, resumable=True)
    book = await simulator.book()
    if way == "comes back":
        await reader.until(b"id: 1\n")
        reader.leave()
        reader = await call(service.url, "GET", f"{path_of(reader)}?credits=4096", ONE | {"Last-Event-ID": "1"})
    arriving = asyncio.create_task(reader.rest())
    await steady(lambda: len(reader.body))
    assert len(reader.body) < 4096 + 4096  # and what one batch may be
    assert not book.ended.is_set()
    arriving.cancel()
    reader.leave()


async def test_upstream_faults_in_mid_stream_are_the_last_event_and_the_text_so_far_stays(service: Running) -> None:
    for fault in ("overloaded", "cut", "garbage", "no_message_stop"):
        reader = await ask(service.url, f"tokens=500 text=numbered fault={fault} after=200")
        body = await reader.rest()
        page = Page()
        page.take(body)
        assert "error" in page.last, fault
        assert numbered_text(200).startswith(page.text), fault
        assert len(page.text) > (0 if fault == "cut" else 1500), fault  # a reset discards what is on its way
        again = await call(service.url, "GET", path_of(reader))
        assert await again.rest() == body
        for each in (reader, again):
            each.leave()


async def test_who_only_asks_whether_a_stream_can_be_resumed_takes_nothing_over(
    service: Running, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=2000 rate=100 text=numbered", resumable=True)
    assert await reader.head() == 200
    await reader.until(b"token0001")
    url = f"{service.url}/api/stream/{reader.headers['x-stream-id']}"
    async with client.head(url) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert response.headers["X-Stream-Id"] == reader.headers["x-stream-id"]
    async with client.head(url, headers={"Last-Event-ID": "999999"}) as response:
        assert response.status == 400
    async with client.head(f"{service.url}/api/stream/st0_none") as response:
        assert response.status == 404
    async with client.head(f"{service.url}/api/chat/none/stream") as response:
        assert response.status == 204
    assert simulator.books[0].live
    simulator.books[0].hurried = True
    rest = await reader.rest()
    reader.leave()
    assert b"token2000" in rest
    assert b"taken_over" not in rest


async def test_a_request_whose_reader_has_left_before_it_is_served_takes_nothing_over(
    serve: Serve, client: aiohttp.ClientSession
) -> None:
    """As those that wait at a process while it sleeps: nginx has sent their reader elsewhere since, and closed them."""
    service = await serve()
    asked = {"prompt": "{{tokens=100 rate=100}}", "resumable": True}
    reader = await client.post(f"{service.url}/api/stream", json=asked)
    raw = await reader.content.readuntil(b"id: 3\n")
    url = URL(service.url)
    request = f"GET /api/stream/{reader.headers['X-Stream-Id']} HTTP/1.1\r\nHost: {url.authority}\r\n\r\n"
    for _ in range(20):
        with socket.create_connection((url.host, url.port)) as left:  # in one go, before the service's loop runs again
            left.sendall(request.encode())
        await asyncio.sleep(0.02)
    raw += await reader.read()
    assert b'"taken_over"' not in raw
    assert b'"done":true' in raw
