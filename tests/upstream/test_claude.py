"""The upstream edge against a real peer: pausing, deadlines, aborts, what they salvage, and connections used again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.answer.events import ClaudeEvent, Delta
from app.errors import SluicewayError, UpstreamCut, UpstreamGarbled, UpstreamRefused, UpstreamTimeout
from app.settings.sections import UpstreamOptions
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.upstream.answer import Answer
from app.upstream.claude import Claude
from tests.conftest import ROOT
from tests.support.process import worker_of
from tests.support.readers import AT_ONCE_S, Reader, eventually, sockets, steady

pytestmark = pytest.mark.real

MakeClaude = Callable[..., Claude]


@pytest.fixture
async def claude_for(simulator: Simulator) -> AsyncIterator[MakeClaude]:
    """Makes the upstream edge, in front of the simulator, with options by keyword; closes it at the test's end."""
    made: list[Claude] = []

    def make(**given: Any) -> Claude:
        options: dict[str, Any] = {
            "receive_buffer_bytes": 8192,
            "connect_timeout_s": 5.0,
            "idle_timeout_s": 5.0,
            "progress_timeout_s": 5.0,
            "retries": 0,
            "retry_after_max_s": 1.0,
        }
        retried = given.pop("on_retry", lambda: None)
        window_s, base_url = given.pop("window_s", 0.02), given.pop("base_url", simulator.url)
        made.append(Claude(UpstreamOptions(**options | given), window_s, "k", base_url, retried))
        return made[-1]

    yield make
    for claude in made:
        await claude.close()


def ask(claude: Claude, directive: str) -> Answer:
    messages = [{"role": "user", "content": f"{{{{{directive}}}}}"}]
    return claude.ask({"model": "m", "max_tokens": 1_000_000, "messages": messages})


def text_of(events: list[ClaudeEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.kind == "text")


def transcript_of(text: str) -> list[bytes]:
    """The events of an answer of this text, a delta a word, as they come on the wire."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    deltas = [{"type": "text_delta", "text": word} for word in re.findall(r"^\S+|\s\S+", text)]
    events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    events.append({"type": "content_block_stop", "index": 0})
    events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}})
    events.append({"type": "message_stop"})
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


async def read_all(answer: Answer) -> list[ClaudeEvent]:
    events: list[ClaudeEvent] = []
    while more := await answer.read():
        events += more
    return events


async def read_whole(answer: Answer) -> str:
    await answer.open()
    text = text_of(await read_all(answer))
    await answer.close()
    return text


# --- pressure ----------------------------------------------------------------------------------------------------------


async def test_an_answer_that_nobody_reads_holds_claude_still(claude_for: MakeClaude, simulator: Simulator) -> None:
    answer = ask(claude_for(), "tokens=100000 text=numbered")
    await answer.open()
    book = simulator.books[0]
    await book.is_blocked.wait()
    made = await steady(lambda: book.tokens)

    print(f"{made} tokens made for nobody")
    assert made <= 1500  # of 100,000
    await answer.close()


@pytest.mark.parametrize("window_s", [0.0, 0.02, 0.2])
async def test_pacing_loses_nothing(window_s: float, claude_for: MakeClaude) -> None:
    answer = ask(claude_for(window_s=window_s), "tokens=3000 text=numbered tokens_per_delta=1-5")
    await answer.open()
    events = await read_all(answer)
    await answer.close()

    assert text_of(events) == numbered_text(3000)


def chunked(events: list[bytes]) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in events]


@asynccontextmanager
async def sending() -> AsyncIterator[tuple[str, Callable[[bytes], None]]]:
    """A peer that answers one request with what it is given, piece by piece: its URL, and what gives it a piece."""
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while piece := await pieces.get():
            writer.write(piece)
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", pieces.put_nowait
        pieces.put_nowait(b"")
        await closed.wait()


@pytest.mark.parametrize("seed", range(3))
async def test_chunks_cut_anywhere_lose_nothing(claude_for: MakeClaude, seed: int) -> None:
    dice = random.Random(seed)
    chunks = chunked(transcript_of(numbered_text(300)))
    async with sending() as (url, send):
        answer = ask(claude_for(base_url=url, window_s=0.01), "")
        reading = asyncio.create_task(read_whole(answer))
        while chunks:
            piece = b"".join(chunks[: (some := dice.randint(1, 8))])
            del chunks[:some]
            cut = dice.choice([0, 1, 2, len(piece) - 1, dice.randrange(len(piece))])
            for part in filter(None, (piece[:cut], piece[cut:])):
                send(part)
                await asyncio.sleep(dice.choice([0, 0.012]))  # within a rest, or beyond it
        send(b"0\r\n\r\n")
        assert await reading == numbered_text(300)


async def test_what_looks_like_a_chunk_within_one_is_none(claude_for: MakeClaude) -> None:
    """Whole chunks pass by aiohttp's parser, other pieces do not: it must go on just where the body stands."""
    events = transcript_of(numbered_text(30))
    inner = chunked([events[21] + events[22]])[0]  # as an event stream: an unknown field, two events, an empty line
    outer = b"%x\r\n%b" % (len(events[20] + inner + events[23]), events[20])
    pieces = [*chunked(events[:20]), outer, inner]
    rest = [b"-" + events[23] + b"\r\n", *chunked(events[24:]), b"0\r\n\r\n"]
    pieces += [former[1:] + latter[:1] for former, latter in pairwise(rest)]  # none of them whole chunks
    pieces[-1] += rest[-1][1:]
    async with sending() as (url, send):
        answer = ask(claude_for(base_url=url), "")
        send(pieces[0])
        await answer.open()
        found = await answer.read()
        for piece in pieces[1:]:
            send(piece)  # comes while the socket rests, and is all that comes
            found += await answer.read()
        await answer.close()
    assert text_of(found) == numbered_text(30)


async def test_deadlines_do_not_run_while_the_reader_holds_the_stream(claude_for: MakeClaude) -> None:
    answer = ask(claude_for(idle_timeout_s=0.5, progress_timeout_s=0.6), "tokens=5000 text=numbered")
    await answer.open()
    events: list[ClaudeEvent] = []
    for _ in range(3):
        await asyncio.sleep(1)
        events += await answer.read()
    events += await read_all(answer)
    await answer.close()

    assert text_of(events) == numbered_text(5000)


@pytest.mark.parametrize(
    ("directive", "error"),
    [
        ("tokens=9 fault=silence after=3", UpstreamTimeout),
        ("tokens=9 fault=ping_only after=3 pings_s=0.05", UpstreamTimeout),
        ("tokens=9 fault=cut after=3", UpstreamCut),
        ("tokens=9 fault=cut_fin after=3", UpstreamCut),
        ("tokens=9 fault=no_message_stop after=3", UpstreamCut),
        ("tokens=900 fault=garbage after=800", UpstreamGarbled),
        ("tokens=9 fault=overloaded after=3", UpstreamRefused),
        ("fault=html", UpstreamGarbled),
        ("ttft_s=60", UpstreamTimeout),
    ],
)
async def test_each_failure_is_typed_and_leaves_no_socket(
    directive: str, error: type[SluicewayError], claude_for: MakeClaude, simulator: Simulator
) -> None:
    claude = claude_for(idle_timeout_s=0.8, progress_timeout_s=1.0)
    held = sockets()
    answer = ask(claude, directive)

    async def whole() -> None:
        await answer.open()
        await read_all(answer)

    began = time.monotonic()
    with pytest.raises(error):
        await whole()
    assert time.monotonic() - began < 10
    await answer.close()
    await simulator.books[0].ended.wait()
    # A response that HTTP calls whole leaves its connection, both ends of it here, to the next request.
    await eventually(lambda: sockets() - held in (0, 2))


# --- retries -----------------------------------------------------------------------------------------------------------


async def test_every_request_sent_again_is_counted(claude_for: MakeClaude, simulator: Simulator) -> None:
    retried: list[float] = []
    claude = claude_for(retries=3, backoff_s=0.02, on_retry=lambda: retried.append(time.monotonic()))
    answer = ask(claude, "tokens=5 text=numbered fault=http_529 fault_times=2")
    await answer.open()
    events = await read_all(answer)
    await answer.close()

    assert text_of(events) == numbered_text(5)
    assert len(retried) == 2
    assert [book.status for book in simulator.books] == [529, 529, 200]


async def test_a_retry_after_is_obeyed_within_its_bound(claude_for: MakeClaude, simulator: Simulator) -> None:
    answer = ask(
        claude_for(retries=1, retry_after_max_s=0.5), "tokens=1 fault=http_429 retry_after_s=0.4 fault_times=1"
    )
    await answer.open()
    await answer.close()

    first, second = simulator.books
    assert 0.4 <= second.started_at - first.started_at < 0.4 + AT_ONCE_S


# --- closing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window_s", [0.0, 0.05])
async def test_an_abort_still_counts_what_had_arrived(
    window_s: float, claude_for: MakeClaude, simulator: Simulator
) -> None:
    """All of it is in our socket, unread: it was made, and it is paid for."""
    answer = ask(claude_for(window_s=window_s), "tokens=30 text=numbered rate=2000 fault=silence after=30")
    await answer.open()
    book = simulator.books[0]
    await eventually(lambda: book.tokens == 30)
    first = [] if window_s else await answer.read()
    salvaged = await answer.close()
    await book.ended.wait()

    assert text_of(first + salvaged) == numbered_text(30)
    assert book.gone_at is not None


async def test_closing_twice_gives_nothing_twice(claude_for: MakeClaude) -> None:
    answer = ask(claude_for(), "tokens=5 fault=silence after=5")
    await answer.open()
    assert await answer.close()

    assert await answer.close() == []


async def test_closing_before_opening_is_nothing(claude_for: MakeClaude, simulator: Simulator) -> None:
    assert await ask(claude_for(), "tokens=5").close() == []
    assert not simulator.books


@pytest.mark.parametrize("directive", ["ttft_s=60", "first_event_s=60", "tokens=9 fault=silence after=3", "rate=5"])
async def test_cancelled_at_any_point_it_closes_at_once(
    directive: str, claude_for: MakeClaude, simulator: Simulator
) -> None:
    claude = claude_for(idle_timeout_s=60)
    held = sockets()
    answer = ask(claude, directive)

    async def whole() -> None:
        try:
            await answer.open()
            await read_all(answer)
        finally:
            await answer.close()

    task = asyncio.create_task(whole())
    book = await simulator.book()
    await eventually(lambda: book.status == 200 or directive == "ttft_s=60")
    await asyncio.sleep(0.05)  # into the wait for the next byte
    task.cancel()
    cancelled_at = time.time()
    with pytest.raises(asyncio.CancelledError):
        await task
    await book.ended.wait()

    assert book.gone_at is not None
    assert book.gone_at - cancelled_at < AT_ONCE_S
    await eventually(lambda: sockets() == held)


async def test_whole_answers_share_one_connection(claude_for: MakeClaude, simulator: Simulator) -> None:
    claude = claude_for()
    held = sockets()
    for tokens in (3, 500, 1, 50):
        answer = ask(claude, f"tokens={tokens} text=numbered")
        await answer.open()
        assert text_of(await read_all(answer)) == numbered_text(tokens)
        await answer.close()

        assert sockets() == held + 2  # both ends of one connection are in this process


async def test_a_connection_that_was_paused_works_for_the_next_answer(
    claude_for: MakeClaude, simulator: Simulator
) -> None:
    """The read that brought the end was followed by a pause; the next request must not inherit it."""
    claude = claude_for(window_s=0.5)
    for _ in range(5):
        answer = ask(claude, "tokens=40 text=numbered")
        async with asyncio.timeout(20):
            await answer.open()
            assert text_of(await read_all(answer)) == numbered_text(40)
            await answer.close()


# --- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key in one file, made for this run."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", str(path.with_suffix(".key")), "-out", str(path),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_START = b'event: message_start\ndata: {"type":"message_start","message":{"model":"m","usage":{"output_tokens":1}}}\n\n'
_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"0123456789"}}\n\n'
)


class TlsPeer:
    """Claude's side under TLS: begins an answer, then freezes, or goes on as fast as it is read."""

    def __init__(self, certificate: Path, *, freeze: bool) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self._freeze = freeze
        self._writers: list[asyncio.StreamWriter] = []
        self.begun = asyncio.Event()
        self.sent_bytes = 0
        self.port = 0

    async def __aenter__(self) -> TlsPeer:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        self._server = await asyncio.start_server(self._serve, sock=listener, ssl=self._context)
        self.port = listener.getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.transport.set_write_buffer_limits(high=16_384)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD + b"%x\r\n%b\r\n" % (len(_START + _DELTA), _START + _DELTA))
        await writer.drain()
        if self._freeze:
            # Reads no more: no close_notify is ever answered, and no FIN seen.
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            self.begun.set()
            return
        self.begun.set()
        try:
            while True:
                writer.write(b"%x\r\n%b\r\n" % (len(_DELTA), _DELTA))
                await writer.drain()
                self.sent_bytes += len(_DELTA)
                await asyncio.sleep(0)
        except ConnectionError:
            writer.close()


async def started(certificate: Path, port: int) -> tuple[asyncio.subprocess.Process, str]:
    """The service as a process, as in production, in front of the peer; with its URL."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICEWAY_", "ANTHROPIC_"))}
    environ |= {
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": f"https://localhost:{port}",
        "SSL_CERT_FILE": str(certificate),
        "SLUICEWAY_MAX_LAG_S": "60",
        "SLUICEWAY_WARM_CONNECTIONS": "0",  # sockets are counted
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "serve", "--port", "0", "--admin-port", "0"),
        cwd=ROOT,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    return process, line.split(" on ")[1].split(" ")[0]


async def stopped(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.communicate()


async def test_an_abort_under_tls_does_not_wait_for_a_frozen_peer(certificate: Path) -> None:
    """A closing handshake would wait 30 s for an answer that never comes."""
    async with TlsPeer(certificate, freeze=True) as peer:
        process, url = await started(certificate, peer.port)
        try:
            worker = worker_of(process.pid)
            held = sockets(worker)
            reader = await Reader.connect(url)
            await reader.ask("")
            assert await reader.head() == 200
            await reader.until(b"0123456789")
            assert sockets(worker) > held
            reader.leave()
            left_at = time.monotonic()
            await eventually(lambda: sockets(worker) <= held, 10)
            print(f"both connections gone {time.monotonic() - left_at:.3f} s after the reader left")
        finally:
            await stopped(process)


async def test_a_stalled_reader_holds_claude_still_under_tls_too(certificate: Path) -> None:
    async with TlsPeer(certificate, freeze=False) as peer:
        process, url = await started(certificate, peer.port)
        try:
            reader = await Reader.connect(url, rcvbuf_bytes=4096)
            await reader.ask("")
            assert await reader.head() == 200
            await reader.until(b"0123456789")
            sent = await steady(lambda: peer.sent_bytes)
            print(f"{sent} bytes sent by a TLS peer before it stood still")
            assert 0 < sent < 1_200_000
            before = peer.sent_bytes
            while peer.sent_bytes < before + 100_000:
                await reader.some()
            reader.leave()
        finally:
            await stopped(process)


async def test_the_operators_words_win_over_the_services_own_and_not_over_a_clients(
    claude_for: MakeClaude, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "ANTHROPIC_CUSTOM_HEADERS", "Anthropic-Version: 2023-06-01\nUser-Agent: house\nAccept: text/plain"
    )
    claude = claude_for()
    own = claude.headers_up(claude.own_headers)
    assert [own[name] for name in ("anthropic-version", "user-agent", "accept")] == [
        "2023-06-01",
        "house",
        "application/json",
    ]
    clients = claude.headers_up({"anthropic-version": "2026-01-01", "user-agent": "curl/9"})
    assert [clients[name] for name in ("anthropic-version", "user-agent")] == ["2026-01-01", "curl/9"]
