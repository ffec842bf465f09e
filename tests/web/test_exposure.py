"""What is exposed is so because somebody said it, and the log says who may call."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession

from app.settings import Settings, SettingsError
from app.web.exposure import admin_names, check_exposure, names, who_may_call
from tests.conftest import Serve


def settings(**given: Any) -> Settings:
    return Settings.model_validate(given)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_needs_no_word(host: str) -> None:
    check_exposure(settings(host=host, admin_host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "chat.example", "127.1", "localhost.x"]
)
def test_any_other_address_needs_one(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^host .* CALLERS_FILE.* API_KEYS.* SLUICEWAY_AUTH=none|^host "):
        check_exposure(settings(host=host))
    for said in ({"auth": "none"}, {"api_keys": ("key",)}, {"callers_file": "c.toml"}):
        check_exposure(settings(host=host, **said))


def test_a_unix_socket_counts_as_exposed() -> None:
    with pytest.raises(SettingsError, match=r"^unix /run/s: a proxy before it serves whoever reaches it"):
        check_exposure(settings(unix="/run/s"))
    for said in ({"auth": "none"}, {"api_keys": ("key",)}, {"callers_file": "c.toml"}):
        check_exposure(settings(unix="/run/s", **said))


def test_the_admin_port_needs_a_word_of_its_own_where_others_reach_it() -> None:
    with pytest.raises(SettingsError, match=r"^admin_host 0\.0\.0\.0 .*SLUICEWAY_ADMIN_AUTH=none"):
        check_exposure(settings(admin_host="0.0.0.0", api_keys=("key",)))
    check_exposure(settings(admin_host="0.0.0.0", api_keys=("key",), admin_auth="none"))
    check_exposure(settings(admin_host="0.0.0.0", auth="none"))


@pytest.mark.parametrize(
    "name",
    [
        "https://a.example",
        "a.example:80",
        "a.example/x",
        "[::1",
        "",
        "u@a.example",
        "a b",
        "*",
        "*.a.example",
        "bücher.example",
        "a,b",
    ],
)
def test_a_name_that_could_never_be_in_host_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"^allowed_hosts "):
        check_exposure(settings(allowed_hosts=(name,)))


def test_the_names_are_the_listed_ones_those_of_sites_and_the_address_itself() -> None:
    known = names(
        settings(host="127.0.0.5", allowed_hosts=("Sluice.Test", "[::1]"), cors_origins=("https://a.example",))
    )
    assert known == frozenset({"127.0.0.5", "sluice.test", "::1", "a.example"})
    assert names(settings(auth="none")) is None
    assert names(settings(cors_origins=("*",))) is None
    assert names(settings(unix="s", auth="none")) is None
    assert admin_names(settings()) == frozenset({"127.0.0.1", "localhost", "::1"})
    assert admin_names(settings(admin_host="0.0.0.0")) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "anyone on this machine, as 127.0.0.1, ::1, localhost, without a key"),
        ({"cors_origins": ("*",)}, "anyone on this machine, as any host, without a key"),
        ({"auth": "none", "host": "0.0.0.0"}, 'ANYONE who reaches 0.0.0.0, because auth = "none" says so'),
        ({"auth": "none", "unix": "/run/s"}, 'ANYONE who reaches unix socket /run/s, because auth = "none" says so'),
        (
            {"callers_file": "c.toml", "api_keys": ("a", "b")},
            "the callers of c.toml and the holders of 2 keys in api_keys, by",
        ),
    ],
)
def test_one_line_says_who_may_call(given: dict[str, Any], told: str) -> None:
    assert f"who may call: {told}" in who_may_call(settings(**given))
    assert "\n" not in who_may_call(settings(**given))


@pytest.mark.real
@pytest.mark.parametrize(("host", "status"), [("localhost:9", 200), ("[::1]", 200), ("rebound.example:9464", 403)])
@pytest.mark.parametrize("path", ["/metrics", "/streams", "/healthz", "/readyz"])
async def test_the_admin_port_answers_to_known_names_alone(
    host: str, status: int, path: str, serve: Serve, client: ClientSession
) -> None:
    service = await serve()
    async with client.get(f"{service.admin_url}{path}", headers={"Host": host}) as answer:
        said = await answer.text()
        assert answer.status == status
    assert (status == 403) is ('"permission_error"' in said and "allowed_hosts" in said)
