"""Looks at every reader once in a while: the stalled and the vanished ones are lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from ..answer.outcome import Outcome
from ..telemetry.observer import Observer
from .connection import Connection
from .liveness import Finding
from .session import Session

log = logging.getLogger(__name__)

# Readers are looked at this often, in seconds: deadlines are seconds long, and 5,000 looks cost 20 ms.
WATCH_S = 0.5
_OUTCOME_OF = {Finding.STALLED: Outcome.STALLED, Finding.VANISHED: Outcome.VANISHED}


class Watch:
    """Looks at the readers of running streams, and of ended ones that are read again.

    Args:
        live: the running streams.
        replaying: connections to which an ended stream is written.
        observer: told how many readers are stalled, and for how long each was.
    """

    def __init__(self, live: Mapping[str, Session], replaying: Collection[Connection], observer: Observer) -> None:
        self._live = live
        self._replaying = replaying
        self._observer = observer
        self._stuck_s: dict[
            Connection, float
        ] = {}  # for how long each stalled reader had taken nothing at the last look

    async def run(self) -> None:
        """Looks until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_S)
            self.look(loop.time())

    def look(self, now: float) -> None:
        """Takes one look at all of them, at loop time `now`."""
        before, self._stuck_s = self._stuck_s, {}
        for session in list(self._live.values()):
            connection = session.delivery.connection
            if connection is None:
                continue
            finding = connection.look(now)
            if connection.stuck_s > 0:
                self._stuck_s[connection] = connection.stuck_s
            if finding is not None:
                log.info("stream %s: its reader has %s", session.terms.stream_id, finding.value)
                session.lost(connection, _OUTCOME_OF[finding])
                connection.abort()
        for connection in list(self._replaying):
            if connection.look(now) is not None:
                connection.abort()
        self._observer.stalled_now(len(self._stuck_s))
        for connection, stuck_s in before.items():
            if connection not in self._stuck_s:  # it takes bytes again, or is gone
                self._observer.stalled(stuck_s)
