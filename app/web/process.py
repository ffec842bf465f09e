"""The process of `serve`: settings, logs, the way to Claude, then the service itself or the workers that run it."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .. import settings
from ..access.sites import is_loopback
from ..fleet.service_manager import ServiceManager
from ..fleet.supervisor import parse_worker, supervise
from ..fleet.tie import ParentsEnd
from ..settings import Settings, SettingsError
from ..telemetry.log_lines import log_to
from .checks import check
from .credentials import SIMULATED_KEY, Credentials
from .descriptors import raise_limit

log = logging.getLogger(__name__)

T = TypeVar("T")

_PACKAGE = __name__.partition(".")[0]


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

    @property
    def arguments(self) -> list[str]:
        """The same for a worker, whose parent has the socket and the simulated Claude."""
        given = dict(self.overrides, config=self.config)
        return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def serve(command: Command, workers: int, worker: str | None) -> bool:
    """Serves until a signal ends it; False where workers could not start and have said why.

    Args:
        command: what the command line said.
        workers: how many processes.
        worker: what its parent tells it, in JSON.

    Raises:
        SettingsError: it cannot be run like this. OSError: the machine does not let it.
    """
    loaded = command.read()
    check(loaded)
    if command.take_over and not loaded.listening.unix:
        raise SettingsError("--take-over: it needs unix, the path of the socket to take over")
    raise_limit(max(loaded.admission.max_streams, loaded.connections.max_connections))
    log_to(sys.stderr, loaded.logs.log_level, _PACKAGE, loaded.logs.log_format)
    if not worker and not is_loopback(admin_host := loaded.listening.admin_host):
        log.warning("admin_host %s is reachable from elsewhere: anyone there reads /metrics and /streams", admin_host)
    how: dict[str, Any] = {"manager": ServiceManager.taken(os.environ), "take_over": command.take_over}
    with _credentials(simulate=command.simulate) as credentials:
        if workers > 1:
            up = _run(supervise(loaded, workers, command.arguments, credentials.environ, **how))
            return up is not False
        spec = parse_worker(worker) if worker else None
        serve_until_signal = imported().serve_until_signal
        _run(serve_until_signal(loaded, credentials, command.read, spec, **how))
        return True


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
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        try:
            return runner.run(main)
        except asyncio.CancelledError:
            return None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextmanager
def _credentials(*, simulate: bool) -> Iterator[Credentials]:
    """The SDK's own environment variables; or a simulated Claude, where that was asked for and there is no key."""
    found = Credentials.of(os.environ)
    if found.api_key or os.environ.get("ANTHROPIC_AUTH_TOKEN") or not simulate:
        yield found
        return
    with _simulated() as url:
        print(f"No ANTHROPIC_API_KEY: answers come from a simulated Claude on {url}. They cost nothing.", flush=True)
        yield Credentials(api_key=SIMULATED_KEY, base_url=url, simulated=True)


@contextmanager
def _simulated() -> Iterator[str]:
    """A simulated Claude that ends with the block, and with this process; its URL."""
    tie = ParentsEnd()
    fd = tie.theirs.fileno()
    command = [sys.executable, "-m", _PACKAGE, "simulate", "--port", "0", "--tie", str(fd)]
    try:
        # It gets a session of its own, so that a terminal's Ctrl-C does not end it while it still feeds this process's
        # streams.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, pass_fds=[fd], start_new_session=True
        ) as process:
            tie.theirs.close()
            try:
                assert process.stdout is not None, "it was asked for"
                url = process.stdout.readline().strip().rpartition(" ")[2]
                if not url.startswith("http"):
                    raise SettingsError("--simulate: the simulated Claude did not start")
                yield url
            finally:
                process.terminate()
    finally:
        tie.close()
