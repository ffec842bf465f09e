"""The two ends of a relay, played by a script: a Claude that says what it is told to, a reader that can stall."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from app.answer.events import ClaudeEvent, Delta, Event
from app.errors import SluicewayError

# One step of a scripted source: events of one read, a wait in seconds, a wait for an event, or a failure.
Step = Sequence[ClaudeEvent] | float | asyncio.Event | Exception


def text(characters: str, index: int = 0, count: int = 1) -> Delta:
    return Delta(index, "text", characters, count)


def event(type: str, size_bytes: int = 0) -> Event:
    """An event with a payload of `size_bytes`, or as short as it can be."""
    bare = b'{"type":"%b","x":""}' % type.encode()
    filler = "x" * max(0, size_bytes - len(bare))
    return Event(type, b'{"type":"%b","x":"%b"}' % (type.encode(), filler.encode()), {"type": type, "x": filler})


def joined(events: Sequence[ClaudeEvent]) -> list[tuple[int, str, str] | bytes]:
    """What events mean, however deltas were joined: neighbours of one block and kind as one, the others' payloads.

    What came within another event has no payload, and is passed over.
    """
    meaning: list[tuple[int, str, str] | bytes] = []
    for item in events:
        if isinstance(item, Event) or item.raw is not None:
            meaning += [item.raw] if item.raw else []
            continue
        last = meaning[-1] if meaning else None
        if isinstance(last, tuple) and last[:2] == (item.index, item.kind):
            meaning[-1] = (item.index, item.kind, last[2] + item.text)
        else:
            meaning.append((item.index, item.kind, item.text))
    # Halves of a surrogate pair that two deltas brought apart are one character once together.
    return [part if isinstance(part, bytes) else (part[0], part[1], paired(part[2])) for part in meaning]


def paired(characters: str) -> str:
    return characters.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class ScriptedSource:
    """A `Source` that follows a script.

    Args:
        steps: what `read` goes through; at a list it returns, so that each list is one read. Nothing more: the end.
        opening: what `open` goes through first.
        unread: what `close` hands over, as a socket would that was closed with something in it.

    Attributes:
        opened: `open` returned.
        closed: `close` was called.
        given: every event handed over so far.
        reads: how often `read` was called.
    """

    def __init__(
        self, steps: Sequence[Step], *, opening: Sequence[Step] = (), unread: Sequence[ClaudeEvent] = ()
    ) -> None:
        self._steps = list(steps)
        self._opening = list(opening)
        self._unread = list(unread)
        self.request_id: str | None = None
        self.opened = False
        self.closed = False
        self.reads = 0
        self.given: list[ClaudeEvent] = []

    async def open(self) -> None:
        await _play(self._opening)
        self.opened = True

    async def read(self) -> list[ClaudeEvent]:
        self.reads += 1
        events = await _play(self._steps)
        self.given += events
        return events

    async def close(self) -> list[ClaudeEvent]:
        if self.closed:
            return []
        self.closed = True
        left, self._unread = self._unread, []
        self.given += left
        return left


async def _play(steps: list[Step]) -> list[ClaudeEvent]:
    while steps:
        step = steps.pop(0)
        if isinstance(step, Sequence):
            return list(step)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, asyncio.Event):
            await step.wait()
        else:
            await asyncio.sleep(step)
    return []


class ScriptedReader:
    """A `Reader` whose connection takes so many bytes and then stalls, or breaks.

    A batch counts with its text, any other event with its payload, a sign of life with one byte.

    Args:
        stalls_at: takes this many bytes, then nothing until `resume`.
        breaks_at: takes this many bytes, then the connection is gone.
        drain_s: every send takes this long.

    Attributes:
        stalled: set while a write waits.
        batches: what was sent whole, with the time at which the send began.
        signs: when signs of life were sent.
        taken_bytes: accepted so far.
        finished: the last events told; more than one is an error of the sender.
    """

    def __init__(self, *, stalls_at: int | None = None, breaks_at: int | None = None, drain_s: float = 0.0) -> None:
        self._stalls_at = stalls_at
        self._breaks_at = breaks_at
        self._drain_s = drain_s
        self._resumed = asyncio.Event()
        self._writers = 0
        self.stalled = asyncio.Event()
        self.committed = False
        self.batches: list[tuple[float, list[ClaudeEvent]]] = []
        self.signs: list[float] = []
        self.taken_bytes = 0
        self.finished: list[SluicewayError | None] = []
        self.on_send: Callable[[], None] = lambda: None

    @property
    def events(self) -> list[ClaudeEvent]:
        return [event for _, batch in self.batches for event in batch]

    async def send(self, events: list[ClaudeEvent]) -> None:
        assert events, "an empty batch is no batch"
        began = asyncio.get_running_loop().time()
        self.on_send()
        await self._take(sum(event.text_bytes if isinstance(event, Delta) else len(event.raw) for event in events))
        self.batches.append((began, events))

    async def keep_alive(self) -> None:
        began = asyncio.get_running_loop().time()
        await self._take(1)
        self.signs.append(began)

    async def finish(self, error: SluicewayError | None) -> None:
        await self._take(1)
        self.finished.append(error)

    def resume(self) -> None:
        """The reader goes on, and does not stall again."""
        self._stalls_at = None
        self._resumed.set()

    async def _take(self, size_bytes: int) -> None:
        assert not self._writers, "one task writes to a connection"
        assert not self.finished, "nothing comes after the last event"
        self._writers += 1
        try:
            self.committed = True
            await asyncio.sleep(self._drain_s)
            wanted = self.taken_bytes + size_bytes
            if self._breaks_at is not None and wanted > self._breaks_at:
                self.taken_bytes = self._breaks_at
                raise ConnectionResetError("the reader is gone")
            if self._stalls_at is not None and wanted > self._stalls_at:
                self.taken_bytes = self._stalls_at
                self.stalled.set()
                await self._resumed.wait()
                self.stalled.clear()
            self.taken_bytes = wanted
        finally:
            self._writers -= 1
