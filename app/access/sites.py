"""Which site a browser's request comes from: any site's page can make a browser send some requests unasked. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from ..errors import Forbidden, WrongMediaType


def check_content_type(headers: Mapping[str, str]) -> None:
    """Whether a body may be taken for JSON.

    `application/json` from anywhere: a browser asks before it sends that to another site, and gets no leave here. Some
    clients say it twice, separated by a comma, for which a browser asks as well.
    No content type, or `text/plain`, which `fetch` sends by itself: only from our own pages, because any site's page
    can send those unasked and would spend on our account.

    Raises:
        WrongMediaType: another content type. Forbidden: another site's page.
    """
    if _is_json(headers):
        return
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type not in ("", "text/plain"):
        raise WrongMediaType(f"the body must be JSON, sent as application/json, not as {media_type[:80]}")
    if not _same_origin(headers):
        raise Forbidden("another site's page may not call this: only application/json is taken from elsewhere")


def check_site(headers: Mapping[str, str]) -> None:
    """Whether a request that names no secret may change something: not if another site's page could send it unasked.

    Raises:
        Forbidden: it comes from another site's page, and no browser has asked us about it before.
    """
    if not _is_json(headers) and not _same_origin(headers):
        raise Forbidden("another site's page may not call this without the stream's X-Stop-Token")


def check_host(host: str, known: Collection[str]) -> None:
    """Whether a service that anyone on this machine may call answers to a name.

    A page can lead its own site's name to this machine (DNS rebinding). To the browser it is then a page of ours, and may
    spend and read the answers; only the name in `Host` still tells.

    Args:
        host: the header's value; empty where there was none, which no browser sends.
        known: the names, as `host_name` gives them.

    Raises:
        Forbidden: it is none of them.
    """
    if host and host_name(host) not in known:
        raise Forbidden(
            "where no key is asked for, only known names are answered to, not the Host that was sent: set api_keys or "
            'callers_file, or name it in allowed_hosts or the site in cors_origins, or set auth = "none" to serve anyone'
        )


def host_name(host: str) -> str:
    """The name or the address in a `Host`, without its port and in lower case; empty where there is none."""
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"  # an address of IPv6 as settings have it
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """By what it says, not by what it resolves to: a name may lead elsewhere tomorrow."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def _is_json(headers: Mapping[str, str]) -> bool:
    kinds = [part.partition(";")[0].strip().lower() for part in headers.get("Content-Type", "").split(",")]
    return all(kind == "application/json" or kind.endswith("+json") for kind in kinds)


def _same_origin(headers: Mapping[str, str]) -> bool:
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    # Browsers leave Sec-Fetch-Site out on plain http; every POST of theirs has an Origin. Neither: not a browser.
    origin = headers.get("Origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == headers.get("Host")
    except ValueError:  # such as an IPv6 address without its closing bracket
        return False
