"""The pool: connections kept and warmed, a stale one costs nothing, and every way to Claude that an operator may have."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from app.upstream import ways
from app.upstream.failures import UpstreamBarred, translated
from app.upstream.pool import UNHEARD_S, Pool
from app.upstream.window import Window
from tests.support.deaf import deafen, hear_again
from tests.support.raw_upstream import CLOSE, RESET, Close, chunk, head, raw_upstream, response
from tests.support.readers import AT_ONCE_S, eventually, sockets
from tests.support.tls import certificate, server_side

pytestmark = pytest.mark.real

OK = response(b"fine")


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The tests' certificate as the only authority, as an operator says it; and no proxy from outside."""
    pem = certificate()
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    ways._trust.cache_clear()
    yield pem
    ways._trust.cache_clear()


@asynccontextmanager
async def client(
    connect_timeout_s: float = 5.0, unheard_s: float = UNHEARD_S
) -> AsyncIterator[tuple[httpx2.AsyncClient, Pool]]:
    pool = Pool(Window(8192), connect_timeout_s, unheard_s)
    async with httpx2.AsyncClient(transport=pool, timeout=None) as http:
        yield http, pool


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handle: Handler) -> AsyncIterator[str]:
    """A peer of its own manners on a free port; nothing of it is left at the end."""
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass  # it is over with its test, or with its client
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_connection_is_used_again(encrypted: bool) -> None:
    async with (
        raw_upstream([OK], tls=server_side(certificate()) if encrypted else None) as upstream,
        client() as (http, _),
    ):
        for _ in range(5):
            assert (await http.post(upstream.url, json={"a": 1})).text == "fine"
        assert upstream.connections == 1
        assert [body for _, body in upstream.requests] == [b'{"a":1}'] * 5


async def test_what_the_closing_breaks_off_is_not_asked_again() -> None:
    """Nor over a connection that was on its way meanwhile, and which nobody would close."""
    never = asyncio.Event()
    async with raw_upstream([OK], [never, OK]) as upstream, client() as (http, pool):
        await http.post(upstream.url)
        held = sockets()
        asking = [
            asyncio.create_task(http.post(upstream.url)) for _ in range(2)
        ]  # on the old connection, and on a new one
        await eventually(lambda: len(upstream.requests) == 3)
        late = asyncio.create_task(http.post(upstream.url))
        await asyncio.sleep(0)  # it connects
        await pool.aclose()
        for task in (*asking, late):
            with pytest.raises(httpx2.TransportError):
                await task
        assert len(upstream.requests) == 3
        await eventually(lambda: sockets() < held)


async def test_requests_at_once_have_connections_of_their_own_and_each_resumes_the_session() -> None:
    go = asyncio.Event()
    tls = server_side(certificate())
    async with raw_upstream([OK], [go, OK], tls=tls) as upstream, client() as (http, _):
        await http.get(upstream.url)
        waiting = [asyncio.create_task(http.get(upstream.url)) for _ in range(4)]
        await eventually(lambda: len(upstream.requests) == 5)
        go.set()
        assert [answer.text for answer in await asyncio.gather(*waiting)] == ["fine"] * 4
        assert upstream.connections == 4
        assert upstream.resumed == [False, True, True, True]


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["closed", "reset"])
async def test_a_connection_that_went_stale_unseen_costs_one_more_and_no_error(ending: object) -> None:
    # It takes the request and dies without a byte, as one does that was closed while the request was on its way.
    async with raw_upstream([OK], [ending], [OK]) as upstream, client() as (http, _):  # type: ignore[list-item]
        await http.get(upstream.url)
        assert (await http.post(upstream.url, content=b"again")).text == "fine"
        assert [body for _, body in upstream.requests] == [b"", b"again", b"again"]
        assert upstream.connections == 2


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("begun", [b"HTTP/1.1 200", head(200, content_length="10")], ids=["in its head", "in its body"])
async def test_what_began_is_never_asked_for_again(begun: bytes, ending: Close) -> None:
    async with raw_upstream([OK], [begun, 0.05, ending], [OK]) as upstream, client() as (http, _):
        await http.get(upstream.url)
        with pytest.raises(httpx2.TransportError):
            await http.post(upstream.url, content=b"dear")
        assert len(upstream.requests) == 2


@asynccontextmanager
async def remembered() -> AsyncIterator[tuple[str, list[socket.socket], list[bytes]]]:
    """A peer that answers each request; its address, its sockets in the order of their making, and what it was asked."""
    ends, asked = list[socket.socket](), list[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno())))
        while True:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)

    async with listening(answer) as address:
        yield address, ends, asked
    for end in ends:
        end.close()


async def test_a_kept_connection_that_the_network_forgot_is_replaced() -> None:
    async with remembered() as (address, ends, asked), client(unheard_s=0.05) as (http, _):
        await http.get(f"http://{address}/first")
        deafen(ends[0])
        async with asyncio.timeout(AT_ONCE_S):
            assert (await http.get(f"http://{address}/again")).text == "fine"
        assert [request.split()[1] for request in asked] == [b"/first", b"/again"]
        assert len(ends) == 2


async def test_those_kept_beside_a_forgotten_connection_are_not_tried_one_by_one() -> None:
    async with remembered() as (address, ends, asked), client(unheard_s=0.3) as (http, pool):
        await asyncio.gather(*(http.get(f"http://{address}/") for _ in range(20)))
        for end in ends:
            deafen(end)
        async with asyncio.timeout(AT_ONCE_S):  # one by one it would take twice as long
            for _ in range(20):
                await http.get(f"http://{address}/")
        assert len(ends) == 21
        assert len(asked) == 40
        assert len(pool._way_of) == 1


async def test_while_no_other_can_be_had_a_forgotten_connection_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[str]()

    async def away(host: str, port: int) -> list[ways.Address]:
        looked.append(host)
        raise ConnectionRefusedError("the network is away")

    async with remembered() as (address, ends, asked), client(unheard_s=0.05) as (http, pool):
        await http.get(f"http://{address}/first")
        deafen(ends[0])
        monkeypatch.setattr(pool._ways, "_lookup", away)
        asking = asyncio.create_task(http.get(f"http://{address}/again"))
        await eventually(lambda: bool(looked))
        hear_again(ends[0])
        assert (await asking).text == "fine"
        assert [request.split()[1] for request in asked] == [b"/first", b"/again"]
        assert len(ends) == 1


async def test_a_claude_that_is_heard_may_think_as_long_as_it_likes() -> None:
    thinking = asyncio.Event()
    async with raw_upstream([OK], [thinking, OK]) as upstream, client(unheard_s=0.1) as (http, _):
        await http.get(upstream.url)
        asking = asyncio.create_task(http.get(upstream.url))
        loop = asyncio.get_running_loop()
        looked_at = loop.time() + 0.2
        await eventually(lambda: loop.time() > looked_at)
        thinking.set()
        assert (await asking).text == "fine"
        assert upstream.connections == 1


async def test_a_request_that_is_given_up_leaves_no_connection_behind() -> None:
    async with remembered() as (address, ends, _), client(unheard_s=0.05) as (http, pool):
        await http.get(f"http://{address}/")
        deafen(ends[0])
        asking = asyncio.create_task(http.get(f"http://{address}/"))
        await eventually(lambda: len(pool._way_of) == 1 and not pool._idle[pool._way(httpx2.URL(f"http://{address}"))])
        asking.cancel()
        await asyncio.wait([asking])
        await eventually(lambda: not pool._way_of)


async def test_a_new_connection_that_breaks_is_no_stale_one() -> None:
    async with raw_upstream([CLOSE]) as upstream, client() as (http, _):
        with pytest.raises(httpx2.ReadError):
            await http.get(upstream.url)
        assert len(upstream.requests) == 1


async def test_an_upload_that_was_read_cannot_be_sent_again() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with raw_upstream([OK], [CLOSE], [OK]) as upstream, client() as (http, _):
        await http.get(upstream.url)
        with pytest.raises(httpx2.TransportError):
            await http.post(upstream.url, content=parts(), headers={"content-length": "6"})
        assert [body for _, body in upstream.requests] == [b"", b"onetwo"]


async def test_an_upload_of_unknown_length_goes_up_in_chunks() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x" * 40_000
        yield b""
        yield b"y"

    received = bytearray()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(OK)
        await reader.read()

    async with listening(accept) as address, client() as (http, _):
        answer = await http.post(f"http://{address}", content=parts())
    assert answer.text == "fine"
    assert bytes(received).partition(b"\r\n\r\n")[2] == chunk(b"x" * 40_000) + chunk(b"y") + chunk(b"")


async def test_a_refusal_that_comes_before_the_request_was_read_is_heard() -> None:
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"too much", 413))
        await writer.drain()
        writer.write_eof()
        await over.wait()

    async with listening(accept) as address, client() as (http, _):
        answer = await http.post(f"http://{address}", content=b"x" * 30_000_000)
        over.set()
    assert (answer.status_code, answer.text) == (413, "too much")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (head(100) + head(103, link="</x>") + OK, "fine"),
        (head(200) + b"until the end", "until the end"),
        (head(204), ""),
        (head(200, transfer_encoding="chunked") + chunk(b"a") + chunk(b"bc") + chunk(b""), "abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", "old"),
        (head(200, transfer_encoding="chunked") + b"3  \r\nabc\r\n0 ;x=y\r\n\r\n", "abc"),
    ],
    ids=["interim heads", "until closed", "none", "chunks", "HTTP/1.0", "chunks with blanks"],
)
async def test_a_body_is_framed_as_http_has_it(answer: bytes, text: str) -> None:
    async with raw_upstream([answer, CLOSE]) as upstream, client() as (http, _):
        assert (await http.get(upstream.url)).text == text


async def test_a_body_that_is_framed_twice_comes_by_its_chunks_and_its_connection_is_not_used_again() -> None:
    twice = head(200, content_length="1", transfer_encoding="chunked") + chunk(b"abc") + chunk(b"")
    async with raw_upstream([twice], [OK]) as upstream, client() as (http, _):
        assert (await http.get(upstream.url)).text == "abc"
        assert (await http.get(upstream.url)).text == "fine"
        assert upstream.connections == 2


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000], ids=["no HTTP", "endless head"]
)
async def test_what_is_no_http_is_refused(answer: bytes) -> None:
    async with raw_upstream([answer, 5.0]) as upstream, client() as (http, _):
        with pytest.raises(httpx2.RemoteProtocolError):
            await http.get(upstream.url)


async def test_what_comes_after_an_answers_end_takes_nothing_from_it() -> None:
    whole = head(200, transfer_encoding="chunked") + chunk(b"paid") + chunk(b"")
    async with raw_upstream([whole + b"garbage"], [OK]) as upstream, client() as (http, _):
        assert (await http.get(upstream.url)).text == "paid"
        assert (await http.get(upstream.url)).text == "fine", "on a connection that holds no garbage"
        assert upstream.connections == 2


@pytest.mark.parametrize(
    "framing",
    [b"zz\r\n", b"5;a=" + b"x" * 100_000, b"0\r\n" + b"x: y\r\n" * 20_000],
    ids=["none", "extension", "trailers"],
)
async def test_what_came_before_a_body_s_framing_is_none_or_passes_its_bound_counts(framing: bytes) -> None:
    begun = head(200, transfer_encoding="chunked") + chunk(b"paid")
    async with (
        raw_upstream([begun + framing, 5.0]) as upstream,
        client() as (http, _),
        http.stream("GET", upstream.url) as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"paid"
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)


async def test_a_trailer_is_no_header() -> None:
    whole = (
        head(200, transfer_encoding="chunked", request_id="theirs") + chunk(b"paid") + b"0\r\nrequest-id: other\r\n\r\n"
    )
    async with raw_upstream([whole]) as upstream, client() as (http, _):
        answer = await http.get(upstream.url)
        assert (answer.text, answer.headers["request-id"]) == ("paid", "theirs")


async def test_an_answer_that_ends_before_its_time_is_cut() -> None:
    async with raw_upstream([head(200, content_length="10"), b"half", CLOSE]) as upstream, client() as (http, _):
        with pytest.raises(httpx2.ReadError):
            await http.get(upstream.url)


# Warm ways.


@contextlib.asynccontextmanager
async def warmed(pool: Pool, url: str) -> AsyncIterator[None]:
    warming = asyncio.create_task(pool.keep_warm(httpx2.URL(url), 8))
    yield
    warming.cancel()
    await asyncio.wait([warming])


async def test_a_connection_is_ready_before_the_first_request() -> None:
    tls = server_side(certificate())
    async with (
        raw_upstream([OK], tls=tls) as upstream,
        client() as (http, pool),
        warmed(pool, upstream.url),
    ):
        await eventually(lambda: upstream.connections == 1)
        assert (await http.get(upstream.url)).text == "fine"
        assert upstream.connections == 1


async def test_a_ready_connection_teaches_its_session_before_any_answer_did() -> None:
    never = asyncio.Event()
    tls = server_side(certificate())
    async with (
        raw_upstream([never], tls=tls) as upstream,
        client() as (http, pool),
        warmed(pool, upstream.url),
    ):
        way = pool._way(httpx2.URL(upstream.url))
        await eventually(lambda: pool._ways.knows(way))
        asking = [asyncio.create_task(http.get(upstream.url)) for _ in range(3)]
        await eventually(lambda: len(upstream.requests) == 3)
        assert upstream.resumed[:3] == [False, True, True]
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def test_after_a_burst_more_are_ready_but_never_too_many() -> None:
    go = asyncio.Event()
    async with raw_upstream([go, OK]) as upstream, client() as (http, pool), warmed(pool, upstream.url):
        await eventually(lambda: upstream.connections == 1)
        burst = [asyncio.create_task(http.get(upstream.url)) for _ in range(20)]
        await eventually(lambda: len(upstream.requests) == 20)
        busy = upstream.connections
        await eventually(lambda: busy < upstream.connections)
        go.set()
        await asyncio.gather(*burst)
        assert upstream.connections <= 20 + 8


async def test_a_spare_that_the_peer_closed_is_replaced() -> None:
    first: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.append(writer)
        await reader.read()

    async with listening(accept) as address, client() as (_, pool), warmed(pool, f"http://{address}"):
        await eventually(lambda: len(first) == 1)
        first[0].close()
        await eventually(lambda: len(first) == 2)


async def test_a_claude_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    pool = Pool(Window(8192), connect_timeout_s=5.0)
    async with warmed(pool, "http://127.0.0.1:9"):
        await eventually(lambda: bool(caplog.records))
        await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.message.startswith("no connection to Claude could be made ready: ")


# Ways.


def resumes(hello: bytes) -> bool:
    """Whether a ClientHello offers a session: a pre-shared key, which is its last extension (RFC 8446, section 4.2.11)."""
    at = 5 + 4 + 2 + 32  # the record's head, the message's, a version, a random number
    at += 1 + hello[at]  # a session's id
    at += 2 + int.from_bytes(hello[at : at + 2])  # ciphers
    at += 1 + hello[at] + 2  # compressions, and how long the extensions are
    kinds = []
    while at + 4 <= len(hello):
        kinds.append(int.from_bytes(hello[at : at + 2]))
        at += 4 + int.from_bytes(hello[at + 2 : at + 4])
    return 41 in kinds


@pytest.mark.parametrize("said", [b"", b"\x15\x03\x03\x00\x02\x02\x2f"], ids=["nothing", "an alert"])
async def test_a_peer_that_breaks_off_for_a_session_it_does_not_know_is_connected_to_without(said: bytes) -> None:
    refused = 0

    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        hello = await reader.readexactly(5)
        hello += await reader.readexactly(int.from_bytes(hello[3:]))
        if resumes(hello):
            refused += 1
            writer.write(said)
            writer.write_eof()
            await reader.read()
            return
        host, port = upstream.url.removeprefix("https://").split(":")
        there, back = await asyncio.open_connection(host, int(port))
        back.write(hello)
        try:
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        finally:
            back.transport.abort()

    closing = response(b"fine", 200, connection="close")
    async with (
        raw_upstream([closing, CLOSE], tls=server_side(certificate())) as upstream,
        listening(forgetful) as address,
        client() as (http, _),
    ):
        for _ in range(3):
            assert (await http.get(f"https://{address}/")).text == "fine"
    assert refused == 2, "each answer brings a session of its own"


async def test_a_certificate_too_large_for_a_session_to_be_kept_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pem = certificate("IP:127.0.0.1," + ",".join(f"DNS:{number:05}.claude.example" for number in range(3300)))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    ways._trust.cache_clear()
    async with raw_upstream([OK, CLOSE], tls=server_side(pem)) as upstream, client() as (http, _):
        assert [(await http.get(upstream.url)).text for _ in range(2)] == ["fine", "fine"]


@pytest.mark.parametrize(
    ("name", "days", "reason"),
    [("IP:127.0.0.9", 3, "IP address mismatch"), ("IP:127.0.0.1", -1, "has expired")],
)
async def test_a_certificate_is_refused_with_the_reason(
    name: str, days: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(name, days)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    ways._trust.cache_clear()
    async with raw_upstream([OK], tls=server_side(pem)) as upstream, client() as (http, _):
        with pytest.raises(httpx2.ConnectError, match=reason):
            await http.get(upstream.url)
        assert upstream.requests == []


async def test_a_claude_that_wants_a_certificate_of_ours_is_nothing_to_try_again(trusting: Path) -> None:
    tls = server_side(certificate())
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(trusting)

    def refuse(listener: socket.socket) -> None:  # by a blocking socket, because asyncio sends no alert
        with pytest.raises(ssl.SSLError):
            tls.wrap_socket(listener.accept()[0], server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        async with client() as (http, _):
            with pytest.raises(httpx2.WriteError) as told:
                await http.post(f"https://127.0.0.1:{listener.getsockname()[1]}/", content=b"x" * 100)
        await refusing
    error = translated(told.value)
    assert isinstance(error, UpstreamBarred)
    assert error.message == "Claude's side wants a certificate from whoever asks, and the service has none"


async def test_authorities_may_lie_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusting: Path) -> None:
    shutil.copy(trusting, tmp_path / f"{digest(trusting)}.0")
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    ways._trust.cache_clear()
    async with raw_upstream([OK], tls=server_side(trusting)) as upstream, client() as (http, _):
        assert (await http.get(upstream.url)).text == "fine"


async def test_a_dead_first_address_does_not_keep_from_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_upstream([OK]) as upstream, client() as (http, _):
        port = int(upstream.url.rpartition(":")[2])

        async def two(_self: object, host: str, port: int, **_how: object) -> list[object]:
            stream = socket.SOCK_STREAM
            return [
                (socket.AF_INET6, stream, 6, "", ("::1", 9, 0, 0)),
                (socket.AF_INET, stream, 6, "", ("127.0.0.1", port)),
            ]

        monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", two)
        assert (await http.get(f"http://claude.example:{port}")).text == "fine"


def digest(pem: Path) -> str:
    """The name under which OpenSSL looks for an authority in a folder."""
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(pem)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Proxy:
    """A proxy that answers CONNECT, and passes bytes on; or plain requests, which it answers itself.

    Attributes:
        heads: of the requests it was sent.
    """

    def __init__(self, status: int = 200, through: bytes = b"200 Connection established\r\n") -> None:
        self.heads: list[str] = []
        self._status = status
        self._through = through

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(request)
        method, target, _ = request.split(" ", 2)
        if self._status != 200 or method != "CONNECT":
            writer.write(response(b"by proxy", self._status))
            await reader.read()
            return
        host, _, port = target.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 " + self._through + b"\r\n")
        try:
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        finally:
            back.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy(standing: Proxy | None = None) -> AsyncIterator[tuple[str, Proxy]]:
    standing = standing or Proxy()
    async with listening(standing.serve) as address:
        yield address, standing


async def test_the_environments_proxy_is_tunnelled_through(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (address, standing), raw_upstream([OK], tls=server_side(certificate())) as upstream:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:s%40cret@{address}")
        async with client() as (http, _):
            assert (await http.get(upstream.url)).text == "fine"
        credentials = base64.b64encode(b"me:s@cret").decode()
        assert standing.heads[0].startswith(f"CONNECT {upstream.url.removeprefix('https://')} HTTP/1.1\r\n")
        assert f"Proxy-Authorization: Basic {credentials}" in standing.heads[0]
        assert "Proxy-Authorization" not in upstream.requests[0][0]


@pytest.mark.parametrize(
    "through",
    [
        b"201 Created\r\nContent-Length: 0\r\n",
        b"204 No Content\r\n",
        b"200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ],
)
async def test_a_proxy_lets_through_by_any_status_of_200_and_more_and_has_no_body(
    through: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        proxy(Proxy(through=through)) as (address, _),
        raw_upstream([OK], tls=server_side(certificate())) as upstream,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        async with client() as (http, _):
            assert (await http.get(upstream.url)).text == "fine"


async def test_a_plain_claude_is_asked_for_at_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (address, standing):
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")
        async with client() as (http, _):
            assert (await http.get("http://claude.example/v1/models?limit=1")).text == "by proxy"
        assert standing.heads[0].startswith("GET http://claude.example/v1/models?limit=1 HTTP/1.1\r\n")


async def test_no_proxy_names_hosts_that_are_reached_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with raw_upstream([OK]) as upstream, client() as (http, _):
        assert (await http.get(upstream.url)).text == "fine"


def standing(what: int | str) -> contextlib.AbstractAsyncContextManager[str]:
    """A proxy as it is told: that answers with a status, says nothing, hangs up, or speaks something else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if isinstance(what, int):
            writer.write(response(b"", what))
        elif what == "no HTTP":
            writer.write(b"SSH-2.0-OpenSSH\r\n")
        if what != "hangs up":
            await reader.read()

    return listening(serve)


@pytest.mark.parametrize(
    ("what", "words", "lasting"),
    [
        (407, "the proxy answered with 407", True),
        (403, "the proxy answered with 403", True),
        (429, "the proxy answered with 429", False),
        (502, "the proxy answered with 502", False),
        ("nothing", "the proxy did not answer", False),
        ("hangs up", "the proxy closed the connection", False),
        ("no HTTP", "the proxy does not speak HTTP", True),
    ],
)
async def test_a_proxy_that_lets_nobody_through_is_told_by_its_host_and_without_its_password(
    what: int | str, words: str, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with standing(what) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{address}")
        async with client(connect_timeout_s=0.5 if what == "nothing" else 20.0) as (http, _):
            with pytest.raises(httpx2.ConnectError) as told:
                await http.get("https://claude.example/")
    assert str(told.value) == f"{words} ({address})"
    failure = told.value.__cause__
    assert isinstance(failure, ways.ProxyFailed)
    assert (str(failure), failure.lasting) == (words, lasting)


@pytest.mark.parametrize(
    ("url", "words", "lasting"),
    [
        ("http://127.0.0.1:9", "the proxy could not be reached", False),
        ("socks5://127.0.0.1:9", "the proxy's scheme is socks5: only http proxies are spoken to", True),
        ("http://127.0.0.1:port", "the proxy's address is none", True),
        ("http://[::1", "the proxy's address is none", True),
    ],
)
async def test_a_proxy_that_cannot_be_spoken_to_says_so(
    url: str, words: str, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    async with client() as (http, _):
        with pytest.raises(httpx2.ConnectError) as told:
            await http.get("https://claude.example/")
    failure = told.value.__cause__
    assert isinstance(failure, ways.ProxyFailed)
    assert (str(failure), failure.lasting) == (words, lasting)
