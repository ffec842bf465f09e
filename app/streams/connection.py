"""One reader's connection, as a stream sees it; `web/readers/sse_connection.py` has the real one."""

from __future__ import annotations

from typing import Protocol

from ..errors import SluicewayError
from .credits import Credits
from .liveness import Finding


class Interrupted(Exception):
    """A write was broken off because the connection is no longer the stream's reader."""


class Connection(Protocol):
    """One reader's connection.

    Attributes:
        sent_id: the last frame that was written and drained.
        credits: how far to run ahead of what its page shows; None where it did not ask.
        ended: the answer's last event was handed to it, drained or not: nothing may follow.
    """

    sent_id: int
    ended: bool
    credits: Credits | None

    @property
    def committed(self) -> bool:
        """Whether its status was sent."""

    async def write(self, data: bytes) -> None:
        """Sends the status if need be, writes, and drains. Raises ConnectionError, or Interrupted."""

    def interrupt(self) -> None:
        """Breaks off a write that is waiting, and all later ones. Idempotent."""

    async def write_last(self, data: bytes) -> None:
        """Writes without waiting for anyone; nothing may follow. Does nothing where the connection is broken."""

    def look(self, now: float) -> Finding | None:
        """Whether the reader still takes anything, at loop time `now`."""

    @property
    def stuck_s(self) -> float:
        """Seconds for which something had waited, and nothing moved, at the last look; 0 where it moves."""

    def abort(self) -> None:
        """Ends the connection at once, whatever waits in it. Idempotent."""

    def release(self, error: SluicewayError | None) -> None:
        """Says that the stream has no more for this connection, so that its handler ends the response. Idempotent.

        Args:
            error: what to answer with, where no status was sent yet.
        """
