"""The section of the settings for a fleet: several processes, on any machines, that share one Redis."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from .sections import Names

# Where other processes may be without a word: this machine, and the networks that nobody outside routes to (RFC 1918,
# RFC 4193). Link-local addresses are not among them, because clouds tell secrets to whoever asks there.
PRIVATE = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")

_DATABASE = re.compile(r"/?|/[0-9]{1,5}")


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise PydanticCustomError("network", "each must be a network such as 10.0.0.0/8 or fd00::/8") from None
    return networks


def _is_addressed(url: str) -> bool:
    try:
        return (urlsplit(url).port or 0) >= 0
    except ValueError:
        return False


def _check_url(url: str) -> str:
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise PydanticCustomError("redis_url", "it must begin with redis://, rediss:// (TLS) or unix://")
    if not _is_addressed(url):
        raise PydanticCustomError(
            "redis_url", "its port must be a number up to 65535, and a `/`, `#` or `?` in its password %2F, %23 or %3F"
        )
    # redis-py would take database 0 for what is no number. Never the URL itself in these words: it may hold the password.
    if not url.startswith("unix://") and not _DATABASE.fullmatch(urlsplit(url).path):
        raise PydanticCustomError("redis_url", "its path must be the number of a database, such as /0")
    return url


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """How the fleet's Redis, or Valkey, is reached."""

    redis_url: Annotated[
        str,
        AfterValidator(_check_url),
        Field(
            description="the Redis that several processes share, such as redis://USER:PASSWORD@HOST:6379/0; empty for none"
        ),
    ] = field(default="", repr=False)
    redis_password_file: Annotated[
        str, Field(description="a file with its password, which then stands in no URL; empty for none")
    ] = ""
    redis_ca_file: Annotated[
        str, Field(description="certificates that rediss:// trusts, in PEM; empty trusts the system's")
    ] = ""
    redis_prefix: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$", description="what every key begins with: one for each fleet")
    ] = "slw"
    # Nobody waits longer for Redis than a reader notices; a Redis on the same network answers in 1 ms.
    redis_timeout_s: Annotated[
        float, Field(gt=0, le=5, description="how long a reader waits for Redis at most, in seconds")
    ] = 0.25


@dataclass(frozen=True, slots=True)
class FleetOptions(RedisOptions):
    """How this process takes part in a fleet."""

    redis_away: Annotated[
        Literal["local", "closed", "open"],
        Field(
            description='while Redis cannot be reached, or refuses limits, each process lets in its share of the limits ("local"), nothing ("closed"), or all of them ("open")'
        ),
    ] = "local"
    # Four commands a second and stream: what a process that is killed takes with it is a quarter of a second of text.
    mirror_s: Annotated[
        float,
        Field(ge=0.02, le=10, description="how long a resumable stream's text may be on its way to Redis, in seconds"),
    ] = 0.25
    peer_host: Annotated[
        str,
        Field(
            description="address on which other processes reach this one; empty, 0.0.0.0 or :: is that which reaches Redis"
        ),
    ] = ""
    peer_port: Annotated[
        int, Field(ge=0, le=65535, description="its port, counted up by each worker; 0 takes a free one")
    ] = 0
    peer_networks: Annotated[
        Names,
        AfterValidator(_check_networks),
        Field(description="where other processes may be: addresses elsewhere, which Redis names, are not connected to"),
    ] = PRIVATE
    fleet_secret_file: Annotated[
        str, Field(description="a file with what the processes prove themselves by; empty keeps one in Redis")
    ] = ""
