"""Readers who read a stream from Redis because they cannot reach its owner: the owner is told of them there.

Without that it would hold Claude still for a reader who is there, and let the stream expire. Whoever serves such a reader says
once a second, in one field of a hash of the owner, up to which frame that has read; the owner looks at the hash twice a second,
for all of them in one command, and takes each for its stream's reader as long as that stream has no nearer one. So a reader who
is slow holds Claude still from afar too, by what it has not read. A stop is said there likewise, and that a chat's newer question has come.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Protocol

from ..answer.outcome import Outcome
from ..errors import SluicewayError, Stopped
from ..streams.connection import Interrupted
from ..streams.credits import Credits
from ..streams.lifecycle import ReaderState
from ..streams.liveness import Finding
from ..streams.session import Session
from .contact import RedisAway, RedisRefused, nobody_knows
from .fresh_keys import FRESH
from .member import Asking
from .names import Keys, owner_of

log = logging.getLogger(__name__)

# The owner looks this often, and a reader of whom nothing was heard for so long has vanished, in seconds.
LOOK_S = 0.5
VANISH_S = 5.0
# A reader is spoken of this often, in seconds; those whose turn it is within the second time, in one command.
SAY_S = 1.0
_TOGETHER_S = 0.1
# One command speaks of at most this many: a script takes some thousands of arguments.
_MOST_AT_ONCE = 500
# So much may be unread before Claude is held still, in bytes: as much as the sockets of a near reader hold.
_UNREAD_BYTES = 16_384
# Before a stream's id: no reader of it is spoken of, but its stop, with its reason.
_STOP = "!"
_ASKED, _NEWER = "1", "newer"


# In one step, so that the key is never without an end.
_SAY = f"""{FRESH}
fresh(KEYS[1], 'PEXPIRE')
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""


class FarReader:
    """A `Connection` to a reader who takes the frames from Redis: what is written to it is there already, or soon.

    Args:
        sent_id: the last frame that it has read.
        now: loop time.
        released: told when the stream has no more for it.
        written: told when there is something new for it.
    """

    def __init__(
        self, sent_id: int, now: float, released: Callable[[FarReader], None], written: Callable[[], None]
    ) -> None:
        self.sent_id = sent_id
        self.ended = False
        self.credits: Credits | None = None
        self.stuck_s = 0.0
        self._heard_at = now
        self._released = released
        self._written = written
        self._unread: deque[tuple[int, int]] = deque()  # the last frame of each write, and its bytes
        self._changed = asyncio.Event()
        self._interrupted = False

    @property
    def committed(self) -> bool:
        """Its answer has begun, elsewhere."""
        return True

    def heard(self, read_id: int, at: float) -> None:
        """It has read that far, as was said at loop time `at`."""
        self._heard_at = at
        while self._unread and self._unread[0][0] <= read_id:
            self._unread.popleft()
        self._changed.set()

    async def write(self, data: bytes) -> None:
        """Waits until little enough is unread. Raises Interrupted."""
        while not self._interrupted and sum(size for _, size in self._unread) > _UNREAD_BYTES:
            self._changed.clear()
            await self._changed.wait()
        if self._interrupted:
            raise Interrupted
        if frames := data.count(b"\nid: ") + data.startswith(b"id: "):
            self._unread.append((self.sent_id + frames, len(data)))
        self._written()

    def interrupt(self) -> None:
        """Breaks off a write that waits, and all later ones. Idempotent."""
        self._interrupted = True
        self._changed.set()

    async def write_last(self, data: bytes) -> None:
        """Does nothing: what this connection alone would be told cannot be told from afar."""

    def look(self, now: float) -> Finding | None:
        """Whether anything is heard of it."""
        return Finding.VANISHED if now - self._heard_at > VANISH_S else None

    def abort(self) -> None:
        """Ends it. Idempotent."""
        self.interrupt()

    def release(self, error: SluicewayError | None) -> None:
        """The stream has no more for it: it reads how that ended in Redis."""
        self._released(self)


class Reading(Protocol):
    """A reader of another process's stream.

    Attributes:
        sent_id: the last frame that it has.
    """

    sent_id: int


@dataclass(slots=True)
class _Here:
    """One of them, and the loop time at which its owner is told of it next."""

    owner: str
    stream_id: str
    reader: Reading
    due_at: float = -math.inf


class FarReaders:
    """Those of one process's streams, and what is said of others'.

    Args:
        asks: of Redis.
        keys: of the fleet.
        incarnation: this process's.
        live: its running streams.
        overtaken: ends one of these, because its chat's newer question has come elsewhere.

    Attributes:
        written: told of a stream of this process that has something new for a far reader.
    """

    def __init__(
        self,
        asks: Asking,
        keys: Keys,
        incarnation: str,
        live: Callable[[], Mapping[str, Session]],
        overtaken: Callable[[Session], None],
    ) -> None:
        self._asks = asks
        self._keys = keys
        self._incarnation = incarnation
        self._live = live
        self._overtaken = overtaken
        self.written: Callable[[str], None] = lambda _stream_id: None
        self._here: dict[object, _Here] = {}
        self._came = asyncio.Event()  # one of them did
        self._said = 0  # how often owners were told; a word that never changes would be that of one who has vanished
        self._since: dict[
            str, tuple[str, float]
        ] = {}  # each word that stands there, and the loop time of its first look

    @contextmanager
    def reading(self, stream_id: str, reader: Reading) -> Iterator[None]:
        """For as long its owner is told once a second how far this reader is, also while it is slow to take a write."""
        key = object()
        self._here[key] = _Here(_owner(stream_id), stream_id, reader)
        self._came.set()
        try:
            yield
        finally:
            del self._here[key]

    async def stop(self, stream_id: str) -> None:
        """Says to the owner that the stream is to be stopped; whoever says so has checked that he may. Raises RedisAway."""
        await self._say(_owner(stream_id), {_STOP + stream_id: _ASKED})

    async def tell_of_newer(self, stream_id: str) -> None:
        """Says to the owner that its chat's newer question has come elsewhere. Raises RedisAway."""
        await self._say(_owner(stream_id), {_STOP + stream_id: _NEWER})

    async def _say(self, owner: str, words: Mapping[str, str]) -> None:
        said = chain.from_iterable(words.items())
        with nobody_knows():
            await self._asks.ask("EVAL", _SAY, 1, self._keys.far(owner), int(VANISH_S * 1000), *said)

    async def run(self) -> None:
        """Says what is to be said, and takes in what is said of this process's streams, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._speak())
            tasks.create_task(self._hear())

    async def _speak(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self._here:
                await asyncio.sleep(_TOGETHER_S)
                try:
                    for owner, words in self._due(asyncio.get_running_loop().time()).items():
                        waiting = iter(words.items())
                        while some := dict(islice(waiting, _MOST_AT_ONCE)):
                            await self._say(owner, some)
                except RedisAway as away:  # each is spoken of again
                    log.debug("owners could not be told of readers: %s", away)

    def _due(self, now: float) -> dict[str, dict[str, str]]:
        """What is to be said at loop time `now`, by owner and stream; of several readers of one stream, of the last to come."""
        self._said += 1
        due: dict[str, dict[str, str]] = {}
        for here in self._here.values():
            if now >= here.due_at:
                here.due_at = now + SAY_S
                due.setdefault(here.owner, {})[here.stream_id] = f"{here.reader.sent_id}:{self._said}"
        return due

    async def _hear(self) -> None:
        key = self._keys.far(self._incarnation)
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._live():
                self._since.clear()
                continue
            try:
                told = await self._asks.ask("HGETALL", key) or ()
                if done := self._take_in([word.decode() for word in told]):
                    await self._asks.ask("HDEL", key, *done)
            except (RedisAway, RedisRefused) as error:
                log.debug("far readers could not be asked for: %s", error)

    def _take_in(self, told: Sequence[str]) -> list[str]:
        """Takes in all that stands there; returns of what nothing more is to stand there."""
        now, live = asyncio.get_running_loop().time(), self._live()
        before, self._since = self._since, {}
        done = []
        for about, word in zip(told[::2], told[1::2], strict=True):
            known = before.get(about)
            if known is not None and known[0] == word:
                self._since[about] = known
                if about in live and now - known[1] <= VANISH_S:
                    continue  # nothing new of this reader, as of every second one at each look
            else:
                self._since[about] = word, now
            if not self._takes(about, word, self._since[about][1], now):
                done.append(about)
        return done

    def _takes(self, about: str, word: str, heard_at: float, now: float) -> bool:
        """Whether this reader is to be heard of again."""
        session = self._live().get(about.removeprefix(_STOP))
        if session is None or session.lifecycle.over or now - heard_at > VANISH_S:
            return False
        if about.startswith(_STOP):
            if word == _NEWER:
                self._overtaken(session)
            else:
                session.stop(Outcome.STOPPED, Stopped("the stream was stopped"))
            return False
        read_id, connection = int(word.partition(":")[0]), session.delivery.connection
        if read_id > session.replay.last_id:
            return False  # nobody has read what was not written, and who says so is no reader
        if isinstance(connection, FarReader):
            connection.heard(read_id, heard_at)
        elif session.lifecycle.reader in (ReaderState.HELD, ReaderState.DRAINING):
            session.attach(FarReader(read_id, now, partial(_lost, session), partial(self.written, about)))
        return True


def _owner(stream_id: str) -> str:
    owner = owner_of(stream_id)
    assert owner is not None, "a stream of a fleet names its owner"
    return owner


def _lost(session: Session, reader: FarReader) -> None:
    """Nobody else handles its connection; not at once, because whoever releases it is in the middle of something."""
    asyncio.get_running_loop().call_soon(session.lost, reader)
