"""How much may be asked: requests and output tokens a minute, and places at once. Pure: `now` comes in, in seconds.

A rate is a token bucket that is full at first, holds one minute's worth and refills evenly, as Claude's own are. It is
kept as GCRA has it (ITU-T I.371): how long it takes until it is full again, and since when. A bucket that is full is one
that is not kept at all, so what is remembered is bounded by who was here in the last minute, and by `MOST_NAMES`.

Clocks are set back: one that was ahead for a moment would have left a time far in the future, and so a wait without a
reason. So what is owed is never taken for more than it was when it was written; whoever finds it written later than now
writes it anew, whatever it decides, and it shrinks again from there on.

Tokens are taken by an estimate when an answer begins, and corrected when it is known. A correction may leave the bucket
in debt: then nothing more is let in until that is paid back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["requests", "output-tokens"]
# What a bucket that is not full owes, in seconds of refilling, and when that was so.
Owed = tuple[float, float]
# What a bucket is of, and whose: the caller's name, or nothing for all callers together.
Key = tuple[Kind, str]

# A bucket holds what this many seconds bring.
PERIOD_S = 60.0
# So many buckets are remembered, some 2 MB; beyond, the one unused longest is forgotten. Callers come from a file, but the
# names in tokens do not.
MOST_NAMES = 10_000


@dataclass(frozen=True, slots=True)
class Want:
    """What a request takes of one bucket.

    Attributes:
        key: which one.
        per_minute: what it holds, and what a minute brings; above 0.
        cost: what is taken; more than the whole bucket counts as all of it, or it could never be let in.
    """

    key: Key
    per_minute: int
    cost: float = 1.0


@dataclass(frozen=True, slots=True)
class Late:
    """A bucket that has not enough.

    Attributes:
        want: what was asked of it.
        wait_s: when it will have enough, in seconds from now.
        remaining: what it has now; never below 0.
        full_s: when it will be full, in seconds from now.
    """

    want: Want
    wait_s: float
    remaining: int
    full_s: float


def take(buckets: MutableMapping[Key, Owed], wants: Iterable[Want], now: float) -> Late | None:
    """Takes from all buckets, or from none and says which one has not enough: the one that takes longest.

    Args:
        buckets: what each owes; one that is missing is full.
        wants: what is taken, at most once of each bucket.
        now: on the clock of `buckets`.
    """
    after: dict[Key, Owed] = {}
    latest: Late | None = None
    for want in wants:
        owed_s = _owed_s(buckets, want.key, now)
        wait_s = owed_s + _seconds(want, min(want.cost, want.per_minute)) - PERIOD_S
        if wait_s > 1e-9 and (latest is None or wait_s > latest.wait_s):
            remaining = max(0, int((PERIOD_S - owed_s) * want.per_minute / PERIOD_S))
            latest = Late(want, wait_s, remaining, owed_s)
        after[want.key] = (owed_s + _seconds(want, want.cost), now)
    if latest is None:
        buckets.update(after)
    return latest


def correct(buckets: MutableMapping[Key, Owed], want: Want, now: float) -> None:
    """Takes `want.cost` more, whatever is there, or gives it back where it is below 0."""
    owed_s = _owed_s(buckets, want.key, now) + _seconds(want, want.cost)
    if owed_s > 0:
        buckets[want.key] = (owed_s, now)
    else:
        buckets.pop(want.key, None)


def _owed_s(buckets: MutableMapping[Key, Owed], key: Key, now: float) -> float:
    """What it owes now; written anew where the clock was set back since."""
    owed_s, since = buckets.get(key, (0.0, now))
    if since > now:
        buckets[key] = (owed_s, now)
    return max(0.0, owed_s - max(0.0, now - since))


def _seconds(want: Want, cost: float) -> float:
    return cost * PERIOD_S / want.per_minute


class Buckets(OrderedDict[Key, Owed]):
    """The buckets of one process, for `take` and `correct`; the one unused longest is forgotten first."""

    def __setitem__(self, key: Key, value: Owed) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > MOST_NAMES:
            self.popitem(last=False)


class Places:
    """Who has a place: a stream, held or not, a whole answer, a request that passes, a reader of a kept answer.

    Attributes:
        taken: all of them.
    """

    def __init__(self) -> None:
        self._of: dict[str, int] = {}  # by caller's name; none at zero, so that names do not stay
        self.taken = 0

    def of(self, name: str) -> int:
        """How many this caller has."""
        return self._of.get(name, 0)

    def lacking(
        self,
        name: str,
        most: int | None,
        most_in_all: int | None,
        of_subject: tuple[str, int] | None = None,
    ) -> Literal["streams", "all streams", "token streams"] | None:
        """Which bound one more place of this caller would pass; None if there is room.

        Args:
            name: the caller's.
            most, most_in_all: the bounds; None for none.
            of_subject: whom the caller's browser token stands for, and that one's bound.
        """
        if of_subject is not None and self.of(of_subject[0]) >= of_subject[1]:
            return "token streams"
        if most is not None and self.of(name) >= most:
            return "streams"
        if most_in_all is not None and self.taken >= most_in_all:
            return "all streams"
        return None

    def take(self, name: str, subject: str = "") -> Place:
        """Takes one, whatever the bounds; whoever takes it releases it.

        Args:
            name: the caller's.
            subject: under which it is counted too; empty for none.
        """
        for counted in (name, subject) if subject else (name,):
            self._of[counted] = self.of(counted) + 1
        self.taken += 1
        return Place(self, name, subject)

    def _release(self, place: Place) -> None:
        self.taken -= 1
        for counted in (place.name, place.subject) if place.subject else (place.name,):
            self._of[counted] -= 1
            if not self._of[counted]:
                del self._of[counted]


class Place:
    """One place, from `Places.take` to `release`.

    Attributes:
        name: whose.
        subject: under which it is counted too; empty for none.
        released: it was given back.
    """

    __slots__ = ("_places", "name", "released", "subject")

    def __init__(self, places: Places, name: str, subject: str = "") -> None:
        self._places = places
        self.name = name
        self.subject = subject
        self.released = False

    def release(self) -> None:
        """Gives it back. Idempotent."""
        if not self.released:
            self.released = True
            self._places._release(self)
