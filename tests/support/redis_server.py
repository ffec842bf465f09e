"""A real redis-server of a test's own: started on a free port, killed, stopped, restarted empty."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

PROGRAM = shutil.which("redis-server") or "/usr/bin/redis-server"


class RedisServer:
    """The server.

    Args:
        folder: for its log.
        arguments: further ones of `redis-server`.

    Attributes:
        url: for `redis_url`.
        client: a client of the test's own.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Redis = Redis(port=self.port, socket_timeout=20)

    def start(self) -> None:
        """Starts it, empty, and waits until it answers."""
        command = [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        with open(self._folder / "redis.log", "ab") as log:
            self._process = subprocess.Popen([*command, *self._arguments], stdout=log, stderr=log)
        until = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                return
            except RedisConnectionError:
                assert time.monotonic() < until, (self._folder / "redis.log").read_text("utf-8")
                time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None, "it was started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once; what it held is lost. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def names(self) -> list[str]:
        """Every key."""
        return sorted(key.decode() for key in self.client.scan_iter(count=1000))

    def without_expiry(self) -> list[str]:
        """Keys that would stay for ever."""
        return [key for key in self.names() if self.client.pttl(key) == -1]

    def connections(self, name: str = "") -> int:
        """How many clients are connected beside the test's own, by the name that they gave themselves."""
        clients: list[dict[str, Any]] = self.client.client_list()
        own = self.client.client_id()
        return sum(client["id"] != str(own) and client["name"].startswith(name) for client in clients)


@contextmanager
def redis_server(folder: Path, *arguments: str) -> Iterator[RedisServer]:
    """A server that ends with the block."""
    server = RedisServer(folder, *arguments)
    server.start()
    try:
        yield server
    finally:
        server.client.close()
        server.kill()
