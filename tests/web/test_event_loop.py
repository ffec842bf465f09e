"""The event loop of a worker ends at once, whatever the resolver does."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from app.web.event_loop import new_event_loop
from tests.support.readers import eventually

pytestmark = pytest.mark.real


class Resolver:
    """Says nothing until it is told to.

    Attributes:
        asked: the names, one for each look-up.
        speak: set when it may answer.
        found, failure: its answer.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.speak = threading.Event()
        self.found: list[object] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))]
        self.failure: Exception | None = None

    def __call__(self, host: str, *_which: object) -> list[object]:
        self.asked.append(host)
        self.speak.wait()
        if self.failure is not None:
            raise self.failure
        return self.found


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    silent = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    yield silent
    silent.speak.set()


def test_it_ends_while_the_resolver_is_silent(resolver: Resolver) -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        asking = [
            asyncio.create_task(loop.getaddrinfo("claude.example", 443)),
            asyncio.create_task(asyncio.open_connection("redis.example", 6379)),
        ]
        await eventually(lambda: len(resolver.asked) == 2)  # its threads have come so far
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(ask())
    assert not resolver.speak.is_set()
    assert sorted(resolver.asked) == ["claude.example", "redis.example"]


def test_who_asks_for_a_name_meanwhile_waits_for_the_same_answer(resolver: Resolver) -> None:
    async def ask() -> list[object]:
        loop = asyncio.get_running_loop()
        asking = [asyncio.create_task(loop.getaddrinfo("claude.example", 443)) for _ in range(3)]
        await asyncio.sleep(0)  # they have asked
        asking[0].cancel()
        resolver.speak.set()
        return await asyncio.gather(*asking, return_exceptions=True)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        left, *found = runner.run(ask())
        assert isinstance(left, asyncio.CancelledError)
        assert found == [resolver.found] * 2
        assert runner.run(ask())[1:] == [resolver.found] * 2, "and later ones ask anew"
    assert len(resolver.asked) == 2


def test_what_the_resolver_says_of_a_failure_is_raised(resolver: Resolver) -> None:
    resolver.failure = socket.gaierror(socket.EAI_AGAIN, "later")
    resolver.speak.set()
    with (
        asyncio.Runner(loop_factory=new_event_loop) as runner,
        pytest.raises(socket.gaierror, match="later"),
    ):
        runner.run(asyncio.open_connection("claude.example", 443))


def test_a_name_is_connected_to(resolver: Resolver) -> None:
    resolver.speak.set()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        resolver.found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        async def connected() -> str:
            _, writer = await asyncio.open_connection("claude.example", port)
            host: str = writer.get_extra_info("peername")[0]
            writer.close()
            return host

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            assert runner.run(connected()) == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_no_question_for_a_thread(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as server, socket.socket(family) as client:
            client.setblocking(False)
            await loop.sock_connect(client, server.getsockname())

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(connect())


def test_whatever_fails_in_a_look_up_is_told_to_who_asked(resolver: Resolver) -> None:
    async def ask() -> None:
        with pytest.raises(OverflowError, match="too large"):
            await asyncio.get_running_loop().getaddrinfo("claude.example", 10**20)

    resolver.failure = OverflowError("Python int too large to convert to C long")
    resolver.speak.set()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(ask())
