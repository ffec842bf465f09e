"""What could only fail later is refused before anything is served, by the name of its setting."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings, SettingsError
from app.web.checks import check

UPSTREAM = '[upstream.{name}]\nbills = "until_abort"\nsource = "a contract"\ndate = 2026-01-01\n'


def settings(**given: Any) -> Settings:
    return Settings.model_validate(given)


def test_the_defaults_pass() -> None:
    assert "anthropic" in check(Settings()).upstreams


def refused(**given: object) -> str:
    with pytest.raises(SettingsError) as caught:
        check(Settings.model_validate(given))
    told = str(caught.value)
    assert "\n" not in told
    return told


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_is_served_without_keys(host: str) -> None:
    check(settings(host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "127.evil.example", "localhost.evil.example", "::10", ""]
)
def test_anyone_else_is_not(host: str) -> None:
    assert refused(host=host).startswith(f"host {host} is reachable from elsewhere")
    check(settings(host=host, api_keys=("a-key",)))
    check(settings(host=host, auth="none"))


def callers_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "callers.toml"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return str(path)


def test_who_may_call_beyond_this_machine_may_stand_in_a_callers_file(tmp_path: Path) -> None:
    check(settings(host="0.0.0.0", callers_file=callers_file(tmp_path, "[callers.a]")))


def test_a_callers_file_that_is_wrong_readable_or_not_there_is_refused(tmp_path: Path) -> None:
    path = callers_file(tmp_path, "[callers.a]\nstreams = 0")
    assert refused(callers_file=path).startswith(f"callers_file {path!r}: [callers.a] streams: ")
    path = callers_file(tmp_path, "[callers.a]", 0o644)
    assert refused(callers_file=path).startswith(f"callers_file {path!r}: its mode is 0644")
    assert refused(callers_file=f"{path}.absent").endswith(": No such file or directory")


def test_only_the_last_folder_of_a_state_dir_is_made(tmp_path: Path) -> None:
    path = callers_file(tmp_path, "[callers.a]\nbudget_usd_per_day = 5")
    mistyped = tmp_path / "vra" / "sluiceway"
    told = refused(callers_file=path, state_dir=str(mistyped))
    assert told.startswith(f"state_dir {str(mistyped)!r}: there is no folder to make it in")
    assert not mistyped.parent.exists()
    for state_dir in ("", str(tmp_path / "own")):
        check(settings(callers_file=path, state_dir=state_dir))
    assert (tmp_path / "state").is_dir()
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700


def test_a_state_file_of_a_newer_version_fails_the_start_of_who_would_use_it(tmp_path: Path) -> None:
    path = callers_file(tmp_path, "[callers.a]\nbudget_usd_per_day = 5")
    (tmp_path / "state").mkdir()
    with closing(sqlite3.connect(tmp_path / "state" / "limits.sqlite3")) as db:
        db.execute("PRAGMA user_version = 1")
        check(settings(callers_file=path))
        db.execute("PRAGMA user_version = 2")
    told = refused(callers_file=path)
    assert told.startswith(f"state_dir {str(tmp_path / 'state')!r}: limits.sqlite3: it is of version 2, which a newer")
    check(settings(callers_file=path, redis_url="redis://127.0.0.1"))


def test_a_callers_file_of_a_service_for_anyone_is_refused(tmp_path: Path) -> None:
    assert refused(callers_file=callers_file(tmp_path, ""), auth="none").startswith("callers_file: with auth")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("cors_origins", origin) for origin in (
            "https://a.example/b", "https://a.example/", "https://a.example?b", "https://u@a.example", "a.example",
            "https://", "https://A.example", "https://a.example:443", "http://a.example:80", "https://*.a.example",
            "https://a.example:x", "http://[", '["https://a.example"]', "https://a.example:",
        )),
        *(("pass_through", path) for path in (
            "/", "//", "/v2/files", "/v1/files/*", "/v1/../x", "/v1/..;/x", "/v1/..c", "/v1/.;x", "/v1/;x", "/v1//files",
            '["/v1/files"]', "https://a/v1/files", "*",
        )),
        *(("forward_headers", header) for header in (
            "x-api-key", "Host", "AUTHORIZATION", "cookie", "transfer-encoding", '["x-team"]', '["x-team"', "x team",
            "*-team", "x-team:", "é",
        )),
        *(("ignore_fields", field) for field in ("messages", "prompt", "policy", '["user_id"]', '"user_id"')),
    ],
)  # fmt: skip
def test_what_can_do_nothing_is_refused_by_its_setting(name: str, wrong: str) -> None:
    assert refused(**{name: ("fine", wrong) if name == "ignore_fields" else (wrong,)}).startswith(f"{name} {wrong!r}: ")


def test_what_can_do_something_is_taken() -> None:
    origins = ("*", "null", "https://a-b.example", "http://a.example:8080", "http://[::1]:1", "tauri://localhost")
    paths = ("/v1/agents", "v1/files/", "/v1", "/v1/a.b/.c..")
    check(settings(cors_origins=origins, pass_through=paths, forward_headers=("X-Team", "x-my-*", "*", "x_y")))
    check(settings(ignore_fields=("user_id", "webSearch", "id", "tools"), pass_through=()))


def test_an_upstream_that_has_no_prices_is_refused_with_the_nearest_that_has() -> None:
    assert refused(upstream="antropic") == "upstream antropic: not in the price table; did you mean anthropic?"
    assert refused(upstream="zzz").startswith("upstream zzz: not in the price table; it has anthropic, ")


def test_an_upstream_of_the_operators_own_prices_is_taken(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(UPSTREAM.format(name="our-own"), "utf-8")
    check(settings(upstream="our-own", prices_file=str(prices)))


@pytest.mark.parametrize(
    "content",
    [
        b"[[[",
        b"x = 1",
        b"\xff\xfe",
        b"model = 5",
        b"a = " + b"[" * 5000,
        b"[[model]]\nids = []",
        b"[upstream.a]\nbills = 5",
    ],
)
def test_prices_that_are_none_are_refused(content: bytes, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_bytes(content)
    assert refused(prices_file=str(prices)).startswith(f"prices_file '{prices}': ")


@pytest.mark.parametrize("path", ["/nowhere/prices.toml", "/tmp", "/dev/null/prices.toml"])
def test_prices_that_cannot_be_read_are_refused(path: str) -> None:
    assert refused(prices_file=path).startswith(f"prices_file '{path}': ")


@pytest.mark.parametrize(
    "path", ["/nowhere/ledger.json", "/tmp", "/dev/null/ledger.json", "/proc/ledger.json", "/tmp/a\0b/c"]
)
def test_a_ledger_that_cannot_be_written_is_refused(path: str) -> None:
    assert refused(ledger_file=path).startswith("ledger_file ")


def test_looking_whether_a_ledger_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check(settings(ledger_file=str(tmp_path / "ledger.json")))
    assert not list(tmp_path.iterdir())
