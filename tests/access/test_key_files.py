"""The keys on the disk: their owner's alone, whole at any time, and nothing lost where two change them at once."""

from __future__ import annotations

import resource
import signal
import stat
import threading
from pathlib import Path

import pytest

from app.access.key_files import KeyFiles
from app.access.key_form import new_key
from app.access.key_ring import KeyRecord, KeyRing, digest_of

DAY_S = 86_400


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    return KeyFiles(path)


def added(files: KeyFiles, key_id: str = "", **given: int) -> KeyRecord:
    key = new_key()
    made: list[KeyRecord] = []

    def change(ring: KeyRing) -> list[KeyRecord]:
        made.append(KeyRecord(key_id or key.key_id, "acme", digest_of(key, ring.pepper), 1, **given))
        return [*ring.records.values(), *made]

    files.change(change, 1000)
    return made[0]


def test_where_there_is_no_file_there_are_no_keys_but_a_pepper_that_stays(files: KeyFiles) -> None:
    first, second = files.read(), files.read()
    assert first == second
    assert (first.records, len(first.pepper)) == ({}, 64)


def test_what_was_written_is_read(files: KeyFiles) -> None:
    records = [added(files), added(files, expires_at=2000, revoked_at=1500)]
    assert list(files.read().records.values()) == records


def test_each_file_is_its_owners_alone_and_nothing_else_is_left(files: KeyFiles, tmp_path: Path) -> None:
    added(files)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == dict.fromkeys(
        ("callers.toml", *(f"callers.toml.{end}" for end in ("keys", "lock", "pepper"))), 0o600
    )


def test_of_changes_at_once_none_is_lost(files: KeyFiles) -> None:
    threads = [threading.Thread(target=added, args=(files, f"key{number:05}")) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files.read().records) == 16


def test_a_pepper_that_many_make_at_once_is_one(files: KeyFiles) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(files.read().pepper)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_change_that_fails_changes_nothing(files: KeyFiles) -> None:
    added(files)
    before = files.digests.read_bytes()

    def fails(_ring: KeyRing) -> list[KeyRecord]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        files.change(fails, 1000)
    assert files.digests.read_bytes() == before
    added(files)  # and the lock is free


def test_a_pepper_of_the_settings_needs_no_file(files: KeyFiles, tmp_path: Path) -> None:
    own = KeyFiles(files.callers_file, "s" * 32)
    assert own.read().pepper == b"s" * 32
    assert [path.name for path in tmp_path.iterdir()] == ["callers.toml"]
    assert "sss" not in repr(own.read())


def test_a_key_that_ended_long_ago_is_forgotten_at_the_next_change(files: KeyFiles) -> None:
    added(files, "old00001", revoked_at=1000)
    added(files, "old00002", expires_at=1001)
    files.change(lambda ring: ring.records.values(), 1000 + 90 * DAY_S)
    assert list(files.read().records) == ["old00002"]


@pytest.mark.parametrize("ending", [".keys", ".pepper"])
def test_a_file_that_others_may_read_is_refused_by_its_name(files: KeyFiles, ending: str) -> None:
    added(files)
    path = files.callers_file.with_name(files.callers_file.name + ending)
    path.chmod(0o640)
    with pytest.raises(ValueError, match=rf"callers\.toml{ending}: its mode is 0640"):
        files.read()


RECORD = '{"id": "a", "caller": "b", "digest": "00", "created": 1, "expires": null, "revoked": null}'


@pytest.mark.parametrize(
    "text",
    [
        "", "{}[", "5", '["a"]', "[{}]", "[" * 100_000, "\xff",
        f'[{RECORD.replace("00", "zz")}]',
        f'[{RECORD.replace("1", "null")}]',
        f'[{RECORD.replace("null", "1.5")}]',
        f'[{RECORD.replace(chr(34) + "a" + chr(34), "5")}]',
    ],
)  # fmt: skip
def test_what_is_no_list_of_keys_is_refused_by_its_name(files: KeyFiles, text: str) -> None:
    files.digests.write_text(text, "latin-1")
    files.digests.chmod(0o600)
    with pytest.raises(ValueError, match=r"callers\.toml\.keys: it is no list of keys"):
        files.read()


def test_a_pepper_that_is_too_short_is_refused(files: KeyFiles) -> None:
    path = files.callers_file.with_name("callers.toml.pepper")
    path.touch(0o600)
    path.write_text("short\n", "utf-8")
    with pytest.raises(ValueError, match=r"callers\.toml\.pepper: it is shorter than 32 bytes"):
        files.read()


@pytest.mark.parametrize("ending", [".keys", ".pepper", ".lock"])
def test_a_file_that_cannot_be_written_is_told_by_its_name_and_nothing_is_left(files: KeyFiles, ending: str) -> None:
    """As on a full disk: one file less may be written than the largest of them takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if ending == ".keys":
        files.read()  # which makes the pepper
    elif ending == ".lock":
        files.callers_file.with_name("callers.toml.lock").mkdir()
    before = set(files.callers_file.parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match=rf"callers\.toml\{ending}: "):
            added(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    lock = files.callers_file.with_name("callers.toml.lock")
    assert set(files.callers_file.parent.iterdir()) - {lock} == before - {lock}
