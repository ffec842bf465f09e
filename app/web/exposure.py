"""Who can reach the service, and by which names: what strangers may call is so because somebody said it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from ..access.sites import host_name, is_loopback
from ..settings import Settings, SettingsError

# What browsers put into `Host`: no blanks and no `*`, and a name of another script in its form of ASCII, `xn--…`.
_SENDABLE = re.compile(r"[\w.-]+|\[?[0-9a-f:.]+\]?", re.ASCII | re.IGNORECASE)


def check_exposure(settings: Settings) -> None:
    """Refuses to serve anyone beyond this machine's own users by mistake.

    A unix socket counts as reachable from everywhere: it is there for a proxy, and whoever reaches that reaches it.

    Raises:
        SettingsError: naming the setting that exposes it, and what would say so.
    """
    listening, callers = settings.listening, settings.callers
    if callers.callers_file and callers.auth == "none":
        raise SettingsError('callers_file: with auth = "none" nobody would be asked for a key; leave one of them out')
    if not _says_who(settings):
        keys = "set callers' keys (SLUICEWAY_CALLERS_FILE=callers.toml, or SLUICEWAY_API_KEYS=key,…)"
        open_to_all = "or say SLUICEWAY_AUTH=none to spend for anyone"
        if listening.unix:
            raise SettingsError(
                f"unix {listening.unix}: a proxy before it serves whoever reaches it: {keys}, {open_to_all}"
            )
        if not is_loopback(listening.host):
            raise SettingsError(f"host {listening.host} is reachable from elsewhere: {keys}, {open_to_all}")
    if not (is_loopback(listening.admin_host) or "none" in (callers.auth, callers.admin_auth)):
        raise SettingsError(
            f"admin_host {listening.admin_host} is reachable from elsewhere, and the admin port asks nobody for a key: say "
            "SLUICEWAY_ADMIN_AUTH=none to show /metrics and /streams to anyone there"
        )
    for name in callers.allowed_hosts:
        if host_name(name) != name.lower().strip("[]").removesuffix(".") or not _SENDABLE.fullmatch(name):
            raise SettingsError(
                f"allowed_hosts {name!r}: only a name or an address as browsers send it, without a scheme, a port, a blank or a *"
            )


def names(settings: Settings) -> frozenset[str] | None:
    """The names in `Host` that a service without keys answers to; None for any."""
    callers = settings.callers
    if callers.auth == "none" or "*" in callers.cors_origins or settings.listening.unix:
        return None
    sites = (urlsplit(origin).hostname or "" for origin in callers.cors_origins)
    return _names((settings.listening.host, *callers.allowed_hosts, *sites))


def admin_names(settings: Settings) -> frozenset[str] | None:
    """The same for the admin port, which has no keys."""
    host = settings.listening.admin_host
    return _names((host, *settings.callers.allowed_hosts)) if is_loopback(host) else None


def who_may_call(settings: Settings) -> str:
    """For the log, at the start: one line."""
    listening, callers = settings.listening, settings.callers
    where = f"unix socket {listening.unix}" if listening.unix else f"{listening.host}"
    known = [f"the callers of {callers.callers_file}"] if callers.callers_file else []
    known += [f"the holders of {len(callers.api_keys)} keys in api_keys"] if callers.api_keys else []
    if callers.auth == "none":
        return f'who may call: ANYONE who reaches {where}, because auth = "none" says so'
    if known:
        return f"who may call: {' and '.join(known)}, by their keys"
    return (
        f"who may call: anyone on this machine, as {', '.join(sorted(names(settings) or ('any host',)))}, without a key"
    )


def _says_who(settings: Settings) -> bool:
    callers = settings.callers
    return bool(callers.api_keys or callers.callers_file or callers.auth == "none")


def _names(given: Collection[str]) -> frozenset[str]:
    return frozenset(name for host in given if (name := host_name(host)))
