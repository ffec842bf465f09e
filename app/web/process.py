"""A worker's process: settings, what its parent tells it, logs, the way to Claude, then the service itself."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .. import settings
from ..access.sites import is_loopback
from ..fleet.spawn import PACKAGE
from ..fleet.spec import Listening, Wants, WorkerSpec
from ..fleet.tie import Message, Tie
from ..settings import Settings, SettingsError
from ..telemetry.log_lines import log_to
from .checks import check
from .credentials import Credentials
from .descriptors import raise_limit
from .event_loop import new_event_loop

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Command:
    """What the command line said.

    Attributes:
        overrides: settings by name; None for those that it did not give.
        config: the settings' file; None for none.
        take_over: this is a restart.
        simulate: without a key, a simulated Claude is to be started.
    """

    overrides: Mapping[str, str | None]
    config: str | None
    take_over: bool
    simulate: bool

    def read(self) -> Settings:
        """The settings as they are now. Raises SettingsError."""
        return settings.load(Path(self.config) if self.config is not None else None, overrides=self.overrides)


def serve(command: Command, workers: int, tie_fd: int | None) -> None:
    """Serves as one worker until a signal, or its parent, ends it.

    Args:
        command: what the command line said.
        workers: how many processes there are to be.
        tie_fd: what ties this one to its parent; None for one that is run without.

    Raises:
        SettingsError: it cannot be run like this. OSError: the machine does not let it.
    """
    loaded = command.read()
    check(loaded)
    if command.take_over and not loaded.listening.unix:
        raise SettingsError("--take-over: it needs unix, the path of the socket to take over")
    log_to(sys.stderr, loaded.logs.log_level, PACKAGE, loaded.logs.log_format)
    credentials = Credentials.of(os.environ)
    spec, tie = WorkerSpec(), Tie(tie_fd) if tie_fd is not None else None
    if tie is not None:
        asked = tie.ask(asdict(_wants(loaded, workers, command, credentials)))
        if asked is None:
            return  # the parent is gone
        spec = _told(*asked)
        loaded, credentials = _as_told(loaded, spec)
    raise_limit(max(loaded.admission.max_streams, loaded.connections.max_connections))
    if not spec.place and not is_loopback(admin_host := loaded.listening.admin_host):
        log.warning("admin_host %s is reachable from elsewhere: anyone there reads /metrics and /streams", admin_host)

    def read_again() -> Settings:
        return _as_told(command.read(), spec)[0]

    _run(imported().serve_until_signal(loaded, credentials, read_again, spec, tie, take_over=command.take_over))


def _wants(loaded: Settings, workers: int, command: Command, credentials: Credentials) -> Wants:
    listening = Listening(**{name: getattr(loaded.listening, name) for name in Listening.__slots__})
    no_key = not (credentials.api_key or os.environ.get("ANTHROPIC_AUTH_TOKEN"))
    logs = loaded.logs
    return Wants(listening, workers, command.take_over, command.simulate and no_key, logs.log_level, logs.log_format)


def _told(message: Message, sockets: list[socket.socket]) -> WorkerSpec:
    """What the parent has told, with the sockets that came along."""
    spec = WorkerSpec.parse(message)
    fds = tuple(sock.detach() for sock in sockets)
    return replace(spec, listen_fds=fds[: spec.public], admin_fds=fds[spec.public :])


def _as_told(loaded: Settings, spec: WorkerSpec) -> tuple[Settings, Credentials]:
    """The settings with what is open by now, whatever files say of it: who may call is judged by that.

    Raises:
        SettingsError: what was read cannot be served there.
    """
    told = Settings.model_validate(loaded.flat() | dict(spec.listening))
    if told.listening != loaded.listening:
        check(told)
    os.environ.update(spec.environ)
    return told, Credentials.of(os.environ)


def imported() -> ModuleType:
    """What runs the service. It takes most of a start: not for the parent of workers, nor before an error.

    The collector rests meanwhile: all that the modules make stays, and it would look at it again and again.
    """
    gc.disable()
    try:
        return importlib.import_module(".runner", __package__)
    finally:
        gc.enable()


def _run(main: Coroutine[Any, Any, T]) -> T | None:
    """Runs it to its end; None where a signal came before it served."""
    # What is alive now lives for ever, so the collector need not look at it again. Streams make some 250 objects each
    # but next to no cycles, so it should come seldom and in short steps, because every stream waits for it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            return runner.run(main)
        except asyncio.CancelledError:
            return None
