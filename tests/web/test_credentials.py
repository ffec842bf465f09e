"""The SDK's environment variables, looked at before a request needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import SettingsError
from app.web.credentials import Credentials

KEY = "sk-ant-secret"


def test_what_can_work_is_taken_as_it_is() -> None:
    environ = {
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_AUTH_TOKEN": "token",
        "ANTHROPIC_BASE_URL": "https://user:word@claude.example:8443/proxy/v1",
        "ANTHROPIC_CUSTOM_HEADERS": " X-Team :  one two \r\n\nX-Other: three\nanthropic-version: 2023-06-01",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "http_proxy": "not looked at: the way leads over https",
    }
    assert Credentials.of(environ) == Credentials(KEY, environ["ANTHROPIC_BASE_URL"])


def test_the_key_may_be_in_a_file_whose_line_end_is_none_of_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\r\n")
    assert Credentials.of({"ANTHROPIC_API_KEY_FILE": str(file)}) == Credentials(KEY)
    assert Credentials.of({"ANTHROPIC_API_KEY_FILE": str(file), "ANTHROPIC_API_KEY": "own"}).api_key == "own"
    assert Credentials.of({"ANTHROPIC_API_KEY_FILE": ""}) == Credentials()
    file.write_text("simulated")
    assert Credentials.of({"ANTHROPIC_API_KEY_FILE": str(file)}).simulated


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (None, "No such file or directory"),
        (b"", "it holds no key"),
        (b" \n ", "it holds no key"),
        (f"{KEY}\xff".encode("latin-1"), "it is no text"),
        (f"{KEY}\n{KEY}".encode(), ""),
        (f"{KEY}ä".encode(), ""),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused_by_name_and_not_shown(
    held: bytes | None, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if held is not None:
        file.write_bytes(held)
    with pytest.raises(SettingsError) as caught:
        Credentials.of({"ANTHROPIC_API_KEY_FILE": str(file)})
    assert str(caught.value).startswith(f"ANTHROPIC_API_KEY_FILE {file}: ")
    assert str(caught.value).endswith(told)
    assert KEY not in str(caught.value)


def test_empty_ones_are_none() -> None:
    assert Credentials.of({"ANTHROPIC_API_KEY": "", "ANTHROPIC_BASE_URL": ""}) == Credentials()
    assert Credentials.of({}) == Credentials()


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
@pytest.mark.parametrize(
    "value",
    [
        f"{KEY}\n",
        f"{KEY}\r\n",
        f" {KEY}",
        f"{KEY}\t",
        f"{KEY}\nx",
        f"{KEY}\x00",
        f"{KEY}\x7f",
        f"{KEY}ä",
        f"{KEY}\u200b",
        " ",
    ],
)
def test_a_secret_that_no_header_can_hold_is_refused_by_name_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Credentials.of({name: value})
    assert str(caught.value).startswith(f"{name}: ")
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "X-Other: tw\ro", "X-Other: zwö", "X A: b", ": nameless", " : ", "X\u200b: b", "(X): b", "Host: claude.example",
        "content-length: 5", "Transfer-Encoding: chunked", "CONNECTION: close", " Connection : close", "Upgrade: h2c",
        "Expect: 100-continue", "Content-Encoding: gzip", "TE: trailers",
    ],
)  # fmt: skip
def test_a_custom_header_that_cannot_be_is_refused_by_the_number_of_its_line(line: str) -> None:
    with pytest.raises(SettingsError, match=r"^ANTHROPIC_CUSTOM_HEADERS: line 2: ") as caught:
        Credentials.of({"ANTHROPIC_CUSTOM_HEADERS": f"X-Team: one\n{line}\nX-Last: three"})
    assert "\n" not in str(caught.value)


URLS = [
    "api.anthropic.com", "localhost:8080", "//host", "https://", "https:///path", "http://:80", "ftp://host", "https//host",
    "http://host:port", "http://host:99999", "http://host:0", "http://[::1", "http://ho st", "http://host\n", "http://hö.st",
    "http://host/?a=1", "http://host/#a", "unix:/run/s.sock", " https://host",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_leads_nowhere_is_refused_by_name(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^ANTHROPIC_BASE_URL: ") as caught:
        Credentials.of({"ANTHROPIC_BASE_URL": url})
    assert "\n" not in str(caught.value)


def test_a_port_that_is_none_is_named_and_how_a_password_is_written() -> None:
    with pytest.raises(SettingsError) as caught:  # the password ends at its slash, and is taken for a port
        Credentials.of(
            {"ANTHROPIC_BASE_URL": "https://claude.example", "HTTPS_PROXY": "http://me:pass/word@proxy:3128"}
        )
    assert "a port up to 65535" in str(caught.value)
    assert "/ is %2F" in str(caught.value)
    assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("url", ["proxy.example:3128", "garbage", "http://"])
def test_a_proxy_that_leads_nowhere_is_refused_by_name(name: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        Credentials.of({name: url})


def test_the_proxy_of_the_base_urls_scheme_is_looked_at() -> None:
    with pytest.raises(SettingsError, match=r"^HTTP_PROXY: "):
        Credentials.of({"ANTHROPIC_BASE_URL": "http://claude.example", "HTTP_PROXY": "garbage"})
