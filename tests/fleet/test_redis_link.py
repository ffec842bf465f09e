"""What settings of Redis can never work, and by which name that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.fleet.redis_link import connector
from app.settings import SettingsError
from app.settings.fleet import RedisOptions


@pytest.mark.parametrize("setting", ["redis_password_file", "redis_ca_file"])
def test_a_file_that_cannot_be_read_is_told_by_its_setting_and_path(setting: str, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere")
    options = RedisOptions(redis_url="rediss://:hunter2@127.0.0.1:1/0")
    object.__setattr__(options, setting, path)  # frozen, and its fields are of several types
    with pytest.raises(SettingsError) as refused:
        connector(options)
    assert str(refused.value) == f"{setting} {path!r} cannot be read: No such file or directory"


def test_a_file_that_is_no_text_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"\xff\xfe")
    options = RedisOptions(redis_url="redis://127.0.0.1:1/0", redis_password_file=str(path))
    with pytest.raises(SettingsError, match="it is no text"):
        connector(options)
