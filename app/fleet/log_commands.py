"""The commands that write and read a stream's log, and what Redis answers to them. Pure.

Only commands of Redis 6.2. A log and what is known about its stream are made in one transaction with their time to live,
so that no key is ever without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .mirror_rules import END_ID, LIFE_S, Ending, Found
from .names import FORMAT, StreamKeys

Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class About:
    """What must be known of a stream by who serves it from its log.

    Attributes:
        caller, subject, token_id: whose it is, as its terms say.
        token_digest: of its stop token.
        wire: the format of its frames.
    """

    caller: str
    subject: str
    token_id: str
    token_digest: str
    wire: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log.

    Attributes:
        first_id, last_id: the frames that it holds; of an end, the answer's last frame twice.
        data: the frames, joined as they are sent.
        ending: it ends the log.
    """

    first_id: int
    last_id: int
    data: bytes
    ending: Ending | None = None


def make(keys: StreamKeys, about: About, first_id: int, *, anew: bool = False) -> list[Command]:
    """Makes the log, whose first frame will be `first_id`; `anew` in place of another."""
    log, known, life_ms = keys.log, keys.about, int(LIFE_S * 1000)
    return [
        ("MULTI",),
        ("DEL", log if anew else known),
        (
            "HSET",
            known,
            "v",
            FORMAT,
            "c",
            about.caller,
            "u",
            about.subject,
            "k",
            about.token_id,
            "t",
            about.token_digest,
            "w",
            about.wire,
        ),
        ("PEXPIRE", known, life_ms),
        # The log is there before its first frame, so that it can be ended by another.
        ("XADD", log, f"{first_id - 1}-1", "v", FORMAT),
        ("PEXPIRE", log, life_ms),
        ("EXEC",),
    ]


def append(keys: StreamKeys, first_id: int, last_id: int, data: bytes, oldest_id: int) -> Command:
    """Appends the frames from `first_id` to `last_id`, joined; what lies before `oldest_id` is kept no longer."""
    if oldest_id > 1:
        return ("XADD", keys.log, "NOMKSTREAM", "MINID", "=", oldest_id, f"{last_id}-0", "i", first_id, "f", data)
    return ("XADD", keys.log, "NOMKSTREAM", f"{last_id}-0", "i", first_id, "f", data)


def close(keys: StreamKeys, ending: Ending, last_id: int, life_s: float) -> list[Command]:
    """Ends the log, which is kept for so long; of an expired one only that is kept."""
    log = keys.log
    trim = ("MAXLEN", "=", 1) if ending is Ending.EXPIRED else ()
    end = ("XADD", log, "NOMKSTREAM", *trim, f"{END_ID}-0", "e", ending.value, "n", last_id)
    return [end, *live(keys, life_s)]


def live(keys: StreamKeys, life_s: float) -> list[Command]:
    """Gives a log its time to live anew; the first reply is 0 where it is not there."""
    life_ms = max(1, int(life_s * 1000))
    return [("PEXPIRE", keys.log, life_ms), ("PEXPIRE", keys.about, life_ms)]


def look(keys: StreamKeys) -> Command:
    """Asks where the log stands."""
    return ("XREVRANGE", keys.log, "+", "-", "COUNT", 1)


def found(reply: Any) -> Found | None:
    """Where it stands, by the reply to `look`."""
    if not reply:
        return None
    entry = entries_of(reply)[-1]
    return Found(entry.last_id, entry.ending)


def read(keys: StreamKeys, after_id: int, count: int) -> Command:
    """Reads the first entries that hold frames after `after_id`, or the end."""
    return ("XRANGE", keys.log, f"{after_id + 1}-0", "+", "COUNT", count)


def entries_of(reply: Any) -> list[Entry]:
    """The entries in a reply to `read`. Raises ValueError for what is none."""
    entries = []
    for raw_id, raw_fields in reply:
        number, fields = int(raw_id.partition(b"-")[0]), dict(zip(raw_fields[::2], raw_fields[1::2], strict=True))
        if b"e" in fields:
            last_id = int(fields[b"n"])
            entries.append(Entry(last_id, last_id, b"", Ending(fields[b"e"].decode())))
        elif b"f" in fields:
            entries.append(Entry(int(fields[b"i"]), number, fields[b"f"]))
        else:  # where the log begins
            entries.append(Entry(number + 1, number, b""))
    return entries


class Gap(Exception):
    """The log lacks frames that the reader has not had."""


def after(entries: Sequence[Entry], sent_id: int) -> tuple[list[bytes], Ending | None]:
    """What a reader that has every frame up to `sent_id` is to be sent of these, and whether the log ends there.

    Returns:
        The frames, and the ending, after which nothing comes.

    Raises:
        Gap: frames are missing.
    """
    frames: list[bytes] = []
    for entry in entries:
        if entry.ending is not None:
            if entry.ending is Ending.ENDED and entry.last_id > sent_id:
                raise Gap
            return frames, entry.ending
        if entry.last_id <= sent_id:
            continue
        if entry.first_id > sent_id + 1:
            raise Gap
        frames += _parted(entry.data)[sent_id + 1 - entry.first_id :]
        sent_id = entry.last_id
    return frames, None


def _parted(data: bytes) -> list[bytes]:
    """Frames that were joined: each ends with a blank line, and holds no other (`wire/`)."""
    return [frame + b"\n\n" for frame in data.split(b"\n\n")[:-1]]
