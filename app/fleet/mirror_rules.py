"""What is to be written of a stream next, so that its log in Redis becomes what the owner has in memory. Pure.

The owner's memory is the truth, the log its shadow. Entry `n-0` of a log ends with frame n and says which frame it begins
with, so a reader takes an entry only where nothing lies between it and what the reader has: a hole cannot be silent. The
end is an entry of its own with the greatest id, `END_ID`, after which Redis itself takes no other: whoever writes it first,
the owner because the answer has ended or another process because the owner is gone, has ended the log, for everybody.

What the owner knows of the log holds for one connection. After any trouble, a new connection, a refusal or a log that is
not there, it looks where the log stands before it writes again, and writes what is missing once more. So an entry may
begin before the one above it ends, when a write that was thought lost had arrived; readers skip what they have.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

# The greatest frame id of a log: the largest whole number that Lua, which Redis runs scripts in, holds exactly.
END_ID = 2**53 - 1
# A running stream's keys are given their time to live anew this often, in seconds, and live this long without.
REFRESH_S = 30.0
LIFE_S = 120.0


class Ending(Enum):
    """How a log ends."""

    ENDED = "ended"  # its last frame is the answer's last event
    EXPIRED = "expired"  # nobody came back for it in time; nothing of it is kept
    LOST = "worker_lost"  # its owner is gone


class Step(Enum):
    """What to do with a log next."""

    LOOK = "look"  # where it stands
    MAKE = "make"  # it is not there
    REMAKE = "remake"  # it lacks frames that are not in memory any more: begin it anew after them
    APPEND = "append"
    CLOSE = "close"
    REFRESH = "refresh"  # its time to live


class Memory(NamedTuple):
    """What the owner has of a stream at one moment.

    Attributes:
        first_id: the oldest frame's; `last_id + 1` where there is none.
        last_id: the newest frame's, 0 before the first.
        ending: how it ended; None while it runs.
    """

    first_id: int
    last_id: int
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Where a log stands.

    Attributes:
        last_id: the newest frame in it.
        ending: how it ended, if it did.
    """

    last_id: int
    ending: Ending | None = None


class Standing:
    """What the owner knows of one log, and what follows from it.

    Attributes:
        written_id: the newest frame in the log.
        high_id: the newest frame that ever was in it.
        fenced: another process has ended it.
        lost, healed: frames that had been in the log and were gone, and those of them that were written again.
    """

    __slots__ = (
        "_anew",
        "_closed",
        "_epoch",
        "_refreshed_at",
        "_there",
        "fenced",
        "healed",
        "high_id",
        "lost",
        "written_id",
    )

    def __init__(self) -> None:
        self._epoch: int | None = (
            None  # of the connection that all of this was learned in; 0 in doubt, None: nothing was sent
        )
        self._there = False
        self._anew = False  # what stands in the log is not the owner's
        self._closed: Ending | None = None
        self._refreshed_at = 0.0
        self.written_id = 0
        self.high_id = 0
        self.fenced = False
        self.lost = 0
        self.healed = 0

    def next(self, memory: Memory, epoch: int, now: float) -> Step | None:
        """What to do; None for nothing. What is done is told to `doubt` first, and then what came of it.

        Args:
            memory: what the owner has.
            epoch: of the connection that it would be done in, from 1.
            now: in seconds.
        """
        if self.fenced:
            return None
        if self._epoch != epoch:
            return Step.MAKE if self._epoch is None else Step.LOOK
        if not self._there:
            return Step.REMAKE if self._anew else Step.MAKE
        if self._closed is not None:
            return None
        if memory.ending is Ending.EXPIRED:
            return Step.CLOSE
        if memory.first_id > self.written_id + 1:
            return Step.REMAKE
        if memory.last_id > self.written_id:
            return Step.APPEND
        if memory.ending is not None:
            return Step.CLOSE
        return Step.REFRESH if self.is_aging(now) else None

    def goes_on(self, epoch: int, now: float) -> bool:
        """Nothing is to be done but to append what is new, where the stream runs and all that is new is in memory."""
        return self._epoch == epoch and self._there and self._closed is None and now - self._refreshed_at < REFRESH_S

    def is_aging(self, now: float) -> bool:
        """Its time to live is to be given anew, with what is written of it or by itself."""
        return now - self._refreshed_at >= REFRESH_S

    def doubt(self) -> None:
        """Something is sent, and until Redis has answered it may be done or not; or Redis refused it."""
        self._epoch = 0

    def made(self, first_id: int, epoch: int, now: float) -> None:
        """The log is there, without frames, and its first will be `first_id`."""
        self._epoch, self._there, self._closed, self._anew = epoch, True, None, False
        self._refreshed_at = now
        self.written_id = first_id - 1

    def appended(self, last_id: int, epoch: int) -> None:
        """Frames up to this one are in the log."""
        self._epoch = epoch
        if self.high_id > self.written_id:
            self.healed += min(last_id, self.high_id) - self.written_id
        self.written_id = last_id
        if last_id > self.high_id:
            self.high_id = last_id

    def closed(self, ending: Ending, epoch: int) -> None:
        """The log has ended, as the owner has it."""
        self._epoch, self._closed = epoch, ending

    def refreshed(self, epoch: int, now: float) -> None:
        """Its time to live was given anew."""
        self._epoch, self._refreshed_at = epoch, now

    @property
    def done(self) -> bool:
        """Nothing is left to do, as far as this connection knows."""
        return self.fenced or (self._closed is not None and bool(self._epoch))

    def looked(self, found: Found | None, memory: Memory, epoch: int) -> None:
        """The log stands like this; None where it is not there."""
        if found is not None and found.ending is Ending.LOST:
            self.fenced = True
            return
        last_id = 0 if found is None else found.last_id
        self.lost += max(0, self.written_id - last_id)
        self._epoch, self._there = epoch, found is not None
        self._closed = found.ending if found is not None else None
        self.written_id = last_id
        if last_id > memory.last_id:  # nobody else writes frames: whatever that is, memory is the truth
            self._there, self._anew = False, True
