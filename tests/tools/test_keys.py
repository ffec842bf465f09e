"""`keys`: each command, and what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.access.key_files import KeyFiles
from app.access.key_form import parse_key
from app.commands import main

DAY_S = 86_400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    path.write_text("[callers.acme]\n[callers.other]\n", "utf-8")
    return path


def keys(path: Path, *arguments: str) -> Result:
    command, *rest = arguments
    return CliRunner().invoke(main, ["keys", command, "--callers-file", str(path), *rest])


def made(result: Result) -> str:
    assert result.exit_code == 0, result.output
    key = str(result.stdout.splitlines()[-1])
    assert result.stdout.endswith(f"\n{key}\n")
    assert parse_key(key) is not None
    return key


def test_a_new_key_stands_alone_on_the_last_line_and_nowhere_on_the_disk(path: Path) -> None:
    key = made(keys(path, "add", "acme", "--expires", "90d"))
    (record,) = KeyFiles(path).read().records.values()
    assert (record.key_id, record.caller) == (key[4:12], "acme")
    assert record.expires_at == record.created_at + 90 * DAY_S
    assert not [file for file in path.parent.iterdir() if key[13:] in file.read_text("utf-8")]


def test_the_list_has_each_key_by_its_id_and_none_can_be_shown_again(path: Path) -> None:
    first, second = made(keys(path, "add", "other")), made(keys(path, "add", "acme", "--expires", "0s"))
    keys(path, "revoke", first)
    told = keys(path, "list").stdout
    assert re.fullmatch(rf"{second[4:12]}  acme .* expired \S+\n{first[4:12]}  other .* revoked \S+\n", told)
    assert first[13:] not in told
    assert keys(path, "list", "acme").stdout == told.splitlines(keepends=True)[0]


@pytest.mark.parametrize("whole", [True, False])
def test_a_key_is_revoked_by_its_id_or_by_itself_and_once(path: Path, whole: bool) -> None:
    key = made(keys(path, "add", "acme"))
    given = key if whole else key[4:12]
    assert keys(path, "revoke", given).stdout == f"key {key[4:12]} is revoked\n"
    before = KeyFiles(path).read()
    assert before.records[key[4:12]].revoked_at is not None
    assert keys(path, "revoke", given).exit_code == 0
    assert KeyFiles(path).read() == before


def test_rotation_gives_a_new_key_and_lets_the_callers_others_end_after_the_overlap(path: Path) -> None:
    old, soon, others = (
        made(keys(path, "add", *given)) for given in (["acme"], ["acme", "--expires", "1m"], ["other"])
    )
    new = made(keys(path, "rotate", "acme", "--expires", "30d", "--overlap", "2h"))
    records = KeyFiles(path).read().records
    rotated_at = records[new[4:12]].created_at
    lasts = {key: records[key[4:12]].expires_at for key in (old, soon, others, new)}
    assert lasts == {
        old: rotated_at + 7200,
        soon: records[soon[4:12]].created_at + 60,  # it ends sooner by itself
        others: None,
        new: rotated_at + 30 * DAY_S,
    }


def test_the_callers_file_of_the_settings_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_CALLERS_FILE", str(path))
    assert made(CliRunner().invoke(main, ["keys", "add", "acme"]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["add", "acm"], "no caller 'acm' is in it; did you mean acme?"),
        (["add", "nobody"], "no caller 'nobody' is in it: give it a table of its own first"),
        (["rotate", "nobody"], "no caller 'nobody' is in it"),
        (["revoke", "abcdefgh"], "there is no such key; `keys list` has the ids of all"),
        (["add", "acme", "--expires", "90"], "a number and s, m, h or d, such as 90d; at most 3650d"),
        (["add", "acme", "--expires", "3651d"], "at most 3650d"),
    ],
)
def test_what_cannot_be_done_is_told(path: Path, arguments: list[str], told: str) -> None:
    result = keys(path, *arguments)
    assert result.exit_code != 0
    assert told in " ".join(result.output.split())


def test_without_a_callers_file_it_is_told_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICEWAY_CALLERS_FILE", raising=False)
    result = CliRunner().invoke(main, ["keys", "list"])
    assert (result.exit_code, "callers_file is not set" in result.output) == (1, True)


def test_a_callers_file_that_others_may_read_is_refused(path: Path) -> None:
    path.chmod(0o644)
    result = keys(path, "add", "acme")
    assert (result.exit_code, "its mode is 0644" in result.output) == (1, True)


def test_of_the_files_the_one_that_is_wrong_is_named_and_once(path: Path) -> None:
    made(keys(path, "add", "acme"))
    beside = path.with_name("callers.toml.keys")
    beside.unlink()
    beside.mkdir()
    told = keys(path, "list")
    assert (told.exit_code, told.stderr) == (1, f"Error: {beside}: Is a directory\n")
