"""Ways to a service with faults planted in the shipped nginx configuration, one or several at a time."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from app.settings import Settings
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.support.nginx import free_port, nginx, shipped


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        directives: of the location, in place of the shipped ones or beside them.
        listen: how the line that listens ends, in place of the shipped sizes.
        found: the checks that must name it, with their severity.
        line: what the line that mends it begins with.
        services: so many services behind one address, that know nothing of each other.
        twice: each of them stands in the upstream twice, so that there is somewhere to try again.
        outer: another nginx stands before it, which buffers unless it is told not to.
    """

    found: dict[str, str]
    line: str
    directives: dict[str, str] = field(default_factory=dict)
    listen: str = ""
    services: int = 1
    twice: bool = False
    outer: bool = False


_CACHE = {"proxy_cache": "answers", "proxy_cache_valid": "any 1m"}
_EVENTS_ZIPPED = {"gzip": "on", "gzip_types": "text/event-stream", "gzip_min_length": "1", "gzip_proxied": "any"}
_TRIED_AGAIN = {"proxy_next_upstream": "error timeout http_503 non_idempotent"}


def faults(read_timeout: str) -> dict[str, Fault]:
    """Each by its name."""
    error = "error"
    ignored = {"proxy_buffering": "on", "proxy_ignore_headers": "X-Accel-Buffering"}
    return {
        "buffering on": Fault({"buffering": error}, "proxy_buffering off;", ignored),
        "gzip on": Fault({"compressed": error}, "gzip off;", _EVENTS_ZIPPED),
        "HTTP/1.0": Fault(
            {"http-1.0": error},
            "proxy_http_version 1.1;",
            {"proxy_http_version": "1.0", "proxy_set_header Connection": "close"},
        ),
        "leaving ignored": Fault(
            {"leave-unheard": error}, "proxy_ignore_client_abort off;", {"proxy_ignore_client_abort": "on"}
        ),
        "large sockets": Fault({"swallow": error}, "listen 80 sndbuf=16k;", listen="sndbuf=2m"),
        "impatient": Fault({"idle-limit": error}, "proxy_read_timeout 75s;", {"proxy_read_timeout": read_timeout}),
        "Last-Event-ID dropped": Fault(
            {"resume-header": error}, "no proxy_set_header Last-Event-ID", {"proxy_set_header Last-Event-ID": '""'}
        ),
        "POST tried again": Fault({"post-retried": error}, "proxy_next_upstream off;", _TRIED_AGAIN, twice=True),
        "small bodies": Fault({"body-limit": error}, "client_max_body_size 520m;", {"client_max_body_size": "1k"}),
        "caching": Fault(
            {"cached": error, "buffering": "warning"},
            "proxy_cache off;",
            {**_CACHE, "proxy_buffering": "on", "proxy_ignore_headers": "Cache-Control Expires"},
        ),
        "header eaten": Fault(
            {"accel-eaten": error, "buffering": error},
            "proxy_pass_header X-Accel-Buffering;",
            {"proxy_pass_header": ""},
            outer=True,
        ),
        "two services": Fault({"streams-lost": error}, "hash $remote_addr consistent;", services=2),
    }


@asynccontextmanager
async def planted(plants: Iterable[Fault], **settings: object) -> AsyncIterator[str]:
    """A way with these faults on it, to services of its own; the URL where it begins."""
    chosen = list(plants)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sluiceway-way-")))
        paths = []
        for number in range(max((fault.services for fault in chosen), default=1)):
            service = await stack.enter_async_context(_service(f"{folder}/{number}.sock", **settings))
            paths += [service.url] * (2 if any(fault.twice for fault in chosen) else 1)
        port = free_port()
        config = _configured(shipped(folder, paths[0], port), folder, chosen, paths)
        url = await stack.enter_async_context(nginx(folder, config, port))
        if any(fault.outer for fault in chosen):
            outside = folder / "outer"
            outside.mkdir()
            port = free_port()
            config = shipped(outside, url.removeprefix("http://"), port).replace(
                "proxy_buffering off;", "proxy_buffering on;"
            )
            url = await stack.enter_async_context(nginx(outside, config, port))
        yield url


@asynccontextmanager
async def _service(path: str, **settings: object) -> AsyncIterator[Running]:
    given = {"admin_port": 0, "max_lag_s": 60.0, "warm_connections": 0, "unix": path, "auth": "none"}
    credentials = Credentials(api_key="none", base_url="http://127.0.0.1:1", simulated=True)
    async with running(Settings.model_validate(given | settings), credentials) as service:
        yield service


def _configured(config: str, folder: Path, chosen: Iterable[Fault], paths: list[str]) -> str:
    servers = " ".join(f"server {path};" for path in paths)
    config = config.replace(f"    server {paths[0]};", f"    {servers}")
    directives: dict[str, str] = {}
    for fault in chosen:
        config = config.replace("sndbuf=16k", fault.listen or "sndbuf=16k")
        for name, value in fault.directives.items():
            joined = name == "proxy_ignore_headers" and name in directives
            directives[name] = f"{directives[name]} {value}" if joined else value
    for name, value in directives.items():
        line = f"        {name} {value};" if value else ""
        config, found = re.subn(rf"(?m)^ +{name} [^;]+;.*$", line, config)
        if not found:
            config = config.replace("    location / {\n", f"    location / {{\n{line}\n")
    if any("proxy_cache" in fault.directives for fault in chosen):
        config = f"proxy_cache_path {folder}/cache keys_zone=answers:1m;\n{config}"
    return config
