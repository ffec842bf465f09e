"""Room for one more stream, or reader: whether there is any, and who gives way where there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ..access.callers import Caller
from ..answer.outcome import Outcome
from ..errors import Expired, Lagging, Overloaded, TakenOver
from .archive import Archive
from .session import Session
from .terms import Terms, owner

log = logging.getLogger(__name__)


class Room:
    """The room of one process.

    Args:
        live: the running streams.
        archive: knows them by their callers' names for them.
        admit: given how many streams there are, raises Overloaded where there is no room for one more.
    """

    def __init__(self, live: Mapping[str, Session], archive: Archive, admit: Callable[[int], None]) -> None:
        self._live = live
        self._archive = archive
        self._admit = admit
        self._leaving: set[Session] = set()  # were told to end for others, and have not ended yet

    def check(self, in_flight: int) -> None:
        """Whether there is room beside so many; a stream that nobody reads makes some. Raises Overloaded."""
        try:
            self._admit(in_flight - len(self._leaving))
        except Lagging:
            raise
        except Overloaded:
            if not self.give_way(None):
                raise

    def give_way(self, caller: Caller | None, name: str = "", *, of_subject: bool = False) -> bool:
        """Ends a stream so that another one, or a reader, has its place, which is free at once for its caller.

        Args:
            caller: whose; None for anyone's.
            of_subject: only a stream of whom the caller's token stands for will do.
            name: the caller's stream of this name, which a newer one takes over; without one, of those that wait for a
                lost reader the one that would wait no longer soonest.

        Returns:
            Whether there was one.
        """
        if caller is not None and name:
            older = self._archive.named(*owner(caller), name)
            session = self._live.get(older.stream_id) if older is not None else None
            if session is None or session.page.ticket.place.released:
                return False
            self.end_older(older)
        else:
            mine = [one for one in self._live.values() if _is_his(one.terms, caller, of_subject=of_subject)]
            held = [(until, session) for session in mine if (until := session.held_until) is not None]
            if not held:
                return False
            session = min(held, key=lambda waiting: waiting[0])[1]
            log.info("stream %s, which waits for a lost reader, gives its place away", session.terms.stream_id)
            session.stop(Outcome.EXPIRED, Expired("its place was needed for another reader"))
        session.page.ticket.leave()
        self._leaving.add(session)
        return True

    def left(self, session: Session) -> None:
        """A stream has ended."""
        self._leaving.discard(session)

    def end_older(self, older: Terms | None) -> None:
        """Ends a stream, if it still runs, whose place a newer one of the same name takes."""
        session = self._live.get(older.stream_id) if older is not None else None
        if session is not None:
            session.stop(Outcome.TAKEN_OVER, TakenOver("a newer question has taken this one's place"))


def _is_his(terms: Terms, caller: Caller | None, *, of_subject: bool) -> bool:
    if caller is None:
        return True
    return terms.caller == caller.name and (not of_subject or (terms.caller, terms.subject) == owner(caller))
