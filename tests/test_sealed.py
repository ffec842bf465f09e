"""The unit lane's seal: what goes outside fails, also where the code under test takes it for a failing network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.sealed import Outside, sealed


def _connects() -> object:
    return socket.create_connection(("127.0.0.1", 9))


def _listens() -> object:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening


def _starts_a_program() -> object:
    return subprocess.run([sys.executable, "--version"], check=True)


def _looks_a_name_up() -> object:
    return socket.getaddrinfo("localhost", 80)


WAYS = [_connects, _listens, _starts_a_program, _looks_a_name_up, os.fork]


@pytest.mark.real  # or the lane's own seal would speak
@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_outside(way: Callable[[], object]) -> None:
    with pytest.raises(Outside, match="mark it"), sealed():
        way()


@pytest.mark.real
@pytest.mark.parametrize("way", WAYS)
def test_one_who_takes_no_notice_is_told_at_the_end(way: Callable[[], object]) -> None:
    with pytest.raises(Outside, match="mark it"), sealed(), contextlib.suppress(BaseException):
        way()


@pytest.mark.real
def test_what_was_sealed_is_open_afterwards() -> None:
    with sealed():
        pass
    _listens()


def test_a_loop_may_wake_itself() -> None:
    with asyncio.Runner() as runner:
        runner.run(asyncio.to_thread(lambda: None))
