"""How Claude is reached: the SDK's own environment variables, looked at before the first request needs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..fleet.simulated import SIMULATED_KEY
from ..settings import SettingsError
from ..upstream.headers import FRAMING

# Not the SDK's own, but how secrets come to containers and units: as files, which no other process' environment shows.
_KEY_FILE = "ANTHROPIC_API_KEY_FILE"
_MOST_KEY_CHARS = 4096
# RFC 9110, 5.6.2: what a header's name is made of.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """How Claude is reached.

    Attributes:
        api_key: `ANTHROPIC_API_KEY`, or what the file that `ANTHROPIC_API_KEY_FILE` names holds; None leaves it to the SDK.
        base_url: `ANTHROPIC_BASE_URL`; None for Claude's own.
        simulated: a simulated Claude stands there, and the page says so.
    """

    api_key: str | None = None
    base_url: str | None = None
    simulated: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Credentials:
        """Those that the environment names.

        Raises:
            SettingsError: one of them could never work; the message names it, and never shows it.
        """
        for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
            _check_header(name, environ.get(name, ""))
        key = environ.get("ANTHROPIC_API_KEY") or _key_in(environ.get(_KEY_FILE, "")) or None
        for number, line in enumerate(environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n"), 1):
            _check_line(f"ANTHROPIC_CUSTOM_HEADERS: line {number}", line)
        base_url = environ.get("ANTHROPIC_BASE_URL") or None
        if base_url is not None:
            _check_url("ANTHROPIC_BASE_URL", base_url)
        scheme = (base_url or "https://").partition(":")[0].lower()
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            if environ.get(name):
                _check_url(name, environ[name])
        return cls(api_key=key, base_url=base_url, simulated=key == SIMULATED_KEY)


def _check_header(name: str, value: str) -> None:
    # RFC 9110, field values: visible characters, with blanks between them only. A line break at the end is what a file
    # that was made with an editor leaves.
    if value and not (value.isascii() and value.isprintable() and value == value.strip()):
        raise SettingsError(f"{name}: it holds a line break, a blank at an end or a character that no header may hold")


def _key_in(path: str) -> str:
    """The key in a file, on its one line; empty where none is named."""
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            key = file.read(_MOST_KEY_CHARS).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{_KEY_FILE} {path}: {reason}") from None
    if not key:
        raise SettingsError(f"{_KEY_FILE} {path}: it holds no key")
    _check_header(f"{_KEY_FILE} {path}", key)
    return key


def _check_line(where: str, line: str) -> None:
    name, colon, value = (
        part.strip() for part in line.partition(":")
    )  # as the SDK reads it, which skips what has no colon
    _check_header(where, value if colon else name)
    if colon and not _TOKEN.fullmatch(name):
        raise SettingsError(f"{where}: before the colon there is no header's name, such as X-Team")
    if colon and name.lower() in FRAMING:
        raise SettingsError(f"{where}: {name}: it is each request's own, and cannot be set for all")


def _check_url(name: str, value: str) -> None:
    wrong = SettingsError(
        f"{name}: it must begin with http:// or https://, then a host and perhaps a port up to 65535, and hold no blank, no ? and"
        " no #; in a password these are %20, %3F and %23, and / is %2F"
    )
    if not (value.isascii() and value.isprintable()) or any(mark in value for mark in " ?#"):
        raise wrong
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port above 65535
        raise wrong from None
    if not usable:
        raise wrong
