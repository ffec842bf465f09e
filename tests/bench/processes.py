"""The processes of a bench: the upstream, the service, nginx's pass-through; and what each of them used."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from app.tools.load.protocols import MESSAGES, PLAIN, Protocol
from tests.support.tls import certificate

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
# How Claude is reached: by TLS, as the real one is, and plainly beside it.
TLS, BARE = WAYS = ("TLS", "plain")
# What imports the most takes some seconds, and longer on a busy machine.
_START_S = 90.0

_NGINX = """\
worker_processes 1;
master_process off;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream claude {{ server {claude}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass {scheme}://claude;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that passes Claude's stream on.

    Attributes:
        name: in the results.
        way: how it reaches Claude, one of `WAYS`.
        url: where it listens.
        protocol: what it is asked in.
        pid: of the process, whose children count too.
    """

    name: str
    way: str
    url: str
    protocol: Protocol
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds used so far by it and its children, to the nanosecond."""
        return sum(_cpu_ns(pid) for pid in _tree(self.pid)) / 1e9

    def memory_bytes(self) -> int:
        """What it and its children hold for themselves alone. A share of what others map too would change with those."""
        return sum(_own_bytes(pid) for pid in _tree(self.pid))


class Upstream:
    """The counting Claude, from outside.

    Args:
        host: where it listens.
        port, tls_port: plainly, and under TLS.
    """

    def __init__(self, host: str, port: int, tls_port: int) -> None:
        self._ports = {BARE: port, TLS: tls_port}
        self._host = host

    def address(self, way: str) -> str:
        return f"{self._host}:{self._ports[way]}"

    def url(self, way: str) -> str:
        return f"{'https' if way == TLS else 'http'}://{self.address(way)}"

    @property
    def pem(self) -> Path:
        """Its key and certificate."""
        return certificate(f"IP:{self._host}")

    def environ(self, way: str) -> dict[str, str]:
        """For a process that is to ask it, by Anthropic's SDK or as that would."""
        own = {"ANTHROPIC_API_KEY": "sk-ant-bench", "ANTHROPIC_BASE_URL": self.url(way)}
        return own | ({"SSL_CERT_FILE": str(self.pem)} if way == TLS else {})

    def set(self, **knobs: Any) -> None:
        """Turns its knobs and forgets its books."""
        request = urllib.request.Request(f"{self.url(BARE)}/knobs", json.dumps(knobs).encode())
        urllib.request.urlopen(request, timeout=10).read()

    def books(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.url(BARE)}/stats", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextmanager
def upstream(host: str = LOOPBACK, within: Sequence[str] = ()) -> Iterator[Upstream]:
    """Runs the counting Claude, plainly and under TLS.

    Args:
        host: where it listens.
        within: the command that runs it somewhere else, such as in another network namespace.
    """
    port, tls_port = free_port(), free_port()
    made = Upstream(host, port, tls_port)
    ours = [sys.executable, "-m", "tests.bench.upstream", host, str(port), str(tls_port), str(made.pem)]
    with process([*within, *ours], (host, port)):
        yield made


@contextmanager
def service(above: Upstream, way: str, name: str = "sluiceway") -> Iterator[Contender]:
    """Runs the service with its defaults; it refuses no one."""
    port, admin_port = free_port(), free_port()
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--admin-port", str(admin_port)]
    own = {"SLUICEWAY_LOG_LEVEL": "warning", "SLUICEWAY_MAX_LAG_S": "60"}
    with process(command, (LOOPBACK, port), above.environ(way) | own) as pid:
        yield Contender(name, way, f"http://{LOOPBACK}:{port}", PLAIN, pid)


@contextmanager
def nginx(above: Upstream, way: str, folder: Path) -> Iterator[Contender]:
    """Runs nginx as the plainest unbuffered pass-through: what it costs to do nothing. `folder` is its own."""
    port = free_port()
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert binary is not None, "nginx is not installed: `make system` installs it"
    config = folder / "nginx.conf"
    scheme = "https" if way == TLS else "http"
    config.write_text(_NGINX.format(folder=folder, claude=above.address(way), scheme=scheme, port=port), "utf-8")
    command = [binary, "-c", str(config), "-e", str(folder / "error.log"), "-p", str(folder)]
    with process(command, (LOOPBACK, port)) as pid:
        yield Contender("nginx", way, f"http://{LOOPBACK}:{port}", MESSAGES, pid)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def process(command: list[str], address: tuple[str, int], environ: Mapping[str, str] | None = None) -> Iterator[int]:
    """Runs it until the block is left; yields its pid once it listens at `address`.

    Raises:
        RuntimeError: it ended, or did not listen in time.
    """
    # Every stream is two open files to those in the middle; children inherit the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICEWAY_", "ANTHROPIC_"))}
    with (
        TemporaryFile() as told,
        subprocess.Popen(
            command, cwd=ROOT, env=clean | dict(environ or {}), stdout=subprocess.DEVNULL, stderr=told
        ) as running,
    ):
        try:
            deadline = time.monotonic() + _START_S
            while not _listens(address):
                if running.poll() is not None or time.monotonic() > deadline:
                    running.kill()
                    told.seek(0)
                    raise RuntimeError(f"{command} did not start: {told.read().decode()[-2000:]}")
                time.sleep(0.05)
            yield running.pid
        finally:
            running.terminate()
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:  # it gives streams that are left over their drain time
                running.kill()


def _listens(address: tuple[str, int]) -> bool:
    """Whether somebody answers there, whatever it is: a port may be open before whoever serves it has started."""
    try:
        with socket.create_connection(address, 1) as caller:
            caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
            caller.recv(1)
            return True
    except OSError:
        return False


def _tree(pid: int) -> list[int]:
    """The process and its descendants; those that are just gone are left out."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                todo += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def _cpu_ns(pid: int) -> int:
    total = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(schedstat.read_text().split()[0])
        except OSError:
            continue
    return total


def _own_bytes(pid: int) -> int:
    try:
        found = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    except OSError:
        return 0
    return sum(map(int, found)) * 1024
