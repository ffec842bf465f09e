"""A link with a long way on it: two tun devices, and between them a program that hands each packet over later, or not at all.

It needs root and /dev/net/tun, and no kernel module: netem is not everywhere. What runs in the link's network namespace is
far away; its address is `LongLink.there`.

    python -m tests.support.long_link NAMESPACE NETWORK DELAY_MS LOSS SEED     until its standard input is closed
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DEVICE = Path("/dev/net/tun")
_SET_DEVICE, _IS_TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000  # TUNSETIFF, IFF_TUN, IFF_NO_PI of <linux/if_tun.h>
_PACKET_BYTES = 65_536
# On the way in one direction: four seconds of 1,000 tokens/s. What comes beyond is lost, as a router's queue would lose it.
_MOST_PACKETS = 4096
_START_S = 30
_numbers = itertools.count(os.getpid() % 250)


@dataclass(frozen=True, slots=True)
class LongLink:
    """A running link.

    Attributes:
        namespace: the network namespace at its far end.
        here, there: the addresses of its ends.
        carrier: the process that carries what is on it.
    """

    namespace: str
    here: str
    there: str
    carrier: int

    @property
    def within(self) -> tuple[str, ...]:
        """What stands before a command that is to run far away."""
        return ("ip", "netns", "exec", self.namespace)

    def stall(self) -> None:
        """From now on nothing comes through, and nobody is told; until `mend`."""
        os.kill(self.carrier, signal.SIGSTOP)

    def mend(self) -> None:
        """It carries again. Idempotent."""
        os.kill(self.carrier, signal.SIGCONT)


def can_be_made() -> bool:
    """Whether this machine lets us."""
    return os.geteuid() == 0 and _DEVICE.exists() and shutil.which("ip") is not None


@contextmanager
def long_link(round_trip_s: float, loss: float = 0.0, seed: int = 0) -> Iterator[LongLink]:
    """Makes a link, and takes it down again.

    Args:
        round_trip_s: how long a packet and its answer take, in seconds.
        loss: share of the packets that are lost, in each direction, 0 to 1.
        seed: of which ones.

    Raises:
        RuntimeError: it could not be made.
    """
    number = next(_numbers) % 250
    namespace, network = f"sluiceway-long-{os.getpid()}-{number}", f"10.214.{number}"
    given = [namespace, network, str(round_trip_s * 500), str(loss), str(seed)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.long_link", *given],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as carrier:  # fmt: skip
        to_it, from_it = carrier.stdin, carrier.stdout
        assert to_it is not None, "it was asked for"
        assert from_it is not None, "it was asked for"
        try:
            if from_it.readline() != b"up\n":
                raise RuntimeError("no long link: it says why above")
            yield LongLink(namespace, f"{network}.1", f"{network}.2", carrier.pid)
        finally:
            carrier.send_signal(signal.SIGCONT)
            to_it.close()
            carrier.wait(_START_S)


class Direction:
    """The packets that are on their way from one device to the other, in order."""

    def __init__(self, source: int, target: int, delay_s: float, loss: float, rng: random.Random) -> None:
        self._source, self._target = source, target
        self._delay_s, self._loss, self._rng = delay_s, loss, rng
        self._under_way: deque[tuple[float, bytes]] = deque()

    def taken_in(self) -> None:
        """Takes what the source has sent."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                packet = os.read(self._source, _PACKET_BYTES)
            except BlockingIOError:
                return
            if self._rng.random() < self._loss or len(self._under_way) >= _MOST_PACKETS:
                continue
            if not self._under_way:
                loop.call_later(self._delay_s, self._hand_over)
            self._under_way.append((loop.time() + self._delay_s, packet))

    def _hand_over(self) -> None:
        loop = asyncio.get_running_loop()
        while self._under_way and self._under_way[0][0] <= loop.time():
            try:
                os.write(self._target, self._under_way.popleft()[1])
            except OSError:
                continue  # the device's own queue is full, or it is down: lost
        if self._under_way:
            loop.call_at(self._under_way[0][0], self._hand_over)


def _tun(name: str) -> int:
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _SET_DEVICE, struct.pack("16sH", name.encode(), _IS_TUN | _NO_HEADER))
    return descriptor


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=_START_S)


async def carry(namespace: str, network: str, delay_s: float, loss: float, seed: int) -> None:
    """Makes the devices and carries packets until standard input is closed; the namespace and both devices go with it."""
    near, far = (f"sl{os.getpid()}{end}" for end in "nf")
    # A device lives as long as its descriptor.
    here, there = _tun(near), _tun(far)
    _ip("netns", "add", namespace)
    try:
        _ip("link", "set", far, "netns", namespace)
        _ip("address", "add", f"{network}.1/24", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", namespace, "address", "add", f"{network}.2/24", "dev", far)
        for device in ("lo", far):
            _ip("-n", namespace, "link", "set", device, "up")
        loop, rng = asyncio.get_running_loop(), random.Random(seed)
        for source, target in ((here, there), (there, here)):
            loop.add_reader(source, Direction(source, target, delay_s, loss, rng).taken_in)
        print("up", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        for source in (here, there):
            loop.remove_reader(source)
    finally:
        _ip("netns", "delete", namespace)


if __name__ == "__main__":
    asyncio.run(carry(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000, float(sys.argv[4]), int(sys.argv[5])))
