"""What the processes of one machine share: what of each budget is spent and drawn, rates and places. SQLite, in a thread.

Each process keeps what it drew as one number a budget, absolute, so that a call that was given up or could not be
written is made good by the next one. A commit is not waited for to reach the disk (WAL, `synchronous=NORMAL`): a process
that is killed loses nothing, a machine that loses power the last second.

A process holds a lock on a file of its own as long as it lives, however it ends. Whoever finds a lock free books what
that process had drawn as spent, since nobody knows how much of it was, and frees its places.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..access.limits import Key, Late, Owed, Want, correct, take
from ..money.allowance import grant
from . import limits_file

log = logging.getLogger(__name__)

T = TypeVar("T")

# Periods older than this are forgotten, in days: nobody is refused for them, and a year can be looked up.
_KEPT_DAYS = 400
# Browser tokens live 15 minutes; what one spent is forgotten the day after, and looked for this often, in seconds.
_FORGET_S = 3600.0


class StateAway(Exception):
    """The file cannot be read or written now; the log says why."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a process asks of one budget; money in nano-dollars.

    Attributes:
        name, span, period: which budget.
        limit: of it.
        book: is spent, of what was drawn before.
        keep: what stays drawn, in all; the rest goes back.
        least: what is needed beyond that.
        ahead: what is liked beyond what is needed.
    """

    name: str
    span: str
    period: str
    limit: int
    book: int
    keep: int
    least: int = 0
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """How a budget stands after a draft.

    Attributes:
        granted: was drawn.
        spent: of the whole budget, by all.
        others: drawn by other processes.
        known: False where nobody can say how it stands, so that nothing was granted.
    """

    granted: int
    spent: int
    others: int
    known: bool = True


@dataclass(frozen=True, slots=True)
class Taking:
    """A place that is to be taken.

    Attributes:
        name: the caller's.
        here: how many places this process has of that caller, with this one.
        here_in_all: and of all callers.
        most, most_in_all: the bounds; None for none.
        subject, here_of_subject, most_of_subject: the same for the subject of a browser token that bounds it.
    """

    name: str
    here: int
    here_in_all: int
    most: int | None
    most_in_all: int | None
    subject: str = ""
    here_of_subject: int = 0
    most_of_subject: int | None = None


class SharedState:
    """The file, as one process sees it. Use as an async context manager.

    Args:
        folder: where it lies; made if it is not there.
        now: seconds since the epoch; all processes of a machine have the same.
        on_dead: told what was booked as spent for a process that died, in nano-dollars.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], float] = time.time,
        on_dead: Callable[[int], None] = lambda _nano: None,
    ) -> None:
        self._folder = folder
        self._path = folder / limits_file.NAME
        self._now = now
        self._on_dead = on_dead
        self._process = secrets.token_hex(8)
        self._lock: int | None = None  # of the file that says that this process lives
        self._connection: sqlite3.Connection | None = None  # touched in the thread alone
        self._file: tuple[int, ...] = ()  # which one that is of
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._away = False
        self._forgot_at = 0.0

    async def __aenter__(self) -> SharedState:
        if self._path.exists():  # else nothing was ever bounded, and nothing is opened
            with contextlib.suppress(StateAway):
                await self.reap()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._thread.submit(self._close)
        await asyncio.to_thread(self._thread.shutdown)

    async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
        """Books what was spent, and draws more as far as it is there: all of it, or nothing where it fails.

        Raises:
            StateAway: it could not be written. Cancelling leaves it open whether it was; the next draft tells anew.
        """

        def drawn(db: sqlite3.Connection) -> list[Balance]:
            if abs(self._now() - self._forgot_at) >= _FORGET_S:  # clocks are set back, too
                self._forget(db)
            return [self._drawn(db, draft) for draft in drafts]

        return await self._in_thread(drawn)

    async def take(self, wants: Sequence[Want], place: Taking) -> Late | str | None:
        """Takes of all buckets, and a place; nothing where one of them has not enough, and says which.

        Raises:
            StateAway: as `draw` does. Cancelling as there.
        """
        return await self._in_thread(lambda db: self._taken(db, wants, place))

    def note(self, places: Sequence[tuple[str, int]], corrections: Sequence[Want]) -> None:
        """Tells how many places this process has of some callers, and what estimates took too little or too much.

        Nobody waits for it; what comes after it finds it done. Where it cannot be written, that is said and no more.
        """
        self._thread.submit(self._tried, lambda db: self._noted(db, places, corrections))

    async def reap(self) -> None:
        """Books what processes that died had drawn, and frees their places. Raises StateAway."""
        booked = await self._in_thread(self._reaped)
        if booked:
            self._on_dead(booked)

    # All below runs in the thread.

    async def _in_thread(self, what: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._at_once, what)

    def _tried(self, what: Callable[[sqlite3.Connection], None]) -> None:
        with contextlib.suppress(StateAway):
            self._at_once(what)

    def _at_once(self, what: Callable[[sqlite3.Connection], T]) -> T:
        """Does it in one transaction."""
        try:
            db = self._opened()
            changes = db.total_changes
            with limits_file.transaction(db):
                done = what(db)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            if not self._away:
                self._away = True
                log.error(
                    "%s: budgets and shared limits cannot be kept, and are asked for again: %s", self._path, error
                )
            raise StateAway(str(error)) from error
        if self._away and db.total_changes > changes:  # a full disk can still be read
            self._away = False
            log.warning("%s: budgets and shared limits are kept again", self._path)
        return done

    def _opened(self) -> sqlite3.Connection:
        self._look()
        if self._lock is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)  # no parents: a typo must not begin budgets anew
            self._lock = os.open(self._lock_of(self._process), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        if self._connection is None:
            self._connection, self._file = limits_file.opened(self._path), limits_file.identity(self._path)
        return self._connection

    def _look(self) -> None:
        """Lets go of files that are gone, or another one's by now: what was written there nobody would read."""
        if self._connection is not None and limits_file.identity(self._path) != self._file:
            limits_file.abandon(self._path, self._file)
            self._disconnect()
            log.warning("%s was removed or replaced: what is there now counts from here on", self._path)
        if self._lock is not None:
            try:
                stays = os.path.samestat(os.fstat(self._lock), os.stat(self._lock_of(self._process)))
            except FileNotFoundError:
                stays = False
            if not stays:  # others would take this process for dead
                os.close(self._lock)
                self._lock = None

    def _drawn(self, db: sqlite3.Connection, draft: Draft) -> Balance:
        key = (draft.name, draft.span, draft.period)
        if draft.book:
            db.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET nano = nano + excluded.nano",
                (*key, draft.book),
            )
        spent = _number(db, "SELECT nano FROM spent WHERE (name, span, period) = (?, ?, ?)", key)
        others = _number(
            db,
            "SELECT sum(nano) FROM drawn WHERE (name, span, period) = (?, ?, ?) AND process != ?",
            (*key, self._process),
        )
        granted = grant(draft.limit, spent, others + draft.keep, draft.least, draft.ahead)
        kept = max(0, draft.keep + granted)
        if kept:
            db.execute("INSERT OR REPLACE INTO drawn VALUES (?, ?, ?, ?, ?)", (self._process, *key, kept))
        else:
            db.execute(
                "DELETE FROM drawn WHERE (name, span, period) = (?, ?, ?) AND process = ?", (*key, self._process)
            )
        return Balance(granted, spent, others)

    def _taken(self, db: sqlite3.Connection, wants: Sequence[Want], place: Taking) -> Late | str | None:
        if place.most_of_subject is not None:
            others = _number(
                db, "SELECT sum(taken) FROM places WHERE name = ? AND process != ?", (place.subject, self._process)
            )
            if others + place.here_of_subject > place.most_of_subject:
                return "token streams"
        if place.most is not None:
            others = _number(
                db, "SELECT sum(taken) FROM places WHERE name = ? AND process != ?", (place.name, self._process)
            )
            if others + place.here > place.most:
                return "streams"
        if place.most_in_all is not None:
            others = _number(
                db, "SELECT sum(taken) FROM places WHERE process != ? AND instr(name, char(10)) = 0", (self._process,)
            )
            if others + place.here_in_all > place.most_in_all:
                return "all streams"
        buckets = self._buckets(db, wants)
        before = dict(buckets)
        late = take(buckets, wants, self._now())
        if buckets != before:  # also by a refusal, where the clock was set back
            self._put_buckets(db, buckets)
        if late is None:
            if place.most is not None or place.most_in_all is not None:
                self._put_places(db, [(place.name, place.here)])
            if place.most_of_subject is not None:
                self._put_places(db, [(place.subject, place.here_of_subject)])
        return late

    def _noted(self, db: sqlite3.Connection, places: Sequence[tuple[str, int]], corrections: Sequence[Want]) -> None:
        self._put_places(db, places)
        buckets, now = self._buckets(db, corrections), self._now()
        for want in corrections:
            correct(buckets, want, now)
            buckets.setdefault(want.key, (0.0, now))
        self._put_buckets(db, buckets)

    def _buckets(self, db: sqlite3.Connection, wants: Sequence[Want]) -> dict[Key, Owed]:
        buckets: dict[Key, Owed] = {}
        for want in wants:
            row = db.execute("SELECT seconds, since FROM owed WHERE (kind, name) = (?, ?)", want.key).fetchone()
            if row is not None:
                buckets[want.key] = row
        return buckets

    def _put_buckets(self, db: sqlite3.Connection, buckets: dict[Key, Owed]) -> None:
        rows = [(*key, *owed) for key, owed in buckets.items()]
        db.executemany("INSERT OR REPLACE INTO owed VALUES (?, ?, ?, ?)", rows)

    def _put_places(self, db: sqlite3.Connection, places: Sequence[tuple[str, int]]) -> None:
        for name, taken in places:
            if taken:
                db.execute("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (self._process, name, taken))
            else:
                db.execute("DELETE FROM places WHERE (name, process) = (?, ?)", (name, self._process))

    def _reaped(self, db: sqlite3.Connection) -> int:
        """What was booked for processes that died, in nano-dollars; and what is past is forgotten."""
        self._forget(db)
        booked = 0
        processes = db.execute("SELECT process FROM drawn UNION SELECT process FROM places").fetchall()
        for (process,) in processes:
            if process == self._process or not self._died(process):
                continue
            lost = _number(db, "SELECT sum(nano) FROM drawn WHERE process = ?", (process,))
            db.execute(
                "INSERT INTO spent SELECT name, span, period, nano FROM drawn WHERE process = ?"
                " ON CONFLICT DO UPDATE SET nano = nano + excluded.nano",
                (process,),
            )
            db.execute("DELETE FROM drawn WHERE process = ?", (process,))
            db.execute("DELETE FROM places WHERE process = ?", (process,))
            log.warning("a process died with %.6f $ drawn from budgets: they count as spent", lost / 1e9)
            booked += lost
        return booked

    def _forget(self, db: sqlite3.Connection) -> None:
        """Forgets buckets that are full, and what was spent long ago; of tokens, what those spent that have expired."""
        now = self._now()
        self._forgot_at = now
        db.execute("DELETE FROM owed WHERE since + seconds <= ?", (now,))
        db.execute("DELETE FROM spent WHERE period < ?", (_day(now - _KEPT_DAYS * 86_400)[:7],))
        db.execute("DELETE FROM spent WHERE span = 'token' AND period < ?", (_day(now - 86_400),))

    def _died(self, process: str) -> bool:
        """Whether its lock is free; then its file is removed."""
        path = self._lock_of(process)
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def _lock_of(self, process: str) -> Path:
        return self._folder / f"process-{process}.lock"

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _close(self) -> None:
        """Frees the places, and says that this process has ended: what it still has drawn is spent."""
        if self._connection is not None:
            with contextlib.suppress(StateAway):
                self._at_once(lambda db: db.execute("DELETE FROM places WHERE process = ?", (self._process,)))
        self._disconnect()
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock_of(self._process).unlink(missing_ok=True)
            os.close(self._lock)


def _day(now: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def _number(db: sqlite3.Connection, query: str, values: Sequence[str]) -> int:
    row = db.execute(query, values).fetchone()
    return 0 if row is None or row[0] is None else int(row[0])
