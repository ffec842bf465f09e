"""Checks of the settings before anything is served, and again when they are read again; each names its setting."""

from __future__ import annotations

import difflib
import ipaddress
import tempfile
from pathlib import Path

from ..money.prices import SHIPPED, Prices, load_prices
from ..settings import Settings, SettingsError


def check(settings: Settings) -> Prices:
    """Refuses settings that could only fail later, and returns the price table that they name.

    Raises:
        SettingsError: naming the setting.
    """
    _check_exposure(settings)
    _check_ledger_file(settings)
    prices = _read_prices(settings)
    if settings.costs.upstream not in prices.upstreams:
        near = difflib.get_close_matches(settings.costs.upstream, prices.upstreams, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(prices.upstreams))}"
        raise SettingsError(f"upstream {settings.costs.upstream}: not in the price table; {hint}")
    return prices


def _check_exposure(settings: Settings) -> None:
    """Refuses to serve anyone beyond this machine by mistake."""
    listening, callers = settings.listening, settings.callers
    if listening.unix or callers.api_keys or callers.auth == "none" or _is_loopback(listening.host):
        return
    raise SettingsError(
        f"host {listening.host} is reachable from elsewhere: set callers' keys (SLUICEWAY_API_KEYS=key,…), "
        "or say SLUICEWAY_AUTH=none to spend for anyone"
    )


def _is_loopback(host: str) -> bool:
    """By what it says, not by what it resolves to: a name may lead elsewhere tomorrow."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


def _read_prices(settings: Settings) -> Prices:
    try:
        return load_prices(SHIPPED, *([Path(settings.costs.prices_file)] if settings.costs.prices_file else []))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"prices_file {settings.costs.prices_file!r}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """In one line."""
    reason = error.strerror if isinstance(error, OSError) else None
    return " ".join((reason or str(error)).split())
