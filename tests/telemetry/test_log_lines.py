"""One record is one line that no caller can have written; below warnings only the service itself speaks."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from app.telemetry.log_lines import JsonFormatter, LineFormatter, escaped, log_to

FORGED = "claude\n2026-01-01 00:00:00,000 ERROR app: forged"


def line_of(message: str, *args: object, exception: bool = False) -> str:
    record = logging.LogRecord("app.x", logging.INFO, "x.py", 1, message, args, sys.exc_info() if exception else None)
    return LineFormatter().format(record)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("claude-opus-4-8, für 你好", "claude-opus-4-8, für 你好"),
        ("a\nb\r\x00\x1b[31m", "a\\nb\\r\\x00\\x1b[31m"),
        ("\u2028\u0085\u202e\ud800", "\\u2028\\x85\\u202e\\ud800"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, seen: str) -> None:
    assert escaped(text) == seen


def test_a_name_with_a_line_break_forges_no_line() -> None:
    line = line_of("stream of %s ended", FORGED)
    assert "\n" not in line
    assert line.endswith("forged ended")


def test_an_exception_that_repeats_such_a_name_forges_no_line_either() -> None:
    try:
        raise ValueError(FORGED + "\r\n\u2028" + FORGED)
    except ValueError:
        first, *others = line_of("failed", exception=True).split("\n")
    assert first.endswith("app.x: failed")
    assert [line for line in others if not line.startswith("  ")] == []
    assert any("forged" in line for line in others)


def test_as_json_a_record_is_one_line_whatever_a_name_holds() -> None:
    try:
        raise ValueError(FORGED + "\r\n\u2028")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord("app.x", logging.INFO, "x.py", 1, "stream of %s ended", (FORGED + "\ud800\u2028",), info)
    record.facts = {"stream": "st0_x", "cost_usd": None}
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    told = json.loads(line)
    assert (told["level"], told["logger"], told["stream"], told["cost_usd"]) == ("info", "app.x", "st0_x", None)
    assert told["message"].startswith(f"stream of {FORGED}")
    assert "ValueError" in told["exception"]
    assert told["time"].endswith("+00:00")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("human", io.StringIO, False),
        ("json", Terminal, True),
    ],
)
def test_people_read_lines_on_a_terminal_and_programs_json(
    form: str, stream: type[io.StringIO], *, is_json: bool, root: logging.Logger
) -> None:
    out = stream()
    log_to(out, "info", "ours", form)
    logging.getLogger("ours").info("here")
    assert out.getvalue().startswith("{") is is_json
    assert "here" in out.getvalue()


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    level, handlers = logger.level, [*logger.handlers]
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logging.getLogger("ours").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("level", "said"),
    [("debug", "12ab"), ("info", "2ab"), ("warning", "ab"), ("error", "b")],
)
def test_libraries_are_heard_from_warnings_on_however_much_is_asked_for(
    level: str, said: str, root: logging.Logger
) -> None:
    stream = io.StringIO()
    log_to(stream, level, "ours", "human")
    for name in ("ours.part", "anthropic", "httpx2", "asyncio"):
        logging.getLogger(name).debug("1")
        logging.getLogger(name).info("2")
    logging.getLogger("anthropic").warning("a")
    logging.getLogger("ours").error("b")
    assert "".join(line[-1] for line in stream.getvalue().splitlines()) == said
