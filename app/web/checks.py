"""Checks of the settings before anything is served, and again when they are read again; each names its setting."""

from __future__ import annotations

import difflib
import re
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from ..access.callers import Roster
from ..access.callers_file import read_callers
from ..access.guard import Known
from ..access.key_files import KeyFiles
from ..access.proxies import Proxies
from ..money.prices import SHIPPED, Prices, load_prices
from ..settings import Settings, SettingsError
from ..settings.sections import OWN_FIELDS
from ..streams import limits_file
from ..upstream.headers import HELD_BACK_UP
from .exposure import check_exposure

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[\w.-]+|[0-9a-f:]+", re.ASCII)
# Segments as `allowed_path` compares them: decoded, none of them empty, a dot alone, or beginning with two.
_PASSED_PATH = re.compile(r"/*v1(/(?!\.\.|\.?;|\.(/|$))[^/\s*?#%\\\[\]\"]+)*/*")
# A token (RFC 9110, 5.6.2); the star stands at its end only.
_HEADER = re.compile(r"[\w!#$%&'+.^`|~-]+\*?|\*", re.ASCII)


def check(settings: Settings) -> Prices:
    """Refuses settings that could only fail later, and returns the price table that they name.

    Raises:
        SettingsError: naming the setting.
    """
    check_exposure(settings)
    if settings.callers.callers_file:
        known = read_known(KeyFiles(Path(settings.callers.callers_file), settings.callers.key_pepper))
        _check_state_dir(settings, known.roster)
    _check_lists(settings)
    _check_ledger_file(settings)
    prices = _read_prices(settings)
    if settings.costs.upstream not in prices.upstreams:
        near = difflib.get_close_matches(settings.costs.upstream, prices.upstreams, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(prices.upstreams))}"
        raise SettingsError(f"upstream {settings.costs.upstream}: not in the price table; {hint}")
    return prices


def read_known(files: KeyFiles) -> Known:
    """The callers file and its keys. Raises SettingsError."""
    path = str(files.callers_file)
    try:
        roster = read_callers(files.callers_file)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"callers_file {path!r}: {_reason(error)}") from None
    try:
        _check_issuers(roster)
        return Known(roster, files.read())
    except (OSError, ValueError) as error:
        raise SettingsError(f"callers_file {path!r}: {_reason(error)}") from None


def _check_issuers(roster: Roster) -> None:
    """Looks whether the issuers' keys are any. Raises ValueError: one is not."""
    if not roster.issuers:
        return
    from ..access.tokens import imported  # here, because its library takes a second that other services do not need

    for issuer in roster.issuers.values():
        if issuer.key:
            imported(issuer)


def _check_lists(settings: Settings) -> None:
    """Refuses what can do nothing in a list: whoever wrote it takes it for done."""
    for origin in settings.callers.cors_origins:
        if origin not in ("*", "null") and not _is_origin(origin):
            raise SettingsError(
                f"cors_origins {origin!r}: no browser sends this; an origin is a scheme and a host in lower case, and a "
                "port if it is not the scheme's own, such as https://chat.example"
            )
    for path in settings.passing.pass_through:
        if not _PASSED_PATH.fullmatch(path):
            raise SettingsError(f"pass_through {path!r}: only a path such as /v1/files can pass, with all below it")
    for name in settings.connections.trusted_proxies:
        try:
            Proxies([name])
        except ValueError as error:
            raise SettingsError(
                f'trusted_proxies {name!r}: neither an address, nor a network, nor "unix": {error}'
            ) from None
    for name in settings.passing.forward_headers:
        if not _HEADER.fullmatch(name):
            raise SettingsError(
                f"forward_headers {name!r}: no header's name, such as x-team, nor a beginning, as x-my-*"
            )
        if (reason := HELD_BACK_UP.get(name.lower())) is not None:
            raise SettingsError(f"forward_headers {name!r}: it never goes up: {reason}")
    for name in settings.questions.ignore_fields:
        if name in OWN_FIELDS or name == "messages":
            raise SettingsError(f"ignore_fields {name!r}: a field that the service itself needs")
        if name.startswith(("[", '"')) or name.endswith(("]", '"')):
            raise SettingsError(
                f"ignore_fields {name!r}: names are separated by commas alone, without brackets or quotes"
            )


def _is_origin(origin: str) -> bool:
    """Whether a browser could send it (Fetch standard, "serialized origin")."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or not _HOST.fullmatch(host) or (port is not None and port == _PORTS.get(parts.scheme)):
        return False
    told = f"[{host}]" if ":" in host else host
    return origin == f"{parts.scheme}://{told}" + (f":{port}" if port is not None else "")


def _check_ledger_file(settings: Settings) -> None:
    if not settings.costs.ledger_file:
        return
    path = Path(settings.costs.ledger_file)
    if path.is_dir():
        raise SettingsError(f"ledger_file {path}: a directory is there")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()  # it is written beside, and renamed
    except (OSError, ValueError) as error:
        raise SettingsError(f"ledger_file {str(path)!r}: it cannot be written: {_reason(error)}") from None


def _check_state_dir(settings: Settings, roster: Roster) -> None:
    """Where somebody has a budget, a folder that could not be written would refuse all of them."""
    if not any(limits.has_budget for limits in (roster.limits, roster.default, *roster.callers.values())):
        return
    folder = state_folder(settings)
    if not folder.parent.is_dir():  # made anew because of a mistyped name, it would begin all budgets anew
        raise SettingsError(f"state_dir {str(folder)!r}: there is no folder to make it in; only its last one is made")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        raise SettingsError(f"state_dir {str(folder)!r}: it cannot be written: {_reason(error)}") from None
    if not settings.fleet.redis_url and (reason := limits_file.unreadable(folder / limits_file.NAME)) is not None:
        raise SettingsError(f"state_dir {str(folder)!r}: {limits_file.NAME}: {reason}")


def state_folder(settings: Settings) -> Path:
    """Where spending is kept."""
    return Path(settings.budgets.state_dir or Path(settings.callers.callers_file).parent / "state")


def _read_prices(settings: Settings) -> Prices:
    try:
        return load_prices(SHIPPED, *([Path(settings.costs.prices_file)] if settings.costs.prices_file else []))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"prices_file {settings.costs.prices_file!r}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """In one line."""
    reason = error.strerror if isinstance(error, OSError) else None
    return " ".join((reason or str(error)).split())
