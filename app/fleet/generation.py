"""The workers that serve at one time: one at each place, replaced when it dies, until a newer generation has their places."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence

from .children import Child, Pauses, ending
from .tie import Message

log = logging.getLogger(__name__)

# One that is not ready after this long, in seconds, is given up: a start takes one or two.
_START_S = 120.0


class Worker:
    """One process.

    Args:
        child: the process.
        number: its own, as long as it lives.
        silence_s: it is taken for hung after such a silence, in seconds; 0 for never.
    """

    def __init__(self, child: Child, number: int, silence_s: float = 0.0) -> None:
        self.child = child
        self.number = number
        self._silence_s = silence_s
        self._begun = False
        self._waiting: list[tuple[Message, Sequence[socket.socket]]] = []  # what it is to hear once it has begun

    async def says(self, what: str) -> Message | None:
        """Waits for the message of this kind; None if it ended before that, or was ended because none came. Cancelling is safe."""
        try:
            async with asyncio.timeout(_START_S):
                while (message := await self.child.tie.hear()) is not None:
                    if what in message:
                        return message
        except TimeoutError:
            log.error("worker %d was not ready within %g s, and is ended", self.number, _START_S)
            self.child.tell(signal.SIGKILL)
        return None

    def tell(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Tells it something, once it has begun."""
        if self._begun:
            self.child.tie.tell(message, sockets)
        else:
            self._waiting.append((message, sockets))

    async def serve(self) -> int:
        """Lets it begin; its exit status once it has ended. One that hangs is ended."""
        self._begun = True
        for message, sockets in [({"begin": True}, ()), *self._waiting]:
            self.child.tie.tell(message, sockets)
        try:
            while True:
                async with asyncio.timeout(self._silence_s or None):
                    if await self.child.tie.hear() is None:
                        break
        except TimeoutError:
            log.error("worker %d has hung for %g s, and is ended", self.number, self._silence_s)
            self.child.tell(signal.SIGKILL)
        return await self.child.wait()


class Generation:
    """All of them.

    Args:
        count: how many there are to be.
        start: starts the one at this place; None where it could not be started, or ended at once.
        over: called with each that has ended.

    Attributes:
        running: by place.
        decided: set when all of them were ready once, or when that is not to be any more.
        begun: set when they may serve.
        ending: set when none is replaced any more.
        failed: one of them could not start.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[int], Awaitable[Worker | None]],
        over: Callable[[Worker], object] = lambda _: None,
    ) -> None:
        self._count = count
        self._start = start
        self._over = over
        self._ready: set[int] = set()
        self.running: dict[int, Worker] = {}
        self.decided = asyncio.Event()
        self.begun = asyncio.Event()
        self.ending = asyncio.Event()
        self.failed = False

    def end(self, number: signal.Signals | None = None) -> None:
        """None is replaced any more; all are told by this signal, if one is given."""
        self.ending.set()
        self.decided.set()
        for worker in self.running.values():
            if number is not None:
                worker.child.tell(number)

    def leave(self) -> None:
        """Others have their places: they serve what they have to its end, and take nothing new."""
        self.ending.set()
        for place, worker in self.running.items():
            if place in self._ready:
                worker.tell({"leave": True})
            else:
                worker.child.tell(signal.SIGTERM)

    async def keep(self, place: int, first: Worker | None = None) -> None:
        """Keeps the worker at this place running until all are to end.

        Args:
            place: which.
            first: it, where it has been started already.
        """
        loop = asyncio.get_running_loop()
        pauses = Pauses()
        while not self.ending.is_set():
            began = loop.time()
            worker, first = first or await self._start(place), None
            status = await self._run(place, worker) if worker is not None else 1
            if self.ending.is_set():
                return
            if not self.decided.is_set():  # the worker has said why it could not start, unless it was killed
                if status < 0:
                    log.error("worker %d %s before it served", place, ending(status))
                self.failed = True
                self.end(signal.SIGTERM)
                return
            pause_s = pauses.after(loop.time() - began)
            log.error("worker %d %s; another one starts in %.1f s", place, ending(status), pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self.ending.wait()
            except TimeoutError:
                continue

    async def _run(self, place: int, worker: Worker) -> int:
        """Runs one to its end; its exit status."""
        self.running[place] = worker
        try:
            if self.ending.is_set():  # that came while it was being started
                worker.child.tell(signal.SIGTERM)
            if await worker.says("ready") is None:
                return await worker.child.wait()
            self._ready.add(place)
            if len(self._ready) == self._count:
                self.decided.set()
            await self.begun.wait()
            return await worker.serve()
        finally:
            worker.child.tie.close()
            self._ready.discard(place)
            del self.running[place]
            self._over(worker)
