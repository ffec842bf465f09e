"""A real nginx, Debian's, on free ports and in a folder of its own: with the shipped configuration, or with none to speak of."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conftest import ROOT
from tests.support.readers import eventually

SHIPPED = ROOT / "config" / "nginx.conf"
SHIPPED_FLEET = ROOT / "config" / "nginx-fleet.conf"
OPERATORS = ROOT / "config" / "README.md"

# Who was accepted by a worker of nginx before a reload may send his request for this long (`client_header_timeout`), in
# seconds; it is passed on to a host that this worker still knows.
_ON_THEIR_WAY_S = 10.0

_MAIN = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
{user}
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
}}
"""


def binary() -> str:
    """Where nginx is; Debian keeps it out of a user's PATH."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found, "nginx is not installed: `make system` installs it"
    return found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def shipped(folder: Path, unix: str, port: int) -> str:
    """The shipped configuration with its three places changed: the port, the socket and the log."""
    text = SHIPPED.read_text("utf-8")
    for place, changed in (
        ("    listen 80 ", f"    listen 127.0.0.1:{port} "),
        ("    server unix:/run/sluiceway/sluiceway.sock;", f"    server {unix};"),
        ("    access_log /var/log/nginx/sluiceway.log ", f"    access_log {folder}/sluiceway.log "),
    ):
        assert text.count(place) == 1, f"{SHIPPED.name} has no single line {place!r}"
        text = text.replace(place, changed)
    return text


def shipped_fleet(folder: Path, ports: Sequence[int], port: int) -> str:
    """The same with the shipped upstream of a fleet, whose hosts are these ports here."""
    upstream = SHIPPED_FLEET.read_text("utf-8")
    for host, at in zip(("10.0.0.11", "10.0.0.12"), ports, strict=True):
        assert upstream.count(f"server {host}:8080 ") == 1
        upstream = upstream.replace(f"server {host}:8080 ", f"server 127.0.0.1:{at} ")
    before, _, rest = shipped(folder, "", port).partition("upstream sluiceway {")
    return before + upstream + rest.partition("\n}\n")[2]


def without_host(conf: str, port: int) -> str:
    """A fleet's configuration when the host at this port is out; by the operators' own command, and its counterpart undoes it."""
    out, back = re.findall(r"sed --in-place '(s/.*10\.0\.0\.11:8080.*)'", OPERATORS.read_text("utf-8"))
    without = _edited(out, port, conf)
    assert without != conf
    assert _edited(back, port, without) == conf
    return without


def _edited(expression: str, port: int, conf: str) -> str:
    command = ["sed", expression.replace("10.0.0.11:8080", f"127.0.0.1:{port}")]
    return subprocess.run(command, input=conf, check=True, capture_output=True, text=True).stdout


def plain(upstream_url: str, port: int) -> str:
    """What someone writes who read no manual: all defaults, so buffering, and HTTP/1.0 to the upstream."""
    return f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream_url}; }} }}"


def write(folder: Path, http: str) -> Path:
    """A whole configuration whose http block holds `http`."""
    user = "user root;" if os.geteuid() == 0 else ""
    path = folder / "nginx.conf"
    path.write_text(_MAIN.format(folder=folder, http=http, user=user), "utf-8")
    return path


def check(config: Path) -> str:
    """What `nginx -t` says; raises CalledProcessError where the configuration is wrong."""
    command = [binary(), "-t", "-c", str(config), "-e", str(config.parent / "error.log")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


@asynccontextmanager
async def mastered(folder: Path, http: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Runs it with a master, as in production; gives what puts another configuration in place, by a reload."""

    def put(text: str) -> Path:
        config = write(folder, text)
        config.write_text(config.read_text("utf-8").replace("master_process off;\n", ""), "utf-8")
        return config

    config = put(http)
    command = (binary(), "-c", str(config), "-e", str(folder / "error.log"), "-p", str(folder))
    process = await asyncio.create_subprocess_exec(*command)

    async def reload(text: str) -> None:
        put(text)
        older = _children(process.pid)
        process.send_signal(signal.SIGHUP)
        await eventually(lambda: all(_leaves(pid) for pid in older))
        await asyncio.sleep(_ON_THEIR_WAY_S)

    try:
        await eventually(lambda: bool(_children(process.pid)))
        yield reload
    finally:
        process.terminate()
        await process.wait()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()


def _leaves(pid: str) -> bool:
    """Whether a worker of nginx accepts nothing any more, or is gone."""
    try:
        return b"shutting down" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return True


@asynccontextmanager
async def nginx(folder: Path, http: str, port: int) -> AsyncIterator[str]:
    """Runs nginx with `http` in its http block until the block is left; gives the URL."""
    config = write(folder, http)
    process = await asyncio.create_subprocess_exec(
        binary(), "-c", str(config), "-e", str(folder / "error.log"), "-p", str(folder), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            while not await _listens(port):
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
