"""The processes of a bench: the upstream, the service, nginx's pass-through and peers; and what each of them used."""

from __future__ import annotations

import importlib.util
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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.tools.load.protocols import MESSAGES, PLAIN, Protocol

ROOT = Path(__file__).resolve().parents[2]
_START_S = 45.0
_PEER_NEEDS = ("fastapi", "sse_starlette", "uvicorn")

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
    upstream claude {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://claude;
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
        url: where it listens.
        protocol: what it is asked in.
        pid: of the process, whose children count too.
    """

    name: str
    url: str
    protocol: Protocol
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds used so far by it and its children, to the nanosecond."""
        return sum(_cpu_ns(pid) for pid in _tree(self.pid)) / 1e9

    def memory_bytes(self) -> int:
        """Proportional set size of it and its children."""
        return sum(_pss_bytes(pid) for pid in _tree(self.pid))


class Upstream:
    """The counting Claude, from outside.

    Args:
        port: where it listens.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def set(self, **knobs: Any) -> None:
        """Turns its knobs and forgets its books."""
        request = urllib.request.Request(f"{self.url}/knobs", json.dumps(knobs).encode())
        urllib.request.urlopen(request, timeout=10).read()

    def books(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Runs the counting Claude."""
    port = free_port()
    with _process([sys.executable, "-m", "tests.bench.upstream", str(port)], port):
        yield Upstream(port)


@contextmanager
def service(above: Upstream, name: str = "sluiceway", settings: Mapping[str, str] | None = None) -> Iterator[Contender]:
    """Runs the service with its defaults, but for the settings given as environment variables; it refuses no one."""
    port, admin_port = free_port(), free_port()
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--admin-port", str(admin_port)]
    own = {"ANTHROPIC_API_KEY": "sk-ant-bench", "ANTHROPIC_BASE_URL": above.url, "SLUICEWAY_LOG_LEVEL": "warning"}
    own["SLUICEWAY_MAX_LAG_S"] = "60"
    with _process(command, port, own | dict(settings or {})) as pid:
        yield Contender(name, f"http://127.0.0.1:{port}", PLAIN, pid)


@contextmanager
def nginx(above: Upstream, folder: Path) -> Iterator[Contender]:
    """Runs nginx as the plainest unbuffered pass-through: what it costs to do nothing."""
    port = free_port()
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert binary is not None, "nginx is not installed: `make system` installs it"
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=above.port, port=port), "utf-8")
    with _process([binary, "-c", str(config), "-e", str(folder / "error.log"), "-p", str(folder)], port) as pid:
        yield Contender("nginx", f"http://127.0.0.1:{port}", MESSAGES, pid)


@contextmanager
def peers(above: Upstream) -> Iterator[list[Contender]]:
    """Runs the peers that are installed here."""
    with ExitStack() as stack:
        found = []
        if all(importlib.util.find_spec(name) for name in _PEER_NEEDS):
            port = free_port()
            own = {"ANTHROPIC_API_KEY": "sk-ant-bench", "ANTHROPIC_BASE_URL": above.url}
            command = [sys.executable, "-m", "tests.bench.peer_fastapi", str(port)]
            pid = stack.enter_context(_process(command, port, own))
            found.append(Contender("FastAPI + sse-starlette", f"http://127.0.0.1:{port}", PLAIN, pid))
        yield found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _process(command: list[str], port: int, environ: Mapping[str, str] | None = None) -> Iterator[int]:
    # Every stream is two open files to those in the middle; children inherit the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICEWAY_", "ANTHROPIC_"))}
    with subprocess.Popen(
        command, cwd=ROOT, env=clean | dict(environ or {}), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            deadline = time.monotonic() + _START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    assert process.stderr is not None, "it was asked for"
                    raise RuntimeError(f"{command} did not start: {process.stderr.read().decode()[-2000:]}")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:  # it gives streams that are left over their drain time
                process.kill()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
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


def _pss_bytes(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
