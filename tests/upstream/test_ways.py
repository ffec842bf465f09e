"""Which way a request takes: what a name's addresses are, whoever is away, and which hosts need no proxy."""

from __future__ import annotations

import asyncio
import socket

import httpx2
import pytest

from app.upstream import ways
from app.upstream.pool import Pool
from app.upstream.ways import ADDRESSES_S, way_to
from app.upstream.window import Window
from tests.support.raw_upstream import CLOSE, RawUpstream, raw_upstream, response

pytestmark = pytest.mark.real

ONCE = (response(b"fine", connection="close"), CLOSE)


class Resolver:
    """Answers as it is told: addresses at once, a failure, or nothing at all.

    Attributes:
        answers: the addresses it gives; None for no answer.
        asked: how often.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[str] | OSError | None = []
        self.asked = 0
        self.cancelled = 0
        loop = asyncio.get_running_loop()
        self._now, self._later_s = loop.time, 0.0
        monkeypatch.setattr(ways, "_RESOLVER_S", 0.05)
        monkeypatch.setattr(type(loop), "getaddrinfo", lambda _loop, host, port, **_how: self._answer(port))
        monkeypatch.setattr(type(loop), "time", lambda _loop: self._now() + self._later_s)

    def later(self, seconds: float) -> None:
        """Lets time pass."""
        self._later_s += seconds

    async def _answer(self, port: int) -> list[object]:
        self.asked += 1
        if self.answers is None:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        if isinstance(self.answers, OSError):
            raise self.answers
        assert self.answers is not None
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.answers]


async def get(pool: Pool, upstream: RawUpstream) -> str:
    port = upstream.url.rpartition(":")[2]
    answer = await pool.handle_async_request(httpx2.Request("GET", f"http://claude.example:{port}"))
    return (await answer.aread()).decode()


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return Resolver(monkeypatch)


@pytest.mark.parametrize("away", [None, socket.gaierror("away")], ids=["silent", "failing"])
async def test_while_the_resolver_is_away_the_old_addresses_serve(away: OSError | None, resolver: Resolver) -> None:
    async with raw_upstream(ONCE) as upstream:
        pool = Pool(Window(8192), connect_timeout_s=5.0)
        resolver.answers = ["127.0.0.1"]
        assert await get(pool, upstream) == "fine"
        resolver.later(ADDRESSES_S + 1)
        resolver.answers = away
        asked = [get(pool, upstream) for _ in range(5)]
        assert await asyncio.gather(*asked) == ["fine"] * 5
        assert resolver.asked == 2, "one look-up for all who need it"
        await pool.aclose()
    assert resolver.cancelled == (1 if away is None else 0), "and nothing of it is left"


async def test_a_name_that_moved_is_looked_up_anew(resolver: Resolver) -> None:
    async with raw_upstream(ONCE) as upstream:
        pool = Pool(Window(8192), connect_timeout_s=5.0)
        resolver.answers = ["127.0.0.9"]
        with pytest.raises(httpx2.ConnectError):
            await get(pool, upstream)
        resolver.answers = ["127.0.0.1"]
        assert await get(pool, upstream) == "fine"
        assert await get(pool, upstream) == "fine"
        assert resolver.asked == 2
        await pool.aclose()


async def test_a_name_that_dns_cannot_have_is_no_connection() -> None:
    pool = Pool(Window(8192), connect_timeout_s=5.0)
    with pytest.raises(httpx2.ConnectError) as told:
        await pool.handle_async_request(httpx2.Request("GET", f"http://{'a' * 70}.example"))
    assert isinstance(told.value.__cause__, socket.gaierror)
    await pool.aclose()


@pytest.mark.parametrize(
    ("host", "names", "straight"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "localhost, 10.1.2.3/8 ,x", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::1", "[::1]", True),
        ("fd00::7", "fc00::/7", True),
        ("::1", "0.0.0.0/0", False),
        ("claude.example", "0.0.0.0/0", False),
        ("claude.example", ".example", True),
    ],
)
def test_networks_and_brackets_in_no_proxy_are_understood(
    host: str, names: str, straight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", names)
    assert (way_to(True, host, 443).proxy is None) == straight
