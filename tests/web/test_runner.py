"""What a worker says on stdout, which may be a pipe that nobody reads any more."""

from __future__ import annotations

import os

from app.web.runner import _say


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
