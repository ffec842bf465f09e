"""What a worker says on stdout, which may be a pipe that nobody reads any more, and does when its parent is gone."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from app.fleet.tie import Tie
from app.web.runner import Running, _Ends, _obey, _say
from app.web.tasks import beside


def test_who_read_the_first_line_and_closed_stdout_ends_no_later_worker() -> None:
    saved, (reading, writing) = os.dup(1), os.pipe()
    try:
        os.dup2(writing, 1)
        _say("one line\n")
        assert os.read(reading, 100) == b"one line\n"
        os.close(reading)
        _say("another line\n")
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writing)


class _Asked(_Ends):
    """Knows whether the ports were free when it was told to end."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__()
        self._urls = urls
        self.taken: list[str] = []

    def at_once(self) -> None:
        for url in self._urls:
            with socket.socket() as successor:
                successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    successor.bind((urlsplit(url).hostname, urlsplit(url).port))
                except OSError:
                    self.taken.append(url)
        super().at_once()


@pytest.mark.real
async def test_a_worker_whose_parent_is_gone_frees_its_ports_before_it_ends_its_streams(service: Running) -> None:
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = _Asked([service.url, service.admin_url])
    ends.serving(service.streams)
    with closing(Tie(child.detach())) as tie:
        async with beside(_obey(tie, service, ends)):
            parent.close()
            await ends.asked.wait()
    assert (ends.orphaned, ends.taken) == (True, [])
