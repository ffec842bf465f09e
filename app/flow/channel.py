"""The bounded queue between producer and consumer: `asyncio.Queue`, bounded in bytes as well as in items."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..answer.events import End, Item


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What a channel holds and has seen.

    Attributes:
        items, size_bytes: held now.
        peak_items, peak_bytes: the most that was held at once.
        pauses: how often the producer had to wait for room.
        paused_s: seconds that it waited, up to now.
    """

    items: int
    size_bytes: int
    peak_items: int
    peak_bytes: int
    pauses: int
    paused_s: float


# A deadline this near, in seconds, has come: uvloop counts whole milliseconds and rounds a timer to the nearest, so that one
# which was set anew for the rest would fire again and again, at once each time, until the millisecond is over.
_COME_S = 0.001


class Channel(asyncio.Queue[Item]):
    """A queue for one producer and one consumer that is full by items or by bytes, whichever comes first.

    An item larger than the whole bound passes when the channel is empty: alone, or it would wait for ever.

    Args:
        max_items: the most items held (at least 1).
        max_bytes: the most bytes held, by the items' own `size_bytes` (at least 1).
        on_pause: told, after each time that the producer waited for room, how many seconds it did.
    """

    def __init__(self, max_items: int, max_bytes: int, on_pause: Callable[[float], None] = lambda _s: None) -> None:
        super().__init__(max_items)
        self._loop = asyncio.get_running_loop()  # asked for once: in Python 3.11 each time is a system call
        self._on_pause = on_pause
        self.max_bytes = max_bytes
        self._size_bytes = 0
        self._incoming_bytes = 0  # size of the item that the producer wants to put
        self._peak_items = self._peak_bytes = 0
        self._pauses = 0
        self._paused_s = 0.0
        self._paused_since: float | None = None  # set while the producer waits for room
        self._waiter: asyncio.Future[None] | None = None  # set while the consumer waits in get_before
        self._deadline = math.inf  # of that wait, in loop time
        self._timer: asyncio.TimerHandle | None = None  # fires at `_timer_at`, not after the deadline
        self._timer_at = math.inf

    async def put(self, item: Item) -> None:
        """Puts `item` as soon as there is room. Cancelling is safe: the item is then not in the channel."""
        self._incoming_bytes = item.size_bytes
        if not self.full():
            super().put_nowait(item)
            return
        self._pauses += 1
        self._paused_since = self._loop.time()
        try:
            await super().put(item)
        finally:
            waited_s = self._loop.time() - self._paused_since
            self._paused_since = None
            self._paused_s += waited_s
            self._on_pause(waited_s)

    async def get_before(self, deadline: float) -> Item | None:
        """The next item, or None if none came by `deadline` (loop time, seconds, to the millisecond). Cancelling loses no item."""
        if not self.empty():
            return self.get_nowait()
        if deadline <= self._loop.time():
            return None
        self._deadline = deadline
        if self._timer is None or self._timer_at > deadline:
            self._arm()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return None if self.empty() else self.get_nowait()

    def nudge(self) -> None:
        """Lets a waiting `get_before` return None now, as if its deadline had come. Without one, nothing happens."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Lets go of the timer. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._timer_fired)

    def _timer_fired(self) -> None:
        # One timer serves many waits, because most deadlines are far away and move on before it fires.
        self._timer = None
        if self._waiter is None:
            return
        if self._deadline - self._loop.time() < _COME_S:
            self.nudge()
        else:
            self._arm()

    def drop(self) -> None:
        """Forgets what is held; the producer is to be cancelled."""
        while not self.empty():
            self.get_nowait()

    def end_now(self, end: End) -> None:
        """Makes `end` the last item, whatever the bounds, unless one is held already; the producer is to be cancelled."""
        if not (self._queue and isinstance(self._queue[-1], End)):
            self._incoming_bytes = end.size_bytes
            self._put(end)

    def put_nowait(self, item: Item) -> None:
        """Puts `item` at once. Raises `asyncio.QueueFull` where there is no room."""
        self._incoming_bytes = item.size_bytes
        super().put_nowait(item)

    def full(self) -> bool:
        """Whether the item that the producer wants to put has no room."""
        held = len(self._queue)
        return held >= self.maxsize or (held > 0 and self._size_bytes + self._incoming_bytes > self.max_bytes)

    @property
    def paused(self) -> bool:
        """Whether the producer is waiting for room now."""
        return self._paused_since is not None

    def statistics(self) -> ChannelStatistics:
        """A frozen record of what the channel holds and has seen."""
        waiting_s = 0.0 if self._paused_since is None else self._loop.time() - self._paused_since
        return ChannelStatistics(
            items=self.qsize(),
            size_bytes=self._size_bytes,
            peak_items=self._peak_items,
            peak_bytes=self._peak_bytes,
            pauses=self._pauses,
            paused_s=self._paused_s + waiting_s,
        )

    # The three hooks that asyncio.Queue has for subclasses.

    def _init(self, maxsize: int) -> None:
        self._queue: deque[Item] = deque()

    def _put(self, item: Item) -> None:
        self._queue.append(item)
        self._size_bytes += self._incoming_bytes
        self._peak_items = max(self._peak_items, len(self._queue))
        self._peak_bytes = max(self._peak_bytes, self._size_bytes)
        self.nudge()

    def _get(self) -> Item:
        item = self._queue.popleft()
        self._size_bytes -= item.size_bytes
        return item

    def __repr__(self) -> str:
        state = " paused" if self.paused else ""
        return f"<Channel {self.qsize()}/{self.maxsize} items {self._size_bytes}/{self.max_bytes} bytes{state}>"
