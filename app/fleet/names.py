"""What things are called in a fleet: processes, their streams, and the keys in Redis. Pure, but for chance.

A process is called by its incarnation, which it makes at its start: one that is started anew is another. Every stream's
id holds its owner's, so that no directory of streams is needed. What belongs to one process has one hash tag, as Redis
Cluster calls it, so that one pipeline or script meets all of it in one place.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import NamedTuple

# The form of what is kept in Redis. One that reads a newer form than it knows leaves it alone.
FORMAT = 1
# 40 bits in 8 characters: among a million processes that ever were, no two are called the same but by a chance of 1 to 2.
_CHANCE_BYTES = 5
_ID = re.compile(r"st\d{1,4}_([a-z2-7]{8})\.[\w-]{1,64}", re.ASCII)


def new_incarnation() -> str:
    """A name for a process that no other has or had."""
    return base64.b32encode(secrets.token_bytes(_CHANCE_BYTES)).decode("ascii").lower()


def id_prefix(worker: int, incarnation: str) -> str:
    """What the ids of a process's streams begin with."""
    return f"st{worker}_{incarnation}."


def owner_of(stream_id: str) -> str | None:
    """The incarnation that has, or had, the stream; None where the id names none."""
    match = _ID.fullmatch(stream_id)
    return match[1] if match else None


def digest(text: str) -> str:
    """What stands for a text that is no secret of chance but nobody's business in Redis either, or that is too long."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class StreamKeys(NamedTuple):
    """The keys of one stream.

    Attributes:
        log: its frames.
        about: who may read it, and in which format it is.
    """

    log: str
    about: str


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a fleet.

    Attributes:
        prefix: what all of them begin with.
    """

    prefix: str

    def lease(self, incarnation: str) -> str:
        """A process's sign of life, with its address."""
        return f"{self.prefix}:{{{incarnation}}}:w"

    def place(self, incarnation: str) -> str:
        """The same without being a sign of life: it stays when that has lapsed."""
        return f"{self.prefix}:{{{incarnation}}}:p"

    def far(self, incarnation: str) -> str:
        """What is said to a process of readers who cannot reach it."""
        return f"{self.prefix}:{{{incarnation}}}:r"

    def stream(self, stream_id: str) -> StreamKeys:
        """Those of a stream."""
        tag = f"{self.prefix}:{{{owner_of(stream_id)}}}"
        return StreamKeys(f"{tag}:s:{stream_id}", f"{tag}:m:{stream_id}")

    def name(self, caller: str, subject: str, name: str) -> str:
        """The newest stream that one of a caller's users gave this name."""
        return f"{self.prefix}:{{n:{digest(caller)}}}:{digest(subject)}:{digest(name)}"

    @property
    def born(self) -> str:
        """That Redis holds what the fleet wrote: its age tells since when."""
        return f"{self.prefix}:{{g}}:born"

    @property
    def members(self) -> str:
        """Which processes there are."""
        return f"{self.prefix}:{{g}}:members"

    @property
    def secret(self) -> str:
        """What the processes prove themselves by."""
        return f"{self.prefix}:{{g}}:secret"
