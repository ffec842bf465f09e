"""Keys of a running service: added, revoked and expired without a restart; a bad file changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from app.access.guard import Guard, Known
from app.access.key_files import KeyFiles
from app.access.key_form import Key, new_key
from app.access.key_ring import KeyRecord, digest_of
from app.errors import Unauthorized
from app.settings import SettingsError
from app.web.callers_watch import CallersWatch
from app.web.checks import read_known
from tests.conftest import Serve


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    path.write_text("[callers.acme]\nstreams = 1\n", "utf-8")
    return KeyFiles(path)


def add(files: KeyFiles, **given: int) -> Key:
    key = new_key()
    files.change(
        lambda ring: [*ring.records.values(), KeyRecord(key.key_id, "acme", digest_of(key, ring.pepper), 1, **given)], 1
    )
    return key


def revoke_all(files: KeyFiles) -> None:
    files.change(
        lambda ring: [
            KeyRecord(record.key_id, record.caller, record.digest, 1, revoked_at=2) for record in ring.records.values()
        ],
        3,
    )


def started(files: KeyFiles) -> tuple[CallersWatch, Guard]:
    watch = CallersWatch(files)
    return watch, Guard((), watch.read(), watch.audit.used)


async def looked(watch: CallersWatch, guard: Guard) -> None:
    """Long enough for a changed file to be taken."""
    await watch.look(guard)
    await watch.look(guard)


def may(guard: Guard, key: Key) -> bool:
    try:
        return guard.identify({"x-api-key": key.text}, 10.0).name == "acme"
    except Unauthorized:
        return False


async def test_a_key_that_was_added_is_taken_and_one_that_was_revoked_is_not(files: KeyFiles) -> None:
    watch, guard = started(files)
    key = add(files)
    assert not may(guard, key)
    await watch.look(guard)
    assert may(guard, key)
    revoke_all(files)
    await watch.look(guard)
    assert not may(guard, key)


async def test_a_callers_new_bounds_are_taken(files: KeyFiles) -> None:
    key = add(files)
    watch, guard = started(files)
    files.callers_file.write_text("[callers.acme]\nstreams = 200\n", "utf-8")
    await looked(watch, guard)
    assert guard.identify({"x-api-key": key.text}, 10.0).streams == 200


async def test_the_keys_of_a_caller_that_was_taken_out_are_not_taken(files: KeyFiles) -> None:
    key = add(files)
    watch, guard = started(files)
    files.callers_file.write_text("[callers.other]\n", "utf-8")
    await looked(watch, guard)
    assert not may(guard, key)


def broken(files: KeyFiles) -> None:
    files.callers_file.write_text("[callers.acme", "utf-8")


def readable(files: KeyFiles) -> None:
    files.callers_file.chmod(0o644)


def gone(files: KeyFiles) -> None:
    files.callers_file.unlink()


def no_keys(files: KeyFiles) -> None:
    files.digests.write_text("{", "utf-8")


@pytest.mark.parametrize("spoil", [broken, readable, gone, no_keys])
async def test_a_bad_file_changes_nothing_and_is_told_once_until_it_is_good_again(
    files: KeyFiles, spoil: Callable[[KeyFiles], None], caplog: pytest.LogCaptureFixture
) -> None:
    key = add(files)
    watch, guard = started(files)
    spoil(files)
    for _ in range(3):
        await watch.look(guard)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "callers stay as they were" in caplog.text
    assert may(guard, key)
    files.callers_file.touch(0o600)
    files.callers_file.chmod(0o600)
    files.callers_file.write_text("[callers.acme]\nstreams = 7\n", "utf-8")
    if spoil is no_keys:
        files.digests.unlink()
    await looked(watch, guard)
    assert may(guard, key) == (spoil is not no_keys)
    assert guard.roster.callers["acme"].streams == 7


async def test_a_file_that_is_being_written_is_not_taken(files: KeyFiles) -> None:
    watch = CallersWatch(files)
    guard = Guard(["acme:configured"], watch.read())

    def streams() -> int | None:
        return guard.identify({"x-api-key": "configured"}, 10.0).streams

    for half in ("[callers.acme]\n", "[callers.acme]\nmax_tokens = 5\n"):
        files.callers_file.write_text(half, "utf-8")
        await watch.look(guard)
        assert streams() == 1
    files.callers_file.write_text("[callers.acme]\nmax_tokens = 5\nstreams = 2\n", "utf-8")
    await watch.look(guard)
    assert streams() == 1
    await watch.look(guard)
    assert streams() == 2


async def test_one_that_changes_while_it_is_read_is_read_again(
    files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, guard = started(files)
    key = add(files)

    def written_meanwhile(which: KeyFiles) -> Known:
        known = read_known(which)
        which.callers_file.write_text("[callers.acme]\nstreams = 77\n", "utf-8")
        return known

    files.callers_file.write_text("[callers.acme]\n", "utf-8")
    await watch.look(guard)
    with monkeypatch.context() as patched:
        patched.setattr("app.web.callers_watch.read_known", written_meanwhile)
        await watch.look(guard)
    assert guard.roster.callers["acme"].streams == 1
    await looked(watch, guard)
    assert guard.identify({"x-api-key": key.text}, 10.0).streams == 77


@pytest.mark.parametrize("cut", ["", "# nothing yet\n", "[default]\nstreams = 9\n", "[callers.other]\n"])
async def test_a_file_that_was_cut_short_takes_no_bounds_off_and_no_revoked_key(
    files: KeyFiles, cut: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = add(files)
    watch = CallersWatch(files)
    guard = Guard(["acme:configured"], watch.read())
    files.callers_file.write_text(cut, "utf-8")
    for _ in range(3):
        await looked(watch, guard)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "it has lost [callers.acme]" in caplog.text
    assert guard.identify({"x-api-key": "configured"}, 10.0).streams == 1
    assert may(guard, key)
    revoke_all(files)
    await watch.look(guard)
    assert not may(guard, key)
    assert guard.identify({"x-api-key": "configured"}, 10.0).streams == 1
    files.callers_file.write_text("[callers.acme]\n", "utf-8")  # an empty table is meant
    await looked(watch, guard)
    assert guard.identify({"x-api-key": "configured"}, 10.0).streams is None


async def test_without_a_change_nothing_is_read(files: KeyFiles, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watch, guard = started(files)
    known = guard.known
    await watch.look(guard)
    assert guard.known is known
    assert caplog.messages == []


async def test_what_fails_while_it_looks_does_not_end_it(
    files: KeyFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = []

    async def look(_watch: CallersWatch, _guard: Guard) -> None:
        looks.append(1)
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(CallersWatch, "look", look)
    watch, guard = started(files)
    watch.look_s = 0.0
    task = asyncio.create_task(watch.run(guard))
    while len(looks) < 3:  # noqa: ASYNC110 - the task runs for ever
        await asyncio.sleep(0)  # lets it look
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert caplog.text.count("it is tried again") == 3


async def test_a_running_service_takes_and_refuses_keys_by_itself(
    files: KeyFiles, serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(callers_file=str(files.callers_file))
    key = add(files)

    async def status() -> int:
        async with client.get(f"{service.url}/v1/models", headers={"x-api-key": key.text}) as response:
            return response.status

    async with asyncio.timeout(20):
        while await status() != 200:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.05)
        revoke_all(files)
        while await status() != 401:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.05)


async def test_a_key_that_expires_is_refused_by_the_clock(
    files: KeyFiles, serve: Serve, client: aiohttp.ClientSession
) -> None:
    expired, valid = add(files, expires_at=1_000_000_000), add(files, expires_at=10_000_000_000)
    service = await serve(callers_file=str(files.callers_file))
    told = []
    for key in (expired, valid):
        async with client.get(f"{service.url}/v1/models", headers={"x-api-key": key.text}) as response:
            told.append((response.status, "has expired" in await response.text()))
    assert told == [(401, True), (200, False)]


def test_a_newer_worker_takes_no_file_that_has_lost_what_others_took(files: KeyFiles, tmp_path: Path) -> None:
    """A service that starts anew does."""
    last = tmp_path / "tables"
    files.callers_file.write_text("[limits]\nstreams = 9\n[callers.acme]\n", "utf-8")
    CallersWatch(files, last=last).read()
    files.callers_file.write_text("[callers.acme]\n", "utf-8")
    with pytest.raises(SettingsError, match=r"it has lost \[limits\]"):
        CallersWatch(files, last=last).read()
    assert CallersWatch(files).read().roster.callers
    files.callers_file.write_text("[limits]\nstreams = 9\n", "utf-8")
    with pytest.raises(SettingsError, match=r"it has lost \[callers\.acme\]"):
        CallersWatch(files, last=last).read(names=["acme"])
