"""What is said of a child's end."""

from __future__ import annotations

import signal

import pytest

from app.fleet.children import ending


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-signal.SIGKILL, "was ended by SIGKILL"),
        (-(signal.SIGRTMIN + 3), f"was ended by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_an_end_is_told_by_status_or_by_the_signals_name(status: int, told: str) -> None:
    assert ending(status) == told
