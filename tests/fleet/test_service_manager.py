"""What systemd is told by its own protocol, by a service alone and by workers' parent; and the unit that goes with it."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.fleet.service_manager import ServiceManager
from tests.support.process import Start

UNIT = Path(__file__).resolve().parent.parent.parent / "config" / "sluiceway.service"


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


async def until(heard: socket.socket, said: bytes) -> list[bytes]:
    """What comes until this is said, and it."""
    came: list[bytes] = []
    async with asyncio.timeout(60):
        while not came or came[-1] != said:
            came.append(await asyncio.get_running_loop().sock_recv(heard, 100))
    return came


@pytest.mark.real
@pytest.mark.parametrize("workers", [1, 2])
async def test_it_is_told_of_the_start_the_pulse_the_reload_and_the_end(
    workers: int, start: Start, heard: socket.socket
) -> None:
    told = {"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "300000"}
    service = await start("--port", "0", "--admin-port", "0", "--workers", str(workers), environ=told)
    before = await until(heard, b"READY=1")
    assert set(before[:-1]) <= {b"WATCHDOG=1"}
    await until(heard, b"WATCHDOG=1")
    await until(heard, b"WATCHDOG=1")
    service.process.send_signal(signal.SIGHUP)
    reloading = await until(heard, b"READY=1")
    assert len([said for said in reloading if re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", said)]) == 1
    service.process.terminate()
    assert b"READY=1" not in await until(heard, b"STOPPING=1"), "only the one that was started by it speaks"
    assert (await service.ended())[0] == 0


async def test_nobody_is_told_where_nobody_asked() -> None:
    environ = {"NOTIFY_SOCKET": "", "PATH": "/bin"}
    manager = ServiceManager.taken(environ)
    assert environ == {"PATH": "/bin"}, "nor is what this process starts"
    with manager.feeding():
        manager.ready()
        manager.stopping()


@pytest.mark.real
async def test_a_manager_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    manager = ServiceManager(str(tmp_path / "gone"), 30.0)
    with manager.feeding():
        manager.ready()


@pytest.mark.real
async def test_an_abstract_socket_is_told_too_and_another_process_watchdog_is_not_fed() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0sluiceway-{os.getpid()}")
        sock.setblocking(False)
        others = {"NOTIFY_SOCKET": f"@sluiceway-{os.getpid()}", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
        manager = ServiceManager.taken(others)
        with manager.feeding():
            manager.ready()
        assert sock.recv(100) == b"READY=1"
        with pytest.raises(BlockingIOError):
            sock.recv(100)


def test_the_unit_waits_for_the_word_and_for_the_drain() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text("utf-8"))
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > 30, "drain_s by default"
    assert int(service["WatchdogSec"]) > 0


@pytest.mark.real
def test_the_unit_is_one_and_leaves_the_service_little() -> None:
    rated = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)]  # 2.0
    done = subprocess.run(rated, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    verified = subprocess.run(["systemd-analyze", "verify", str(UNIT)], check=False, text=True, stderr=subprocess.PIPE)
    ours = [line for line in verified.stderr.splitlines() if line.startswith(UNIT.name)]
    wrong = [line for line in ours if "is not executable" not in line]
    assert wrong == [], "only the program is not there"
