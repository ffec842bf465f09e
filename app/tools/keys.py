"""`keys`: makes, lists, revokes and rotates callers' keys. A running service learns of it within a second."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from .. import settings
from ..access.audit import as_time
from ..access.callers_file import read_callers
from ..access.key_files import KeyFiles
from ..access.key_form import Key, new_key, parse_key
from ..access.key_ring import KeyRecord, KeyRing, digest_of

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 3650 * 86_400


class _Duration(click.ParamType[int]):
    """Such as `90d`, in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,9})([smhd])", str(value))
        seconds = int(found[1]) * _UNITS_S[found[2]] if found else _LONGEST_S + 1
        if seconds > _LONGEST_S:
            self.fail("a number and s, m, h or d, such as 90d; at most 3650d", param, ctx)
        return seconds


def command() -> click.Group:
    """The command, for the command line."""
    return _keys


@click.group("keys", help="Make, list, revoke and rotate callers' keys, which are kept beside the callers file.")
def _keys() -> None:
    pass


def _with_files(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the files that its options, or the settings, name."""

    @click.option("--config", metavar="FILE", help="TOML file of settings, which names callers_file.")
    @click.option("--callers-file", metavar="FILE", help="The callers file, in place of that of the settings.")
    @wraps(command)
    def with_files(config: str | None, callers_file: str | None, **given: Any) -> None:
        try:
            loaded = settings.load(
                Path(config) if config is not None else None, overrides={"callers_file": callers_file}
            )
        except settings.SettingsError as error:
            raise click.ClickException(str(error)) from None
        callers = loaded.callers
        if not callers.callers_file:
            raise click.ClickException(
                "callers_file is not set: name it by --callers-file, --config or the environment"
            )
        with _told(callers.callers_file):
            command(KeyFiles(Path(callers.callers_file), callers.key_pepper), **given)

    return with_files


@_keys.command(
    "add", help="Make a key for CALLER, which is in the callers file, and show it this once, on the last line."
)
@click.argument("caller")
@click.option("--expires", metavar="DURATION", type=_Duration(), help="Refuse it after this time, such as 90d.")
@_with_files
def _add(files: KeyFiles, caller: str, expires: int | None) -> None:
    _check_caller(files, caller)
    made = new_key()
    _change(files, lambda ring, now: [*ring.records.values(), _record(ring, made, caller, now, expires)])
    _show(made, caller, expires)


@_keys.command("list", help="List the keys of CALLER, or of all; no key can be shown again.")
@click.argument("caller", required=False)
@_with_files
def _list(files: KeyFiles, caller: str | None) -> None:
    records = files.read().records.values()
    now = time.time()
    for record in sorted(records, key=lambda record: (record.caller, record.created_at)):
        if caller in (None, record.caller):
            click.echo(f"{record.key_id}  {record.caller:24} made {as_time(record.created_at)}  {_state(record, now)}")


@_keys.command("revoke", help="Refuse a key from now on: KEY is its id, or the key itself.")
@click.argument("key")
@_with_files
def _revoke(files: KeyFiles, key: str) -> None:
    given = parse_key(key)
    key_id = given.key_id if given is not None else key

    def revoked(ring: KeyRing, now: int) -> Iterable[KeyRecord]:
        if key_id not in ring.records:
            raise ValueError("there is no such key; `keys list` has the ids of all")
        ended = ring.records[key_id].ended_at(now)
        return [_ending(record, now, revoked=True) if record.key_id == key_id and ended is None else record
                for record in ring.records.values()]  # fmt: skip

    _change(files, revoked)
    click.echo(f"key {key_id} is revoked")


@_keys.command("rotate", help="Make a new key for CALLER, and let its others end after a while; its streams go on.")
@click.argument("caller")
@click.option(
    "--expires", metavar="DURATION", type=_Duration(), help="Refuse the new one after this time, such as 90d."
)
@click.option("--overlap", metavar="DURATION", type=_Duration(), default="1d", show_default=True,
              help="How long the others are taken still; 0s for not at all.")  # fmt: skip
@_with_files
def _rotate(files: KeyFiles, caller: str, expires: int | None, overlap: int) -> None:
    _check_caller(files, caller)
    made = new_key()

    def rotated(ring: KeyRing, now: int) -> Iterable[KeyRecord]:
        older = [
            _ending(record, now + overlap)
            if record.caller == caller and record.ended_at(now + overlap) is None
            else record
            for record in ring.records.values()
        ]
        return [*older, _record(ring, made, caller, now, expires)]

    _change(files, rotated)
    _show(made, caller, expires)


def _record(ring: KeyRing, key: Key, caller: str, now: int, expires_s: int | None) -> KeyRecord:
    if key.key_id in ring.records:  # one in 10**14, for each key that there is
        raise ValueError("the new key's id is taken: try again")
    return KeyRecord(
        key.key_id, caller, digest_of(key, ring.pepper), now, now + expires_s if expires_s is not None else None
    )


def _ending(record: KeyRecord, at: int, *, revoked: bool = False) -> KeyRecord:
    expires_at, revoked_at = (record.expires_at, at) if revoked else (at, record.revoked_at)
    return KeyRecord(record.key_id, record.caller, record.digest, record.created_at, expires_at, revoked_at)


def _change(files: KeyFiles, change: Callable[[KeyRing, int], Iterable[KeyRecord]]) -> None:
    now = int(time.time())
    files.change(lambda ring: change(ring, now), now)


def _check_caller(files: KeyFiles, caller: str) -> None:
    known = read_callers(files.callers_file).callers
    if caller not in known:
        near = difflib.get_close_matches(caller, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ": give it a table of its own first"
        raise ValueError(f"no caller {caller!r} is in it{hint}")


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Tells what is wrong with the files in one line, and ends with status 1."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        told = (error.strerror if isinstance(error, OSError) else None) or str(error)
        # Of those beside it the words begin with the name.
        raise click.ClickException(told if told.startswith(path) else f"{path}: {told}") from None


def _show(key: Key, caller: str, expires_s: int | None) -> None:
    ends = "for ever" if expires_s is None else f"until {as_time(time.time() + expires_s)}"
    click.echo(f"Key {key.key_id} of caller {caller}, {ends}; it is shown this once:")
    click.echo(key.text)


def _state(record: KeyRecord, now: float) -> str:
    if record.ended_at(now) is None:
        return "for ever" if record.expires_at is None else f"until {as_time(record.expires_at)}"
    revoked = record.revoked_at is not None
    return f"revoked {as_time(record.revoked_at)}" if revoked else f"expired {as_time(record.expires_at)}"
