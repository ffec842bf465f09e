"""Connections: their heads are bounded in bytes and in time, and neither sleepers nor floods keep readers out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
import uvloop
from aiohttp import web

from app.settings import Settings
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.crowd import Crowd
from app.web.runner import Running, running
from tests.conftest import Serve
from tests.support.readers import Reader, eventually
from tests.support.scrape import scrape

GET = b"GET /config.json HTTP/1.1\r\nHost: localhost\r\n"
SECRET = b"a-cookie-nobody-may-see"


async def answered(reader: Reader) -> tuple[int, bytes]:
    status = await reader.head()
    return status, await reader.rest()


@pytest.mark.parametrize(
    "head",
    [
        GET + b"Cookie: " + SECRET * 3000 + b"\r\n\r\n",
        GET + b"".join(b"X-%d: %b\r\n" % (n, SECRET * 40) for n in range(60)) + b"\r\n",
        GET + b"".join(b"X-%d: 1\r\n" % n for n in range(300)) + b"Cookie: %b\r\n\r\n" % SECRET,
        b"GET /" + SECRET * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b"Cookie: " + SECRET * 3000,  # it never ends
        GET + SECRET * 3000 + b": 1\r\n\r\n",
    ],
    ids=["a field", "many fields", "too many fields", "the path", "no end", "a name"],
)
@pytest.mark.parametrize("piece_bytes", [1_000_000, 1460])
async def test_a_head_that_is_too_large_is_told_so_and_nothing_of_it_is_seen(
    head: bytes, piece_bytes: int, service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reader = await Reader.connect(service.url)
    for start in range(0, len(head), piece_bytes):
        await reader.send(head[start : start + piece_bytes])
        await asyncio.sleep(0)
    status, body = await answered(reader)
    assert (status, b"request_too_large" in body) == (431, True)
    assert SECRET[:8] not in body + str(reader.headers).encode()
    assert SECRET.decode()[:8] not in caplog.text
    assert "Traceback" not in caplog.text
    assert "turned a request away: head_too_large" in caplog.text
    assert (await scrape(service)).by("refused_total", "reason") == {"head_too_large": 1}
    reader.leave()


async def test_a_head_up_to_its_bound_is_read_however_it_is_cut(serve: Serve) -> None:
    service = await serve(max_head_bytes=2048)
    for size, status in ((2048, 200), (2049, 431)):
        head = GET + b"X-Filler: "
        head += b"x" * (size - len(head) - 4) + b"\r\n\r\n"
        for cut in (1, len(GET), size - 3, size - 2, size - 1):
            reader = await Reader.connect(service.url)
            await reader.send(head[:cut])
            await asyncio.sleep(0)
            await reader.send(head[cut:])
            assert (await answered(reader))[0] == status
            reader.leave()


async def test_neither_a_body_nor_what_follows_a_refusal_counts_as_head(serve: Serve) -> None:
    service = await serve(max_head_bytes=1024, api_keys=("k",), max_body_bytes=100_000)
    reader = await Reader.connect(service.url)
    body = b'{"prompt": "' + b"x" * 90_000
    for _ in range(3):  # over one connection
        raw = reader.request(body, headers={"Content-Type": "application/json", "x-api-key": "k"})
        head, _, body = raw.partition(b"\r\n\r\n")
        await reader.send(head + b"\r\n\r")
        await asyncio.sleep(0)
        for start in range(0, len(body), 4096):
            await reader.send((b"\n" if start == 0 else b"") + body[start : start + 4096])
            await asyncio.sleep(0)
        assert (await answered(reader))[0] == 400
    stranger = await Reader.connect(service.url)
    await stranger.send(stranger.request(body))  # is refused by its head, while its body still comes
    assert (await answered(stranger))[0] == 401
    await stranger.send(stranger.request(body))
    assert (await answered(stranger))[0] == 401
    for each in (reader, stranger):
        each.leave()


@pytest.mark.parametrize("sent", [GET, b"G", b"\r\n\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes, serve: Serve) -> None:
    service = await serve(head_timeout_s=0.3)
    reader = await Reader.connect(service.url)
    await reader.send(sent)
    status, body = await answered(reader)
    assert (status, b"within 0.3 s" in body) == (408, True)
    assert await reader.closed()
    reader.leave()


async def test_a_connection_over_which_nothing_is_asked_is_closed_without_a_word(serve: Serve) -> None:
    service = await serve(head_timeout_s=0.3)
    reader = await Reader.connect(service.url)
    assert await reader.closed()
    reader.leave()


@pytest.mark.real
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_head_that_has_come_is_not_late_because_the_event_loop_is(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A proxy would be told 408, or nothing, and would hold the service for failed."""

    async def asked() -> int:
        settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0, "head_timeout_s": 0.2})
        async with running(settings, Credentials(api_key="k")) as service:
            reader = await Reader.connect(service.url)
            await eventually(lambda: len(service.service.crowd) == 1)
            await reader.send(GET + b"\r\n")
            time.sleep(0.3)  # noqa: ASYNC251 - the loop is to be late
            status = await reader.head()
            reader.leave()
            return status

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(asked()) == 200


async def test_a_head_that_drips_is_not_waited_for_either_on_a_used_connection(serve: Serve) -> None:
    service = await serve(head_timeout_s=1.0)
    reader = await Reader.connect(service.url)
    await reader.send(GET + b"\r\n")
    assert (await answered(reader))[0] == 200
    with pytest.raises(ConnectionError):  # noqa: PT012 - it is closed somewhere in there
        for byte in GET * 1000:
            await reader.send(bytes([byte]))
            await asyncio.sleep(0.02)
    reader.leave()


async def test_an_answer_may_take_longer_than_any_head(serve: Serve) -> None:
    service = await serve(head_timeout_s=1.0, keepalive_timeout_s=0.2)
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=36 rate=30")
    assert await reader.head() == 200
    assert b'"done"' in await reader.rest()
    assert await reader.closed(), "and then it was idle"
    reader.leave()


@pytest.mark.parametrize("pipelined", [GET + b"\r\n", GET])
async def test_what_is_sent_during_an_answer_does_not_cut_it(pipelined: bytes, serve: Serve) -> None:
    service = await serve(head_timeout_s=1.0)
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=60 rate=50")
    assert await reader.head() == 200
    await reader.send(pipelined)
    assert b'"done"' in await reader.rest()
    assert await reader.head() == (200 if pipelined.endswith(b"\r\n\r\n") else 408)
    reader.leave()


def test_the_one_private_name_of_aiohttps_that_is_used_is_there() -> None:
    assert "_messages" in web.RequestHandler.__slots__


async def test_the_rest_of_a_refused_body_is_no_head_even_if_the_next_request_comes_with_it(serve: Serve) -> None:
    service = await serve(max_head_bytes=1024, max_body_bytes=100_000)
    reader = await Reader.connect(service.url)
    first, second = reader.request(b"{" * 90_000), reader.request(b'{"prompt": "%b"}' % (b"x" * 90_000))
    await reader.send(first[:-1000])
    await asyncio.sleep(0.05)
    await reader.send(first[-1000:] + second[:-60_000])
    await reader.send(second[-60_000:-30_000])
    await asyncio.sleep(0)
    await reader.send(second[-30_000:])
    assert await reader.head() == 400
    await reader.until(b"}")
    assert await reader.head() == 200
    reader.leave()


async def test_idle_connections_give_way_to_new_readers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowd, "NEW_S", 0.0)
    service = await serve(max_connections=20)
    async with AsyncExitStack() as stack:

        async def connected(sent: bytes) -> Reader:
            reader = await Reader.connect(service.url)
            stack.callback(reader.leave)
            await reader.send(sent)
            return reader

        streaming = await connected(b"")
        await streaming.ask("tokens=9000 rate=50")
        assert await streaming.head() == 200
        for _ in range(60):
            await connected(GET)  # and never an end
            assert len(service.service.crowd) <= 20
        last = await connected(GET + b"\r\n")
        assert (await answered(last))[0] == 200
        await streaming.until(b"data: ")
        assert len(service.streams.live) == 1


async def test_of_more_at_once_than_there_are_places_the_first_are_served_and_the_others_told_so(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crowd, "NEW_S", 60.0)
    service = await serve(max_connections=4)
    readers = [await Reader.connect(service.url) for _ in range(10)]
    for reader in readers[:4]:
        await reader.ask("tokens=9000 rate=50")
    assert [await reader.head() for reader in readers] == [200] * 4 + [503] * 6
    assert (await scrape(service)).value("refused_total", reason="full") == 6
    for reader in readers:
        reader.leave()


async def test_where_all_connections_are_busy_a_new_one_is_told_so(serve: Serve) -> None:
    service = await serve(max_connections=2)
    busy = [await Reader.connect(service.url) for _ in range(2)]
    for reader in busy:
        await reader.ask("tokens=9000 rate=50")
        assert await reader.head() == 200
    late = await Reader.connect(service.url)
    status, body = await answered(late)
    assert (status, late.headers["retry-after"]) == (503, "2")
    assert b"overloaded_error" in body
    busy[0].leave()
    await eventually(lambda: len(service.service.crowd) == 1)
    again = await Reader.connect(service.url)
    await again.send(GET + b"\r\n")
    assert (await answered(again))[0] == 200
    for reader in (*busy[1:], late, again):
        reader.leave()


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
async def test_a_clients_share_is_counted_by_address_or_by_what_a_trusted_proxy_says(
    trusted: tuple[str, ...], serve: Serve, simulator: Simulator
) -> None:
    service = await serve(max_connections_per_client=2, trusted_proxies=trusted)
    readers: list[Reader] = []

    async def asks(client: str) -> int:
        reader = await Reader.connect(service.url)
        readers.append(reader)
        headers = {"Content-Type": "application/json", "X-Forwarded-For": f"1.2.3.4, {client}"}
        await reader.send(reader.request(b'{"prompt": "{{tokens=9000 rate=50}}"}', headers=headers))
        return await reader.head()

    seen = [await asks(client) for client in ("198.51.100.1", "198.51.100.1", "198.51.100.1", "198.51.100.2")]
    assert seen == ([200, 200, 429, 200] if trusted else [200, 200, 429, 429])
    for reader in readers:
        reader.leave()
    assert len(simulator.books) == seen.count(200)
    if trusted:
        await eventually(lambda: not service.service.crowd._of_clients)


async def test_a_trusted_proxy_that_is_none_is_refused_at_start(serve: Serve) -> None:
    with pytest.raises(ValueError, match="trusted_proxies 'nginx'"):
        await serve(trusted_proxies=("nginx",))


async def test_the_admin_port_answers_while_its_own_places_are_flooded(
    service: Running, client: aiohttp.ClientSession
) -> None:
    flood = [await Reader.connect(service.admin_url) for _ in range(100)]
    async with client.get(f"{service.admin_url}/healthz") as response:
        assert response.status == 200
    for reader in flood:
        reader.leave()
