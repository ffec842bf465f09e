"""What a worker and its parent tell each other at its start."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

_SOCKET = re.compile(r"(\d{1,4})\.sock")


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a service listens: what its parent opens once, and keeps. By the names of the settings."""

    host: str = ""
    port: int = 0
    unix: str = ""
    admin_host: str = ""
    admin_port: int = 0


@dataclass(frozen=True, slots=True)
class Wants:
    """What a worker has read of what its parent needs to know.

    Attributes:
        listening: where it is to listen.
        workers: how many there are to be.
        take_over: a live service on the unix socket is to be replaced.
        simulate: a simulated Claude is needed.
        log_level, log_format: how the parent is to log.
    """

    listening: Listening
    workers: int = 1
    take_over: bool = False
    simulate: bool = False
    log_level: str = "info"
    log_format: str = "auto"

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> Wants:
        """As a worker of any version tells it."""
        return cls(**_known(cls, told) | {"listening": Listening(**_known(Listening, told["listening"]))})


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is told by its parent.

    Attributes:
        number: its number, which no other process of this service has; part of its streams' ids.
        count: how many are to serve at once.
        folder: where each one's unix socket for the others lies; empty for a worker alone.
        listen_fds: the sockets that it is to accept readers from; empty to open them by the settings.
        older: paths of the unix sockets of those that this service replaces, while they drain.
        place: its place among those that serve at once, from 0: the one that it replaces had the same.
        admin_fds: the same for the admin port.
        public: how many of the sockets that came along are for readers; the others are the admin port's.
        beat_s: the parent is to hear of it that often, in seconds; 0 for never.
        listening: where the sockets listen, by the names of the settings, whatever files say by now.
        environ: what the environment has to hold beside what it holds.
    """

    number: int = 0
    count: int = 1
    folder: str = ""
    listen_fds: tuple[int, ...] = ()
    older: tuple[str, ...] = ()
    place: int = 0
    admin_fds: tuple[int, ...] = ()
    public: int = 0
    beat_s: float = 0.0
    listening: Mapping[str, str | int] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> WorkerSpec:
        """As a parent of any version tells it."""
        known = _known(cls, told)
        return cls(**known | {name: tuple(known.get(name, ())) for name in ("listen_fds", "older", "admin_fds")})

    def socket_of(self, number: int) -> str:
        """The path of another worker's socket."""
        assert self.folder, "a worker alone has no others"
        return f"{self.folder}/{number}.sock"

    def others(self) -> list[int]:
        """The numbers of all others that can be reached now, also of those that only end their streams."""
        if not self.folder:
            return []
        found = (_SOCKET.fullmatch(name) for name in os.listdir(self.folder))
        return sorted({int(match[1]) for match in found if match} - {self.number})


def _known(kind: type[Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What this version knows of what another one tells."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in told.items() if name in names}
