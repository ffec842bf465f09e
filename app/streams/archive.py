"""What can be read again: streams that have ended, for a while, and the names that callers gave to theirs.

Synchronous, because it is this process's own memory; whatever keeps a copy elsewhere writes behind it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from ..settings.sections import ReplayBounds
from .delivery import Frames
from .replay import Replay, ReplayBudget
from .terms import Policy, Terms


@dataclass(slots=True)
class Kept:
    """A stream that has ended, for as long as it can be read again.

    Attributes:
        terms: who may ask.
        frames: of its answer.
        expired: nothing of it is there to come back to.
    """

    terms: Terms
    frames: Frames
    expired: bool = False


class Shadow(Protocol):
    """Who keeps a copy of resumable streams elsewhere. Told at once, it writes behind: nothing here waits for it."""

    def began(self, terms: Terms, frames: Frames) -> None:
        """A stream whose frames are kept has begun; its frames grow in their replay."""

    def ended(self, terms: Terms) -> None:
        """It has ended: whole, if its replay says so, else nothing of it is kept."""

    def forgotten(self, terms: Terms) -> None:
        """It can be read here no longer."""


class NoShadow:
    """Keeps nothing."""

    def began(self, terms: Terms, frames: Frames) -> None:
        """Does nothing."""

    def ended(self, terms: Terms) -> None:
        """Does nothing."""

    def forgotten(self, terms: Terms) -> None:
        """Does nothing."""


class Archive:
    """Keeps ended streams in memory, within one bound over all of them and the running ones.

    Args:
        bounds: of what is kept.
        shadow: keeps a copy elsewhere.

    Attributes:
        budget: that bound, and what of it is used.
    """

    def __init__(self, bounds: ReplayBounds, shadow: Shadow | None = None) -> None:
        self._bounds = bounds
        self._shadow = shadow if shadow is not None else NoShadow()
        self._kept: dict[str, Kept] = {}  # oldest first
        self._named: dict[tuple[str, str, str], Terms] = {}  # the newest stream of each name: caller, subject, name
        self.budget = ReplayBudget(bounds.replay_total_bytes)
        self.budget.relieve = self._relieve

    @property
    def has_room(self) -> bool:
        """Whether a new stream may be kept."""
        while not self.budget.has_room and self._relieve():
            pass
        return self.budget.has_room

    @property
    def keeps(self) -> bool:
        """Whether any ended stream can be read again."""
        return any(not kept.expired for kept in self._kept.values())

    def replay(self, policy: Policy) -> Replay:
        """Where the frames of a stream of this policy wait; they are kept only where its readers may come back."""
        keeps = policy is not Policy.ABORT and self.has_room
        return Replay(self._bounds.replay_bytes if keeps else 0, self.budget)

    def began(self, terms: Terms, frames: Frames) -> None:
        """A stream begins, whose frames wait in one of these replays."""
        if frames.replay.keeps:
            self._shadow.began(terms, frames)

    def append(self, terms: Terms, frames: Frames) -> None:
        """Takes in a stream that has ended; one without its last event is known to have expired."""
        expired = not frames.replay.ended
        if expired:
            frames.replay.clear()
        self._kept[terms.stream_id] = Kept(terms, frames, expired)
        self._shadow.ended(terms)
        asyncio.get_running_loop().call_later(self._bounds.replay_s, self.forget, terms)

    def after(self, stream_id: str) -> Kept | None:
        """What is kept of an ended stream; None where nothing is known of it."""
        return self._kept.get(stream_id)

    def claim(self, terms: Terms) -> Terms | None:
        """Gives the caller's name to this stream; returns the one that had it."""
        key = terms.caller, terms.subject, terms.name
        older = self._named.get(key)
        self._named[key] = terms
        return older

    def release(self, caller: str, subject: str, name: str) -> Terms | None:
        """Takes the name from the caller's stream that has it, and returns that one."""
        return self._named.pop((caller, subject, name), None)

    def named(self, caller: str, subject: str, name: str) -> Terms | None:
        """The caller's newest stream of this name, while it runs or can be read again."""
        return self._named.get((caller, subject, name))

    def names(self) -> list[tuple[tuple[str, str, str], str]]:
        """Every name, by caller, subject and name, with the id of its newest stream."""
        return [(name, terms.stream_id) for name, terms in self._named.items()]

    def forget(self, terms: Terms) -> None:
        """Lets go of a stream and of its name, if it has that still. Idempotent."""
        kept = self._kept.pop(terms.stream_id, None)
        if kept is not None:
            kept.frames.replay.clear()
            self._shadow.forgotten(terms)
        if self._named.get((terms.caller, terms.subject, terms.name)) is terms:
            del self._named[terms.caller, terms.subject, terms.name]

    def _relieve(self) -> bool:
        """Frees the replay of the stream that ended longest ago; tells whether there was one."""
        for kept in self._kept.values():
            if kept.frames.replay.size_bytes:
                kept.frames.replay.clear()
                kept.expired = True
                return True
        return False
