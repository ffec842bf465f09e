"""Lines of the log: one record is one line that nobody else can have written, and no library tells what was asked."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def escaped(text: str) -> str:
    """The text with what does not print, line breaks and signs that turn the writing round among it, escaped. Pure."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class LineFormatter(logging.Formatter):
    """Writes a record so that no string of a caller's can pass for another record.

    What a caller names (a model, a chat, a path) may hold anything. The lines of a traceback, whose last ones repeat such
    strings, are indented, which no record's first line is.
    """

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's own name
        return escaped(super().formatMessage(record))

    def formatException(self, ei: logging._SysExcInfoType) -> str:
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).splitlines())


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, whose strings hold no line break and nothing beyond ASCII.

    What a record knows by name, such as a stream's end, is beside its message: `extra={"facts": {…}}`.
    """

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_to(stream: TextIO, level: str, package: str, form: str = "auto") -> None:
    """Sends the log of this process to a stream.

    Args:
        stream: such as stderr.
        level: the least that is logged, as `info`.
        package: whose own loggers may log below warnings. At debug the SDK logs whole requests, and others their
            headers, with prompts and keys in them.
        form: `human`, `json`, or `auto`: human on a terminal, else JSON.
    """
    human = stream.isatty() if form == "auto" else form == "human"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter() if human else JsonFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    own = getattr(logging, level.upper())
    logging.getLogger(package).setLevel(own)
    root.setLevel(max(own, logging.WARNING))
