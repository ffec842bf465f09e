"""The section of the settings that bounds connections: how many, how long they may be idle, and their requests' heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from .sections import Names


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Clients' connections, and the heads of their requests."""

    # Twice `max_streams`: beside each stream its page may steer it, ask for its gauges, or wait.
    max_connections: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="the most connections of clients at once, each worker's own; fewer where the system allows fewer files",
        ),
    ] = 10_000
    max_connections_per_client: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="the most connections of one client's address; 0 for any number"),
    ] = 0
    trusted_proxies: Annotated[
        Names,
        Field(
            description='addresses and networks of proxies, or "unix", whose X-Forwarded-For names the client for that bound'
        ),
    ] = ()
    # As much as nginx takes by default, four lines of 8 kB. Browsers send some 2 kB, with large cookies 10.
    max_head_bytes: Annotated[
        int, Field(ge=1024, le=1_048_576, description="the largest head of a request, in bytes")
    ] = 32_768
    head_timeout_s: Annotated[
        float,
        Field(gt=0, le=600, description="how long a head may take, from the connection or its first byte, in seconds"),
    ] = 10.0
    # Above nginx's 60 s for connections to an upstream, so that nginx is the one that closes: a connection that is closed
    # just when the next request comes over it costs that request.
    keepalive_timeout_s: Annotated[
        float,
        Field(gt=0, le=3600, description="how long a connection may wait for its next request, in seconds"),
    ] = 75.0
