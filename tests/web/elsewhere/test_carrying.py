"""What a reader is given of a stream that comes from another process, when, and for how long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from yarl import URL

from app.errors import NotFound
from app.settings.sections import ReaderBounds
from app.web.elsewhere.carrying import ANSWERED, Carrier, Garbled, Place, Reader, TurnedAway, target_of
from app.web.tasks import beside
from app.wire.plain import KEEP_ALIVE
from tests.support.clock import jumping, loop
from tests.support.nginx import free_port

pytestmark = pytest.mark.real

FRAME = b'id: 1\ndata: {"text":"a"}\n\n'


class Taking:
    """A reader who takes all at once; `had` is what."""

    def __init__(self) -> None:
        self.sent_id = 0
        self.ended = False
        self.had: asyncio.Queue[bytes] = asyncio.Queue()

    @property
    def response(self) -> web.StreamResponse:
        raise AssertionError("its head was sent")

    async def write(self, data: bytes) -> None:
        self.had.put_nowait(data)


@pytest.fixture
async def owner() -> AsyncIterator[tuple[Place, asyncio.Queue[bytes]]]:
    """A process that has a stream, and sends of it what is put there; nothing is its end."""
    says: asyncio.Queue[bytes] = asyncio.Queue()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while said := await says.get():
            await response.write(said)
        return response

    app = web.Application()
    app.router.add_get("/api/stream/{id}", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield Place(name="owner", host="127.0.0.1", port=port), says
    await runner.cleanup()


async def test_a_sign_of_life_is_given_at_once_and_an_event_once_it_is_whole(
    owner: tuple[Place, asyncio.Queue[bytes]],
) -> None:
    place, says = owner
    carrier, reader = Carrier(ReaderBounds()), Taking()
    async with beside(carrier.run()):
        request = make_mocked_request("GET", "/api/stream/st_1")
        reading = asyncio.create_task(carrier.read_on(request, "st_1", place, reader))
        says.put_nowait(KEEP_ALIVE)
        assert await reader.had.get() == KEEP_ALIVE
        assert reader.sent_id == 0
        says.put_nowait(FRAME[:9])
        says.put_nowait(FRAME[9:] + KEEP_ALIVE)
        had = await reader.had.get()
        while had != FRAME + KEEP_ALIVE:
            had += await reader.had.get()
        says.put_nowait(b"")
        assert await reading
    assert (reader.sent_id, reader.had.empty()) == (1, True)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
EVENTS = {"Content-Type": "text/event-stream"}


@asynccontextmanager
async def listening(handler: Handler, path: Path) -> AsyncIterator[Place]:
    """A process that answers so at a unix socket, where all that is sent is there at once: a clock that jumps loses none of it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    yield Place(str(path))
    await runner.cleanup()


@pytest.mark.parametrize("endless", [True, False])
def test_a_reader_through_another_process_who_takes_nothing_is_let_go_of_as_at_the_owner(
    tmp_path: Path, endless: bool
) -> None:
    """Also once the stream has ended there, and while another one who reads on is kept."""
    bounds = ReaderBounds()

    async def owner(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        while endless:
            await response.write(FRAME * 100)
        await response.write(FRAME * 30_000)
        return response

    async def scene() -> None:
        relayed: list[int] = []
        carrier = Carrier(bounds, relayed.append)
        over = asyncio.Event()

        async def relay(request: web.Request) -> web.StreamResponse:
            try:
                answer = await carrier.pass_on(request, place)
                assert isinstance(answer, web.StreamResponse)
                return answer
            finally:
                over.set()

        async with AsyncExitStack() as stack:
            place = await stack.enter_async_context(listening(owner, tmp_path / "owner"))
            await stack.enter_async_context(listening(relay, tmp_path / "relay"))
            await stack.enter_async_context(beside(carrier.run()))
            reader = stack.enter_context(socket.socket(socket.AF_UNIX))
            reader.connect(str(tmp_path / "relay"))
            reader.sendall(b"GET /api/stream/st_1 HTTP/1.1\r\nHost: x\r\n\r\n")
            reader.setblocking(False)
            for _ in range(5):  # who takes a little, now and then, has all the time that he wants
                await asyncio.sleep(bounds.stall_timeout_s - 5)
                assert reader.recv(65_536)
            assert (over.is_set(), relayed) == (False, [1])
            began = loop().time()
            async with asyncio.timeout(3 * bounds.stall_timeout_s):
                await over.wait()
            assert loop().time() - began == pytest.approx(bounds.stall_timeout_s, abs=2)
            assert relayed == [1, -1]

    jumping(scene)()


@dataclass(frozen=True)
class Said:
    """What another process of the fleet answers."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b"{}"


@dataclass(frozen=True)
class Given:
    """What comes of it: a status and a body, the kind of error, or the last frame before a stream broke off."""

    status: int
    body: bytes = b"{}"
    error: str = ""
    broke_off_at: int | None = None


async def given(path: Path, *answers: Said) -> list[Given]:
    """What the process that passes requests on gives its readers, when another one says each of these."""
    says, errors, broke = iter(answers), [""], list[int]()

    async def owner(_request: web.Request) -> web.StreamResponse:
        said = next(says)
        return web.Response(status=said.status, headers=said.headers, body=said.body)

    async def broke_off(reader: Reader) -> None:
        broke.append(reader.sent_id)

    async def relay(request: web.Request) -> web.StreamResponse:
        try:
            reply = await carrier.pass_on(request, Place(place.path, name="owner"), broke_off)
        except (TurnedAway, Garbled) as error:
            errors.append(type(error).__name__)
            return web.Response(status=599)
        assert not isinstance(reply, NotFound)
        return reply

    async def ask() -> Given:
        del errors[1:], broke[:]
        reading, writing = await asyncio.open_unix_connection(str(path / "relay"))
        writing.write(b"GET /api/stream/st_1 HTTP/1.0\r\nHost: x\r\n\r\n")
        head, _, said = (await reading.read()).partition(b"\r\n\r\n")
        writing.close()
        assert ANSWERED.encode() not in head
        return Given(int(head.split()[1]), said, errors[-1], broke[0] if broke else None)

    carrier = Carrier(ReaderBounds())
    async with listening(owner, path / "owner") as place, listening(relay, path / "relay"), beside(carrier.run()):
        return [await ask() for _ in answers]


def test_what_a_process_says_to_any_connection_is_no_word_of_a_streams(tmp_path: Path) -> None:
    own, either = (500, 502, 503, 504, 529), (200, 400, 401, 403, 409, 410, 429)
    passed = [Said(status, {ANSWERED: "1"}) for status in own + either]
    passed += [Said(status, {}) for status in either]  # as a process of an older version, which marks nothing
    refused = [Said(status, {}) for status in (503, 500, 408, 431)]
    assert jumping(given)(tmp_path, *passed, *refused) == [
        *(Given(said.status) for said in passed),
        *(Given(599, b"", "TurnedAway") for _ in refused),
    ]


def test_what_is_no_stream_is_taken_in_up_to_what_an_answer_can_be(tmp_path: Path) -> None:
    bodies = [b"x" * size_bytes for size_bytes in (65_536, 65_537, 10_000_000)]
    assert jumping(given)(tmp_path, *(Said(200, {}, body) for body in bodies)) == [
        Given(200, bodies[0]),
        *[Given(599, b"", "Garbled")] * 2,
    ]


def test_a_stream_whose_numbers_are_none_breaks_off_before_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = ("abc", "", "-1", "1e3", "\u0661", "9" * 5000)
    streams = [Said(200, EVENTS, b"id: %b\ndata: {}\n\n" % number.encode()) for number in numbers]
    assert jumping(given)(tmp_path, *streams) == [Given(200, b"", broke_off_at=0)] * len(numbers)
    assert caplog.text.count("is no stream: an event has an id that is no number") == len(numbers)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/api/stream/st_1", "/api/stream/st_1"),
        ("//api/stream/st_1/stop", "/api/stream/st_1/stop"),
        ("///api//stream/st_1//gauges?credits=1&x=//", "/api/stream/st_1/gauges?credits=1&x=//"),
        ("/api/chat/a%2F%2Fb/stream#there", "/api/chat/a%2F%2Fb/stream"),
    ],
)
def test_a_request_is_passed_on_by_a_path_that_everybody_reads_alike(asked: str, target: str) -> None:
    path, _, fragment = asked.partition("#")
    path, _, query = path.partition("?")
    asked_for = make_mocked_request("GET", "/").clone(
        rel_url=URL.build(path=path, query_string=query, fragment=fragment, encoded=True)
    )
    assert target_of(asked_for) == target
