"""The settings: all documented, all bounded, none unknown, and no key in any text."""

from __future__ import annotations

import re
import tomllib
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.settings import FIELDS, Settings, SettingsError, load

SHIPPED = Path(__file__).resolve().parent.parent / "config" / "sluiceway.toml"
SECRET = "sk-secret-of-a-caller"
DEFAULTS = Settings.model_validate({})


def bounds(field: FieldInfo) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for constraint in field.metadata:
        found |= {name: getattr(constraint, name) for name in ("ge", "gt", "le", "lt") if hasattr(constraint, name)}
    return found


NUMBERS = {name: field for name, field in FIELDS.items() if field.annotation in (int, float)}


def documented() -> dict[str, tuple[str, Any]]:
    """The shipped file as comment and default by name: each setting has one comment line above it."""
    lines = SHIPPED.read_text("utf-8").splitlines()
    found = {}
    for above, line in zip(lines, lines[1:], strict=False):  # noqa: RUF007
        if match := re.match(r"(\w+) = ", line):
            found[match[1]] = (above, tomllib.loads(line)[match[1]])
    return found


def test_the_shipped_file_holds_every_setting_in_the_order_of_the_code() -> None:
    assert list(documented()) == list(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_the_shipped_file_tells_each_settings_default_purpose_and_bounds(name: str) -> None:
    comment, value = documented()[name]
    default = FIELDS[name].get_default()
    assert (tuple(value) if isinstance(value, list) else value) == default
    assert type(value) is type(default) or isinstance(value, list)
    told = f"# {FIELDS[name].description}"
    bound = bounds(FIELDS[name])
    if name in NUMBERS:
        told += (
            f" (above {bound['gt']} to {bound['le']})" if "gt" in bound else f" (from {bound['ge']} to {bound['le']})"
        )
    assert comment == told


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_both_bounds_and_a_unit(name: str) -> None:
    assert len(bounds(FIELDS[name])) == 2
    for ending, unit in (("_s", "seconds"), ("_bytes", "bytes")):
        assert not name.endswith(ending) or unit in (FIELDS[name].description or "")


def test_a_byte_order_mark_before_the_file_is_no_part_of_it(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("port = 1\n", "utf-8-sig")
    assert load(config, environ={}).listening.port == 1


@pytest.mark.parametrize("config", [SHIPPED, None])
def test_the_shipped_file_and_no_file_at_all_give_the_defaults(config: Path | None) -> None:
    assert load(config, environ={}) == DEFAULTS


def test_the_process_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_PORT", "4321")
    assert load().listening.port == 4321


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_bounds_or_none_at_all_is_refused_by_name(name: str) -> None:
    field = FIELDS[name]
    bound = bounds(field)
    low: float = bound["ge"] if "ge" in bound else bound["gt"]
    high: float = bound["le"]
    step = 1 if field.annotation is int else 0.001
    wrong: list[float | str] = [
        high + step,
        low - step,
        "many",
        "",
        "nan",
        "inf",
        "-inf",
        *([low] if "gt" in bound else []),
    ]
    wrong += ["1.5"] if field.annotation is int else []
    for value in wrong:
        with pytest.raises(SettingsError, match=f"^environment: SLUICEWAY_{name.upper()}: "):
            load(environ={f"SLUICEWAY_{name.upper()}": str(value)})
    for value in [high, low + (step if "gt" in bound else 0)]:
        assert load(environ={f"SLUICEWAY_{name.upper()}": str(value)}).flat()[name] == value


@pytest.mark.parametrize(
    ("name", "value"), [("thinking", "on"), ("auth", "None"), ("log_level", "verbose"), ("model", "")]
)
def test_a_word_that_is_none_of_the_known_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^command line: --{name.replace('_', '-')}: "):
        load(environ={}, overrides={name: value})


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "x.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_later_source_wins_file_then_environment_then_command_line(tmp_path: Path) -> None:
    config = written(tmp_path, 'port = 1\nmax_tokens = 1\nmodel = "a"\n')
    environ = {"SLUICEWAY_PORT": "2", "SLUICEWAY_MAX_TOKENS": "2", "PORT": "9", "OTHER": "x"}
    settings = load(config, environ, {"port": 3, "host": None})
    assert (
        settings.listening.port,
        settings.questions.max_tokens,
        settings.questions.model,
        settings.listening.host,
    ) == (3, 2, "a", "127.0.0.1")


def test_what_kubernetes_tells_the_pods_of_a_service_called_sluiceway_is_no_setting() -> None:
    links = {
        "SLUICEWAY_SERVICE_HOST": "10.0.0.1",
        "SLUICEWAY_SERVICE_PORT": "80",
        "SLUICEWAY_SERVICE_PORT_HTTP": "80",
        "SLUICEWAY_PORT": "tcp://10.0.0.1:80",
        "SLUICEWAY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SLUICEWAY_PORT_80_TCP_PROTO": "tcp",
        "SLUICEWAY_PORT_80_TCP_PORT": "80",
        "SLUICEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "SLUICEWAY_ADMIN_SERVICE_HOST": "10.0.0.2",
        "SLUICEWAY_ADMIN_PORT": "tcp://10.0.0.2:9464",
    }
    assert load(environ=links) == DEFAULTS
    assert load(environ=links | {"SLUICEWAY_PORT": "81", "SLUICEWAY_MODEL": "m"}).listening.port == 81


def test_every_setting_can_be_given_by_the_environment_and_on_the_command_line() -> None:
    for name, field in FIELDS.items():
        value = field.get_default()
        assert load(environ={f"SLUICEWAY_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)})
        assert load(environ={}, overrides={name: value}) == DEFAULTS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "x.toml: unknown setting prot; did you mean port?"),
        ("max_token = 1", "x.toml: unknown setting max_token; did you mean max_tokens?"),
        ("qqq = 1", "x.toml: unknown setting qqq"),
        ("[server]\nport = 1", "x.toml: unknown setting server"),
        ("port = 99999", "x.toml: port: Input should be less than or equal to 65535"),
        ("drain_s = true", "x.toml: drain_s: no setting is true or false"),
        ("max_streams = true", "x.toml: max_streams: no setting is true or false"),
        ("window_s = false", "x.toml: window_s: no setting is true or false"),
    ],
)
def test_a_wrong_key_of_the_file_is_refused_by_name_with_a_hint(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, text), {})
    assert str(refused.value).startswith(told)
    assert ("did you mean" in str(refused.value)) == ("did you mean" in told)


def test_what_is_wrong_is_refused_where_it_stands_though_a_later_source_replaces_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^x\.toml: port: "):
        load(written(tmp_path, "port = 99999"), {}, {"port": 80})
    with pytest.raises(SettingsError, match=r"^environment: SLUICEWAY_PORT: "):
        load(written(tmp_path, "port = 1"), {"SLUICEWAY_PORT": "x"}, {"port": 80})


@pytest.mark.parametrize("name", ["host", "admin_host"])
def test_an_address_may_stand_in_the_brackets_that_it_has_in_a_url(name: str) -> None:
    hosts = ["[::1]", "::1", "[host]", "127.0.0.1"]
    assert [load(environ={}, overrides={name: host}).flat()[name] for host in hosts] == ["::1", *hosts[1:]]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SLUICEWAY_PROT", "environment: unknown setting SLUICEWAY_PROT; did you mean SLUICEWAY_PORT?"),
        ("SLUICEWAY_API_KEY", "environment: unknown setting SLUICEWAY_API_KEY; did you mean SLUICEWAY_API_KEYS?"),
        ("SLUICEWAY_QQQ", "environment: unknown setting SLUICEWAY_QQQ"),
    ],
)
def test_a_wrong_key_of_the_environment_is_refused_by_name_with_a_hint(name: str, told: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(told)}$"):
        load(environ={name: SECRET})


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"SLUICEWAY_PORT: .*; .*SLUICEWAY_RETRIES: "):
        load(environ={"SLUICEWAY_PORT": "x", "SLUICEWAY_RETRIES": "x"})


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", b"\xff\xfe", b'model = "\xe9"'])
def test_a_file_that_cannot_be_read_is_refused_by_its_path(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(SettingsError, match=r"x\.toml: "):
        load(written(tmp_path, text), {})


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: "):
        load(tmp_path / "absent.toml", {})


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ("a,b", ("a", "b")),
        (" a , b ,", ("a", "b")),
        ("", ()),
        (",", ()),
        ("a b", ("a b",)),
        (["a,b", "c"], ("a,b", "c")),
    ],
)
def test_callers_keys_are_a_list_or_divided_by_commas(given: object, keys: tuple[str, ...]) -> None:
    assert load(environ={}, overrides={"api_keys": given}).callers.api_keys == keys


@pytest.mark.parametrize("wrong", [SECRET.encode() + b"\xff", {SECRET: 1}, [SECRET, 5], 5])
def test_no_callers_key_is_in_a_repr_or_in_an_error(wrong: object) -> None:
    settings = load(environ={"SLUICEWAY_API_KEYS": SECRET})
    assert settings.callers.api_keys == (SECRET,)
    for text in (repr(settings), str(settings), f"{settings!r:>10}"):
        assert SECRET not in text
    with pytest.raises(SettingsError) as refused:
        load(environ={"SLUICEWAY_API_KEYS": SECRET, "SLUICEWAY_PORT": "x"}, overrides={"api_keys": wrong})
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value.__context__)
    with pytest.raises(ValidationError) as raw:
        Settings.model_validate({"api_keys": wrong, "port": SECRET})
    assert SECRET not in str(raw.value)


def test_a_value_that_is_refused_is_not_repeated() -> None:
    """It may be a key that was set under another name by mistake."""
    with pytest.raises(SettingsError) as refused:
        load(environ={"SLUICEWAY_PORT": SECRET})
    assert SECRET not in str(refused.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        DEFAULTS.listening = DEFAULTS.listening  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        DEFAULTS.listening.port = 1  # type: ignore[misc]


def test_no_two_sections_have_a_setting_of_the_same_name() -> None:
    """Users know flat names: of two, one could not be set."""
    held = [field.name for section in DEFAULTS for field in fields(section[1])]
    assert len(held) == len(set(held))
    assert set(FIELDS) < set(held)


@pytest.mark.parametrize("name", ["backoff_s", "farewell_s", "streams"])
def test_a_sections_constant_or_its_own_name_is_no_setting(name: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting SLUICEWAY_{name.upper()}"):
        load(environ={f"SLUICEWAY_{name.upper()}": "1"})


def test_the_example_of_a_fleet_is_taken_as_it_stands() -> None:
    settings = load(SHIPPED.parent / "fleet.toml", {})
    assert settings.fleet.redis_url
    assert settings.fleet.peer_port


@pytest.mark.parametrize("database", ["/abc", "/-1", "/0x1", "/1/2", "/0%20"])
def test_a_redis_database_that_is_no_number_is_refused_without_the_url(database: str) -> None:
    """The library would take database 0, which may be another one's."""
    with pytest.raises(SettingsError, match="number of a database") as refused:
        load(environ={"SLUICEWAY_REDIS_URL": f"rediss://:{SECRET}@127.0.0.1:6379{database}"})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("given", ["x@127.0.0.1:65536", "x@127.0.0.1:six", "one/two@127.0.0.1:6379", "x@[::1:6379"])
def test_a_redis_url_whose_address_cannot_be_read_is_refused_with_its_likeliest_causes(given: str) -> None:
    with pytest.raises(SettingsError, match=r"its port must be .* password %2F") as refused:
        load(environ={"SLUICEWAY_REDIS_URL": f"redis://:{SECRET}{given}/0"})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["redis://h", "redis://h/", "redis://u:p@[::1]:6379/12", "rediss://h/0?health_check_interval=5", "unix:///s?db=3"],
)
def test_a_redis_url_may_name_its_database_or_none(url: str) -> None:
    assert load(environ={"SLUICEWAY_REDIS_URL": url}).fleet.redis_url == url
