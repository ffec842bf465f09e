"""The parent of the workers, one or several: it opens the sockets, starts them, replaces those that die, and on SIGHUP all of them.

    SIGHUP ──▶ a new generation starts from the files as they are now: code, settings, callers, prices
               it cannot start ──▶ it has said why, and the old one goes on as if nothing had been
               all are ready ──▶ the old one is told to leave, the new one to begin, on the same open sockets
               the old one serves what it has to its end, for `drain_s` at most

It stays the same process from start to end, and its own code is the one that it was started with. It reads no settings: the
first worker tells what they say of it, so that it needs neither the libraries of the service nor their memory.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field

from ..settings_error import SettingsError
from ..telemetry.log_lines import log_to
from .children import Children, ending
from .generation import Generation, Worker
from .service_manager import ServiceManager
from .simulated import simulated
from .sockets import Sockets, changed
from .spawn import PACKAGE, Spawned, spawn_worker
from .spec import Wants, WorkerSpec
from .unix_path import folder_of_sockets

log = logging.getLogger(__name__)

# A worker that is silent for so long, in seconds, is never taken for hung: the machine may be busy.
_LEAST_SILENCE_S = 10.0
# The admin port is tried this often, in seconds, while the service that is replaced still has it, because a port does
# not tell when it is free.
_ADMIN_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is opened once, and outlives the workers.

    Attributes:
        wants: what the first worker wanted.
        sockets: where it listens.
        environ: what workers need to reach a simulated Claude.
    """

    wants: Wants
    sockets: Sockets
    environ: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """The parent.

    Args:
        arguments: of `serve`, as this process got them; each worker gets them too.
        folder: where workers find each other.
        manager: is told how the service fares.
        first: the first worker, which has been started already.
    """

    def __init__(
        self, arguments: Sequence[str], folder: str, manager: ServiceManager, first: Spawned | None = None
    ) -> None:
        self._first = first
        self._arguments = arguments
        self._folder = folder
        self._manager = manager
        self._children = Children()
        self._stack = AsyncExitStack()
        self._opened: _Opened | None = None  # once the first worker has said what
        self._living: set[Worker] = set()
        self._generations: list[Generation] = []  # those that serve or start, the newest last
        # A worker is watched where the service is, because it is there that streams are served.
        self._silence_s = max(manager.watchdog_s, _LEAST_SILENCE_S) if manager.watchdog_s else 0.0
        self._status = 1  # the exit status of a start that failed
        self._stopping = asyncio.Event()
        self._hung_up = asyncio.Event()

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT, which are passed on: each worker drains; a second signal hurries them.

        Returns:
            The exit status: not 0 where it could not be started, and why has been said.

        Raises:
            SettingsError: it cannot be listened there.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        loop.add_signal_handler(signal.SIGCHLD, self._children.reap)
        try:
            return await self._run()
        finally:
            # Not left to the loop: it closes what a signal wakes it by before it lets go of signals, and a child's end
            # between the two would be told of on standard error.
            for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _run(self) -> int:
        wrong: SettingsError | None = None
        async with self._stack:
            with self._manager.feeding():
                async with asyncio.TaskGroup() as tasks:
                    try:
                        up = await self._next(tasks)
                    except SettingsError as error:  # kept: a group would wrap it
                        up, wrong = False, error
                    if up:
                        await self._serve(tasks)
        if wrong is not None:
            raise wrong
        return 0 if up or self._stopping.is_set() else self._status

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        self._manager.ready()
        following = tasks.create_task(self._follow_admin())
        stopping = tasks.create_task(self._stopping.wait())
        while not self._stopping.is_set():
            hung_up = tasks.create_task(self._hung_up.wait())
            await asyncio.wait((stopping, hung_up), return_when=asyncio.FIRST_COMPLETED)
            hung_up.cancel()
            if not self._stopping.is_set():
                self._hung_up.clear()  # one that comes from here on asks for another one
                await self._reload(tasks)
        following.cancel()
        self._manager.stopping()

    async def _reload(self, tasks: asyncio.TaskGroup) -> None:
        """Replaces all workers, or none."""
        log.info("everything is read again: new workers start")
        self._manager.reloading()
        up = await self._next(tasks)
        if self._stopping.is_set():
            return
        if up:
            log.info("new workers serve; the older ones end what they have")
        else:
            log.error("nothing has changed, since new workers could not start: the lines before this one say why")
        self._manager.ready()

    async def _next(self, tasks: asyncio.TaskGroup) -> bool:
        """Starts a generation, and lets it take the place of the one before.

        Returns:
            Whether it does; if not, the reason has been said.

        Raises:
            SettingsError: it cannot be listened there.
        """
        first = await self._start(0)
        if first is None or self._opened is None:
            return False
        generation = Generation(self._opened.wants.workers, self._start, self._over)
        older = self._generations[:]
        self._generations.append(generation)
        for place in range(self._opened.wants.workers):
            tasks.create_task(generation.keep(place, None if place else first), name=f"worker {place}")
        await generation.decided.wait()
        try:
            if generation.ending.is_set():
                self._generations.remove(generation)
                return False
            if not older:
                self._opened.sockets.publish()
            for each in older:
                each.leave()
            self._generations = [generation]
        except SettingsError:
            generation.end(signal.SIGTERM)
            raise
        finally:
            generation.begun.set()  # nobody waits for it any more, whatever it is
        return True

    async def _start(self, place: int) -> Worker | None:
        """A worker that has been told what it is; None where it could not be started, or ended before it had asked.

        Raises:
            SettingsError: it is the first of all, and it cannot be listened where it wants.
        """
        environ = {**os.environ, **(self._opened.environ if self._opened is not None else {})}
        try:
            spawned, self._first = self._first or spawn_worker(self._arguments, environ), None
        except OSError as error:
            log.error("a worker cannot be started: %s", error)
            return None
        child = self._children.adopt(spawned)
        numbers = {worker.number for worker in self._living}
        number = next(free for free in range(len(numbers) + 1) if free not in numbers)
        worker = Worker(child, number, self._silence_s)
        self._living.add(worker)
        self._children.reap()  # the first one may have ended before anybody listened to that
        if self._stopping.is_set():
            child.tell(signal.SIGTERM)
        try:
            said = await worker.says("wants")
            if said is not None and not self._stopping.is_set():
                opened = await self._open(Wants.parse(said["wants"]))
                self._tell(worker, place, opened)
                return worker
        except BaseException:
            child.tell(signal.SIGTERM)
            self._over(worker)
            raise
        status = await child.wait()
        if status < 0 and not self._stopping.is_set():
            log.error("worker %d %s before it served", place, ending(status))
        self._status = max(status, 1) if status else 0  # that of `serve --help`
        self._over(worker)
        return None

    async def _open(self, wants: Wants) -> _Opened:
        """What is open, and is opened now for the first worker of all. Raises SettingsError."""
        if self._opened is None:
            log_to(sys.stderr, wants.log_level, PACKAGE, wants.log_format)
            sockets = Sockets(wants)
            self._stack.callback(sockets.close)
            environ: dict[str, str] = {}
            if wants.simulate:
                environ = await self._stack.enter_async_context(simulated(self._children))
                url = environ["ANTHROPIC_BASE_URL"]
                print(
                    f"No ANTHROPIC_API_KEY: answers come from a simulated Claude on {url}. They cost nothing.",
                    flush=True,
                )
            self._opened = _Opened(wants, sockets, environ)
        elif others := changed(self._opened.wants, wants):
            log.warning("%s changed: that takes a restart", ", ".join(others))
        return self._opened

    def _tell(self, worker: Worker, place: int, opened: _Opened) -> None:
        public, admin = opened.sockets.public(place), opened.sockets.admin(place)
        spec = WorkerSpec(
            number=worker.number,
            count=opened.wants.workers,
            folder=self._folder,
            older=tuple(opened.sockets.older),
            place=place,
            public=len(public),
            beat_s=self._silence_s / 3,
            listening=asdict(opened.wants.listening),
            environ=opened.environ,
        )
        worker.child.tie.tell({"spec": asdict(spec)}, [*public, *admin])

    def _over(self, worker: Worker) -> None:
        """It has ended; what it could not remove itself is removed, before another one has its number."""
        worker.child.tie.close()
        self._living.discard(worker)
        own = WorkerSpec(folder=self._folder).socket_of(worker.number)
        for path in (own, *glob.glob(f"{self._folder}/*-{worker.number}-{worker.child.pid}.admin")):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _end(self, number: signal.Signals) -> None:
        self._stopping.set()
        if self._opened is not None:
            self._opened.sockets.let_go()
        for generation in self._generations:
            generation.end()
        for worker in self._living:
            worker.child.tell(number)

    async def _follow_admin(self) -> None:
        """Takes the admin ports over once the service that is replaced has left them."""
        assert self._opened is not None, "workers serve"
        sockets = self._opened.sockets
        while not sockets.has_admin:
            await asyncio.sleep(_ADMIN_RETRY_S)
            if sockets.follow_admin():
                for generation in self._generations:
                    for place, worker in generation.running.items():
                        worker.tell({"admin": True}, sockets.admin(place))


def main(arguments: Sequence[str], first: Spawned) -> int:
    """Runs a service as the parent of its workers until a signal ends it.

    Args:
        arguments: of `serve`.
        first: the first worker.

    Returns:
        The exit status.
    """
    manager = ServiceManager.taken(os.environ)
    try:
        with folder_of_sockets() as folder:
            return asyncio.run(Supervisor(arguments, folder, manager, first).run())
    except SettingsError as error:
        print(f"Error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
