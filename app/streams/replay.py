"""The numbered frames of one answer, kept for a reader that comes back. Pure."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Expired

# A kept frame costs this much beyond its bytes: the object's header and its slot in the list (CPython 3.11, measured).
FRAME_OVERHEAD_BYTES = 56
# So many frames are joined to see whether they are too much.
_FEW = 16


class ReplayBudget:
    """What all replays of a process may hold together.

    Args:
        max_bytes: the bound.

    Attributes:
        used_bytes: held now.
        relieve: called while the bound is passed; frees a replay that nobody reads and tells whether there was one.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.relieve: Callable[[], bool] = lambda: False

    @property
    def has_room(self) -> bool:
        """Whether a new stream may keep its frames; the last eighth is for those that run already."""
        return self.used_bytes < self.max_bytes * 7 // 8


class Replay:
    """The frames of one stream, numbered from 1: all that fits under its cap, or only what is undelivered.

    Args:
        max_bytes: the cap for a stream that keeps its answer; 0 keeps a frame only until it is delivered.
        budget: the bound over all streams.

    Attributes:
        keeps: delivered frames are kept, so that a reader may come back for them.
        last_id: the newest frame's.
        ended: the answer's last event is among them, and no more will come.
        size_bytes: held now.
    """

    __slots__ = ("_budget", "_frames", "_max_bytes", "ended", "keeps", "last_id", "size_bytes")

    def __init__(self, max_bytes: int, budget: ReplayBudget) -> None:
        self._max_bytes = max_bytes
        self._budget = budget
        self.keeps = max_bytes > 0
        self._frames: list[bytes] = []  # the newest, without a gap; the last one has `last_id`
        self.last_id = 0
        self.ended = False
        self.size_bytes = 0

    @property
    def first_id(self) -> int:
        """The id of the oldest frame still here; `last_id + 1` where there is none."""
        return self.last_id - len(self._frames) + 1

    def extend(self, frames: list[bytes]) -> None:
        """Takes the next frames, numbered from `last_id + 1` on; where a bound is passed, older ones go, never these."""
        self._frames += frames
        self.last_id += len(frames)
        self._account(sum(map(_cost_bytes, frames)))
        if not self.keeps:
            return
        while self._budget.used_bytes > self._budget.max_bytes and self._budget.relieve():
            pass
        surplus = max(self.size_bytes - self._max_bytes, self._budget.used_bytes - self._budget.max_bytes)
        drop, freed = 0, 0
        # The newest batch is never cut: its reader would lack part of it.
        while freed < surplus and drop < len(self._frames) - len(frames):
            freed += _cost_bytes(self._frames[drop])
            drop += 1
        self._drop(drop, freed)

    def after(self, frame_id: int, most_bytes: float) -> list[bytes]:
        """The frames that follow `frame_id`, up to `most_bytes` in all but at least one, if there is one.

        Raises:
            Expired: some of them are gone.
        """
        place = frame_id - self.last_id + len(self._frames)
        if place < 0:
            raise Expired("the frames after this id are no longer kept")
        frames = self._frames[place:]
        taken_bytes = 0
        for count, frame in enumerate(frames):
            taken_bytes += len(frame)
            if taken_bytes > most_bytes:
                return frames[: max(count, 1)]
        return frames

    def news(self, frame_id: int, most_bytes: int) -> tuple[bytes, int, int] | None:
        """As `after`, for who writes many replays' news again and again: joined, with the last frame's id and the oldest kept one's.

        Returns:
            Nothing joined and `frame_id` where there are none; None where some are gone.
        """
        held, last_id = self._frames, self.last_id
        oldest_id = last_id - len(held) + 1
        place = frame_id + 1 - oldest_id
        if place < 0:
            return None
        if len(held) - place <= _FEW:
            data = b"".join(held[place:])
            if len(data) <= most_bytes:
                return data, last_id, oldest_id
        frames = self.after(frame_id, most_bytes)
        return b"".join(frames), frame_id + len(frames), oldest_id

    def delivered(self, frame_id: int) -> None:
        """The reader has all up to `frame_id`; a stream that keeps nothing forgets them."""
        if not self.keeps:
            drop = max(0, frame_id + 1 - self.first_id)
            self._drop(drop, sum(_cost_bytes(frame) for frame in self._frames[:drop]))

    def clear(self) -> None:
        """Forgets every frame. Idempotent."""
        self._drop(len(self._frames), self.size_bytes)

    def _drop(self, count: int, size_bytes: int) -> None:
        if count:
            del self._frames[:count]
            self._account(-size_bytes)

    def _account(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        if self.keeps:
            self._budget.used_bytes += size_bytes


def _cost_bytes(frame: bytes) -> int:
    return len(frame) + FRAME_OVERHEAD_BYTES
