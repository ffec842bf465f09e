"""The callers file on the disk: its owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.access.callers_file import read_callers, read_private


def written(folder: Path, text: str = "[callers.a]", mode: int = 0o600) -> Path:
    path = folder / "callers.toml"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert set(read_callers(written(tmp_path, mode=mode)).callers) == {"a"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_one_that_others_may_touch_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ValueError, match=rf"its mode is {mode:04o}.*chmod 600 .*callers\.toml"):
        read_callers(written(tmp_path, mode=mode))


def test_through_a_link_the_file_itself_counts(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(written(tmp_path))
    assert set(read_callers(link).callers) == {"a"}


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path):
        with pytest.raises((ValueError, IsADirectoryError)):
            read_callers(path)


def test_one_that_is_not_there_and_one_that_is_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_callers(tmp_path / "absent")
    with pytest.raises(ValueError, match="above 10 bytes"):
        read_private(written(tmp_path), 10)


def test_a_byte_order_mark_before_it_is_no_part_of_it(tmp_path: Path) -> None:
    assert set(read_callers(written(tmp_path, "\ufeff[callers.a]")).callers) == {"a"}
