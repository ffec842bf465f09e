"""Through a real nginx: the shipped configuration over its unix socket, and a default one that knows nothing of us."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.settings import Settings
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.service.test_stream import ADAPTIVE, recorded, told
from tests.support.answers import NAMES
from tests.support.nginx import SHIPPED, check, free_port, nginx, plain, shipped, shipped_fleet, without_host, write
from tests.support.raw_upstream import (
    END,
    HELLO,
    MESSAGE,
    START,
    Play,
    behind,
    chunk,
    delta,
    raw_upstream,
    response,
    stream_head,
)
from tests.support.raw_upstream import stream as stream_of
from tests.support.readers import AT_ONCE_S, JSON, Reader, Told, events_of, eventually, steady

pytestmark = pytest.mark.nginx


@pytest.fixture
async def behind_shipped(serve: Serve, tmp_path: Path) -> AsyncIterator[tuple[str, Running]]:
    """The service on a unix socket behind the shipped configuration: nginx's URL, and the service."""
    service = await serve(unix=str(tmp_path / "s.sock"))
    port = free_port()
    async with nginx(tmp_path, shipped(tmp_path, service.url, port), port) as url:
        yield url, service


@pytest.fixture
async def behind_plain(service: Running, tmp_path: Path) -> AsyncIterator[str]:
    """The service on TCP behind a configuration of defaults; nginx's URL."""
    port = free_port()
    async with nginx(tmp_path, plain(service.url, port), port) as url:
        yield url


# --- the same answers --------------------------------------------------------------------------------------------------


async def test_every_recorded_answer_passes_the_shipped_nginx(behind_shipped: tuple[str, Running]) -> None:
    url, _ = behind_shipped

    async def compared(name: str) -> None:
        for chunking in ("events", "random"):
            assert await told(url, f"transcript={name} chunking={chunking}", thinking=ADAPTIVE) == recorded(name), name

    await asyncio.gather(*map(compared, NAMES))  # at once, since each rests between its reads


# Between them: text, thinking, tools of both sides, citations, an input that is empty, wide characters.
FEW = ["advisor", "code-execution", "thinking", "tools", "web-search"]


@pytest.mark.parametrize("names", [FEW, pytest.param(NAMES, marks=pytest.mark.soak)], ids=["few", "every"])
async def test_recorded_answers_survive_nginx_one_byte_at_a_time(
    names: list[str], serve: Serve, tmp_path: Path
) -> None:
    service = await serve(unix=str(tmp_path / "s.sock"), window_s=0)
    port = free_port()
    async with nginx(tmp_path, shipped(tmp_path, service.url, port), port) as url:
        for name in names:
            assert await told(url, f"transcript={name} chunking=bytes", thinking=ADAPTIVE) == recorded(name), name


async def test_every_recorded_answer_passes_a_default_nginx(behind_plain: str) -> None:
    for name in NAMES:
        assert await told(behind_plain, f"transcript={name}", thinking=ADAPTIVE) == recorded(name), name


# --- tokens as they come -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def token_by_token(**given: object) -> AsyncIterator[tuple[str, list[asyncio.Event]]]:
    """The service before a Claude that says a second and a third token when it is told to: its address, and what tells it."""
    told = [asyncio.Event(), asyncio.Event()]
    begun, ended = stream_head() + chunk(START + delta("token1")), chunk(END) + chunk(b"")
    play: Play = [begun, told[0], chunk(delta("token2")), told[1], chunk(delta("token3")) + ended]
    async with raw_upstream(play) as upstream, behind(upstream, **given) as service:
        yield service.url, told


async def read_one_by_one(url: str, told: list[asyncio.Event]) -> None:
    """Each token is read while the next is not made yet: no buffer on the way waits for more."""
    reader = await Reader.connect(url)
    await reader.ask("of a Claude that plays bytes")
    assert await reader.head() == 200
    await reader.until(b"token1")
    for token, event in enumerate(told, 2):
        event.set()
        await reader.until(b"token%d" % token)
    await reader.rest()
    reader.leave()
    assert reader.ended


async def test_tokens_pass_the_shipped_nginx_as_they_come_and_an_outer_one_of_defaults(tmp_path: Path) -> None:
    """An outer nginx with nothing but defaults streams too, since the inner one does not eat the header."""
    outer, ports = tmp_path / "outer", (free_port(), free_port())
    outer.mkdir()
    async with (
        token_by_token(unix=str(tmp_path / "s.sock"), auth="none") as (socket, told),
        nginx(tmp_path, shipped(tmp_path, socket, ports[0]), ports[0]) as inner,
        nginx(outer, plain(inner, ports[1]), ports[1]) as url,
    ):
        await read_one_by_one(inner, told)
        for event in told:
            event.clear()
        await read_one_by_one(url, told)


async def test_tokens_pass_a_default_nginx_as_they_come(tmp_path: Path) -> None:
    """Because of the response's header alone."""
    port = free_port()
    async with token_by_token() as (straight, told), nginx(tmp_path, plain(straight, port), port) as url:
        await read_one_by_one(url, told)


async def test_a_keep_alive_passes_before_the_first_token(serve: Serve, tmp_path: Path) -> None:
    """The first one, long before a heartbeat."""
    service, port = await serve(commit_s=0.3, heartbeat_s=300), free_port()
    async with nginx(tmp_path, plain(service.url, port), port) as url:
        reader = await Reader.connect(url)
        await reader.ask("tokens=3 first_event_s=300")
        assert await reader.head() == 200
        assert await reader.until(b"\n") == b": keep-alive\n"
        reader.leave()


# --- pressure ----------------------------------------------------------------------------------------------------------


async def test_behind_a_unix_socket_little_is_written_ahead_of_a_stalled_reader(
    behind_shipped: tuple[str, Running], simulator: Simulator
) -> None:
    """Promised are 64 kB, and kernels differ; counted without looking inside: what Claude was let to make, less what was read."""
    url, _ = behind_shipped
    reader = await Reader.connect(url, rcvbuf_bytes=4096)
    await reader.ask("tokens=60000 text=numbered")
    assert await reader.head() == 200
    while reader.body_bytes < 20_000:
        await reader.some(2048)
    book = simulator.books[0]
    made = await steady(lambda: book.tokens)
    read = reader.body.count(b" token")
    # A frame of the largest batch, 2,048 characters, adds some 30 bytes to it; chunk framing as much again.
    written_bytes = (made - read) * 10 * 1.1
    print(f"{made - read} tokens, at most {written_bytes:.0f} bytes, ahead of the stalled reader behind nginx")
    assert book.is_blocked.is_set()
    assert written_bytes <= 3 * 65_536

    answer = Told.of(events_of(await reader.rest()))
    reader.leave()
    assert answer.text == numbered_text(60_000)


@pytest.mark.parametrize("directive", ["ttft_s=60", "first_event_s=60", "tokens=10000 rate=100", "tokens=900000"])
async def test_a_reader_that_leaves_nginx_stops_generation(
    directive: str, behind_shipped: tuple[str, Running], simulator: Simulator
) -> None:
    url, service = behind_shipped
    reader = await Reader.connect(url, rcvbuf_bytes=4096)
    await reader.ask(directive)
    book = await simulator.book()
    if "tokens" in directive:
        await reader.head()
    if "900000" in directive:
        await book.is_blocked.wait()
    reader.leave()
    async with asyncio.timeout(20):
        await book.ended.wait()

    assert book.gone_at is not None
    print(f"{directive}: upstream closed after {book.gone_at - reader.left_at:.4f} s")
    assert book.gone_at - reader.left_at < AT_ONCE_S
    await eventually(lambda: not service.streams.live)


# --- errors ------------------------------------------------------------------------------------------------------------


async def test_an_upstream_cut_is_the_last_event_and_a_whole_response(behind_shipped: tuple[str, Running]) -> None:
    url, _ = behind_shipped
    answer = await told(url, "tokens=30 rate=200 fault=cut after=10")

    assert answer.last["type"] == "upstream_cut"


async def test_a_status_before_the_stream_passes_with_its_json(
    behind_shipped: tuple[str, Running], simulator: Simulator
) -> None:
    """And nginx does not ask a second time."""
    url, _ = behind_shipped
    reader = await Reader.connect(url)
    await reader.ask("fault=http_400")
    assert await reader.head() == 400
    assert json.loads(await reader.rest())["type"] == "invalid_request_error"
    reader.leave()
    assert len(simulator.books) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_no_head_of_claudes_side_loses_its_answer(stream: bool, tmp_path: Path) -> None:
    """Neither by its size, nor by what nginx would obey."""
    redirect = {"x_accel_redirect": "/elsewhere", "x_accel_limit_rate": "1", "x_accel_charset": "none"}
    odd = redirect | {f"x_{n}": "v" * 90 for n in range(60)} | {f"anthropic_{n}": "é" * 45 for n in range(60)}
    whole = response(json.dumps(MESSAGE).encode(), content_type="application/json", **odd)
    port, sock = free_port(), str(tmp_path / "s.sock")
    origins = [f"https://{n}.example" for n in range(99)]
    async with (
        raw_upstream([stream_of(HELLO, **odd) if stream else whole]) as upstream,
        behind(upstream, unix=sock, auth="none", cors_origins=origins),
        nginx(tmp_path, shipped(tmp_path, f"unix:{sock}", port), port) as url,
    ):
        reader = await Reader.connect(url)
        body = json.dumps({"model": "m", "max_tokens": 9, "messages": [], "stream": stream}).encode()
        await reader.send(reader.request(body, path="/v1/messages", headers=JSON | {"Origin": origins[-1]}))
        assert await reader.head() == 200
        assert (b"message_stop" if stream else b"msg_1") in await reader.rest()
        reader.leave()


async def test_a_body_above_the_services_bound_gets_the_services_own_error(
    behind_shipped: tuple[str, Running],
) -> None:
    url, _ = behind_shipped
    reader = await Reader.connect(url)
    body = json.dumps({"prompt": "x" * 10_000_000}).encode()
    sending = asyncio.create_task(reader.send(reader.request(body)))
    assert await reader.head() == 413
    assert "max_body_bytes" in json.loads(await reader.rest())["error"]
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    reader.leave()


async def test_a_page_behind_nginx_is_our_own_by_its_origin(behind_shipped: tuple[str, Running]) -> None:
    """The port survives in the Host header, with which the service compares the Origin."""
    url, _ = behind_shipped
    for origin, status in ((url, 200), ("http://127.0.0.1:1", 403)):
        reader = await Reader.connect(url)
        await reader.send(reader.request(b'{"prompt": "hello"}', headers={"Origin": origin}))
        assert await reader.head() == status
        reader.leave()


# --- the file ----------------------------------------------------------------------------------------------------------


def test_nginx_takes_the_shipped_file_without_a_warning(tmp_path: Path) -> None:
    said = check(write(tmp_path, shipped(tmp_path, "unix:/nowhere.sock", free_port())))

    assert "test is successful" in said
    assert "[warn]" not in said


def test_every_setting_of_the_shipped_file_says_why() -> None:
    """A comment stands above each setting, or above the neighbours that it belongs to."""
    lines = SHIPPED.read_text("utf-8").split("\n")
    settings = [at for at, line in enumerate(lines) if re.match(r"\s+[a-z_]+ .*;$", line)]
    assert len(settings) > 15
    for at in settings:
        above = at - 1
        while re.match(r"\s+[a-z_]+ .*;$", lines[above]):
            above -= 1
        plainly = re.match(r"\s+(server_name|access_log|proxy_pass) ", lines[at])
        assert plainly or lines[above].strip().startswith("#"), lines[at]


@pytest.mark.parametrize(
    "setting",
    [
        "proxy_buffering off;", "proxy_buffer_size 6k;", "proxy_http_version 1.1;", "proxy_set_header Connection close;",
        "proxy_next_upstream off;", "proxy_ignore_client_abort off;", "proxy_pass_header X-Accel-Buffering;",
        "reset_timedout_connection on;", "gzip off;", "sndbuf=16k", "send_timeout 75s;",
    ],
)  # fmt: skip
def test_the_shipped_file_keeps_what_streaming_rests_on(setting: str) -> None:
    said = [line for line in SHIPPED.read_text("utf-8").split("\n") if not line.strip().startswith("#")]

    assert [line for line in said if setting in line]


def test_nginx_waits_longer_than_the_heartbeat_takes() -> None:
    found = re.search(r"^\s+proxy_read_timeout (\d+)s;", SHIPPED.read_text("utf-8"), re.MULTILINE)

    assert found is not None

    assert int(found[1]) >= 3 * Settings.model_validate({}).streams.heartbeat_s


async def test_of_a_fleet_with_a_host_out_the_only_other_one_is_asked_again_after_a_failure(tmp_path: Path) -> None:
    """One worker that dies before it has answered would else be 502 for everybody, for seconds, with no host asked."""
    ports = [free_port() for _ in range(3)]
    ok = response(b"ok", connection="close")
    answers = iter([b"", ok, ok])

    async def fails_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        writer.close()

    conf = without_host(shipped_fleet(tmp_path, ports[:2], ports[2]), ports[0])
    async with await asyncio.start_server(fails_once, "127.0.0.1", ports[1]), nginx(tmp_path, conf, ports[2]) as url:
        statuses = []
        for _ in range(3):
            reader = await Reader.connect(url)
            await reader.send(reader.request(b"", method="GET", path="/"))
            statuses.append(await reader.head())
            reader.leave()
    assert statuses == [502, 200, 200]
