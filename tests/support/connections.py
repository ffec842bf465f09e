"""A reader's connection that follows a script, the page behind it, and a store of streams to read from."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry

from app.access.callers import Caller
from app.errors import SluicewayError
from app.money.ledger import Account, Ledger
from app.money.prices import Prices, load_prices
from app.settings.sections import ReplayBounds, StreamBounds
from app.streams.archive import Archive
from app.streams.books import Books
from app.streams.connection import Interrupted
from app.streams.credits import Credits
from app.streams.limiter import Ticket
from app.streams.liveness import Finding
from app.streams.registry import Streams
from app.streams.session import Session
from app.streams.terms import Policy, Terms
from app.telemetry.prometheus import Metrics
from app.wire import WireFormat
from app.wire.plain import PlainFormat
from tests.support.fakes import ScriptedSource, Step
from tests.support.tickets import admitted, unbounded

BOUNDS = StreamBounds(batch_bytes=200, queue_items=8, queue_bytes=1000)
ARCHIVE_OPTIONS = ReplayBounds(replay_bytes=1_000_000, replay_total_bytes=10_000_000, replay_s=300.0)


class FakeConnection:
    """A `Connection` whose other side takes bytes as the script says; what was sent before a cut arrives in part.

    Args:
        sent_id: the last frame that the page has.
        cut_at: the connection breaks once this many bytes were sent.
        stalls_at: drains wait for ever once this many were.
        drain_s: how long a drain takes.
        credits: how far to run ahead of the page.

    Attributes:
        received: what came through.
        over: set when nothing will come any more: released, broken or aborted.
        aborted: `abort` was called.
        handled: what its handler does once it is released.
        finding: what `look` is to find.
        looks: how often it was asked.
    """

    def __init__(
        self,
        sent_id: int = 0,
        *,
        cut_at: int | None = None,
        stalls_at: int | None = None,
        drain_s: float = 0.0,
        credits: Credits | None = None,
    ) -> None:
        self._cut_at = cut_at
        self._stalls_at = stalls_at
        self._drain_s = drain_s
        self._interrupt = asyncio.Event()
        self._busy = False
        self.sent_id = sent_id
        self.credits = credits
        self.committed = self.ended = False
        self.stuck_s = 0.0
        self.received = b""
        self.writes: list[tuple[float, bytes]] = []
        self.over = asyncio.Event()
        self.broken = self.aborted = self.released = False
        self.error: SluicewayError | None = None
        self.handled: Callable[[], None] = lambda: None
        self.finding: Finding | None = None
        self.looks = 0

    async def write(self, data: bytes) -> None:
        assert not self._busy, "one task writes to a connection"
        self._check()
        if self._interrupt.is_set():
            raise Interrupted
        self._busy = True
        try:
            await self._write(data)
        finally:
            self._busy = False

    async def _write(self, data: bytes) -> None:
        self.committed = True
        self.writes.append((asyncio.get_running_loop().time(), data))
        self.received += data
        if self._cut_at is not None and len(self.received) > self._cut_at:
            self.received = self.received[: self._cut_at]
            self.break_off()
        stalled = self._stalls_at is not None and len(self.received) > self._stalls_at
        if self._drain_s or stalled:
            try:
                async with asyncio.timeout(None if stalled else self._drain_s):
                    await self._interrupt.wait()
            except TimeoutError:
                self._check()
            else:
                self._check()
                raise Interrupted
        self._check()

    def _check(self) -> None:
        if self.broken:
            raise ConnectionResetError("the reader is gone")

    def break_off(self) -> None:
        """The other side is gone."""
        self.broken = True
        self._interrupt.set()
        self.over.set()

    def interrupt(self) -> None:
        self._interrupt.set()

    async def write_last(self, data: bytes) -> None:
        assert not self._busy, "one task writes to a connection"
        if self.committed and not self.broken:
            self.received += data

    def look(self, now: float) -> Finding | None:
        self.looks += 1
        return self.finding

    def abort(self) -> None:
        self.aborted = True
        self.break_off()

    def release(self, error: SluicewayError | None) -> None:
        if not self.released:
            self.released, self.error = True, error
            self.over.set()
            handled, self.handled = self.handled, lambda: None  # a handler ends, and forgets its stream
            asyncio.get_running_loop().call_soon(handled)


@dataclass
class Page:
    """What a page puts together of one stream, over all of its connections; holds that no frame comes twice or is missing.

    Attributes:
        last: the last event, without which an end is a lost connection.
    """

    text: str = ""
    last_id: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    def take(self, received: bytes) -> None:
        """All that one connection brought; what a cut left incomplete is dropped, as browsers do."""
        assert b"\r" not in received
        *blocks, _cut = received.decode("utf-8", "replace").split("\n\n")
        for block in blocks:
            while block.startswith(":"):  # signs of life stand before the event that follows them
                block = block.partition("\n")[2]
            assert not self.last, f"something came after the last event: {block}"
            *number, data = block.split("\n")
            event = json.loads(data.removeprefix("data: "))
            if number:
                assert number == [f"id: {self.last_id + 1}"], f"{number} after {self.last_id}"
                self.last_id += 1
            else:
                assert event.get("type") in ("taken_over", "expired"), (
                    "only what is no part of the answer has no number"
                )
            self.text += event.get("text", "")
            if "done" in event or "error" in event:
                self.last = event


@dataclass(frozen=True)
class StreamsUnderTest:
    """All streams, and what is told to count them.

    Attributes:
        accounts: of every session that was started.
    """

    streams: Streams
    archive: Archive
    registry: CollectorRegistry
    accounts: list[Account] = field(default_factory=list)

    def start(
        self,
        steps: Iterable[Step],
        connection: FakeConnection,
        *,
        policy: Policy = Policy.GRACE,
        grace_s: float = 30.0,
        stream_id: str = "st_1",
        caller: str = "c",
        name: str = "",
        wire: WireFormat | None = None,
        ticket: Ticket | None = None,
    ) -> tuple[Session, ScriptedSource]:
        """A stream, of the plain protocol unless it is given another format."""
        source = ScriptedSource(list(steps))
        terms = Terms(stream_id, caller, "claude-opus-4-8", policy, grace_s, f"token of {stream_id}", name)
        session = self.streams.start(
            terms, source, wire or PlainFormat(thinking=False), connection, 64_000, ticket or unbounded()
        )
        self.accounts.append(session.page.account)
        connection.handled = lambda: session.lost(connection)
        return session, source

    async def resume(self, stream_id: str, caller: str, connection: FakeConnection) -> Session | None:
        """A reader comes back, and is handled as on the path for it."""
        session = await self.streams.resume(stream_id, Caller(name=caller), connection, admitted)
        if session is not None:
            connection.handled = lambda: session.lost(connection)
        return session

    def settled(self) -> dict[str, int]:
        """How many streams were settled, by outcome."""
        counted: dict[str, int] = {}
        for metric in self.registry.collect():
            for sample in metric.samples:
                if sample.name == "sluiceway_streams_total" and sample.value:
                    outcome = sample.labels["outcome"]
                    counted[outcome] = counted.get(outcome, 0) + round(sample.value)
        return counted


@cache
def _prices() -> Prices:
    return load_prices()


@asynccontextmanager
async def streams_under_test(
    bounds: StreamBounds = BOUNDS, drain_s: float = 30.0, **archive: Any
) -> AsyncIterator[StreamsUnderTest]:
    """Streams; at the end nothing of them is left, and each was settled once."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, ["claude-opus-4-8"])
    kept = Archive(replace(ARCHIVE_OPTIONS, **archive))
    bounds = replace(bounds, drain_s=drain_s)
    async with Books(Ledger(_prices()), metrics) as books, Streams(books, kept, bounds) as streams:
        opened = StreamsUnderTest(streams, kept, registry)
        yield opened
    assert not streams.live
    assert all(account.settled for account in opened.accounts)
    assert sum(opened.settled().values()) == len(opened.accounts), "settled twice, or never"
    assert registry.get_sample_value("sluiceway_streams_active") == 0
    assert registry.get_sample_value("sluiceway_upstreams_active") == 0


def credits_of(rng: random.Random, page: Page) -> Credits | None:
    """Credits for some connections, small enough to run out."""
    return Credits(rng.randrange(50, 2000), page.last_id) if rng.random() < 0.4 else None
