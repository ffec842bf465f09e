"""`python -m app doctor URL`: what on the way between a reader and a service breaks streaming, found from outside.

checkup.py ─▶ way.py ─▶ exchange.py          what is measured, by the service's own probes (`app/web/routes/probe.py`)
          └─▶ spacing.py, findings.py        how it is judged, by spacing and sizes, and what mends it
anywhere.py                                  the same for streams of events that are not ours (`--sse`)
report.py                                    what is printed
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import click

from ..load.connection import Target
from .anywhere import look
from .checkup import check_up
from .findings import Finding
from .report import as_json, in_words
from .way import CouldNotRun

_FOUND, _COULD_NOT_RUN = 1, 2
# As long as a probe may be.
_MOST_IDLE_S = 60


def command() -> click.Command:
    """The command line's `doctor`."""

    @click.command("doctor")
    @click.argument("url")
    @click.option("--key-file", type=click.Path(path_type=Path), help="File that holds a caller's key, on one line.")
    @click.option("--sse", is_flag=True, help="URL is any stream of events, of whatever service.")
    @click.option("--json", "in_json", is_flag=True, help="Print the findings as JSON.")
    @click.option(
        "--idle",
        type=click.FloatRange(0.1, _MOST_IDLE_S),
        metavar="S",
        help="Seconds of silence that the way must bear.",
    )
    def doctor(url: str, key_file: Path | None, sse: bool, in_json: bool, idle: float | None) -> None:
        """Look for what on the way to URL (http://HOST:PORT, https://HOST or unix:PATH) breaks streaming.

        \b
        It asks nothing of Claude. Each finding tells what was measured, what it costs and the line that mends it.
        Exit status: 0 nothing was found, 1 something was, 2 it could not look.
        """
        began = time.monotonic()
        try:
            found = asyncio.run(_found(url, _key(key_file), idle, sse=sse))
        except CouldNotRun as error:
            told = f"{url}: {error}"
            click.echo(as_json([], told) if in_json else f"Could not look at {told}", err=not in_json)
            sys.exit(_COULD_NOT_RUN)
        click.echo(as_json(found) if in_json else in_words(url, found, time.monotonic() - began, page=not sse))
        sys.exit(_FOUND if found else 0)

    return doctor


async def _found(url: str, key: str | None, idle_s: float | None, *, sse: bool) -> list[Finding]:
    try:
        target = Target.of(url)
    except (ValueError, OSError) as error:
        raise CouldNotRun(getattr(error, "strerror", None) or str(error)) from None
    return await (look(url, target, key, idle_s) if sse else check_up(target, key, idle_s))


def _key(file: Path | None) -> str | None:
    """The key in a file. Raises CouldNotRun."""
    if file is None:
        return None
    try:
        key = file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CouldNotRun(f"the key in {file} cannot be read: {reason}") from None
    if not key or not key.isprintable() or not key.isascii():
        raise CouldNotRun(f"{file} holds no key, or more than one line")
    return key
