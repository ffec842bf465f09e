"""Every setting, with unit, bound and default: its default here, then a TOML file, `SLUICEWAY_…`, the command line.

A key that is not here is refused by name, wherever it comes from.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

ENV_PREFIX = "SLUICEWAY_"


# Kubernetes, "Discovering services": `…_SERVICE_HOST`, `…_SERVICE_PORT_NAME`, `…_PORT=tcp://…`, `…_PORT_80_TCP_ADDR`.
_SERVICE_LINK = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_LINK_SCHEMES = ("tcp://", "udp://", "sctp://")
# No header can hold them (RFC 9110, field values).
_CONTROLS = frozenset([*range(0x20), 0x7F])


class SettingsError(ValueError):
    """A setting is unknown, of the wrong type or out of bounds; the message names it."""


class Settings(BaseModel):
    """What the service is run with. Read once, frozen, passed down as plain values."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    # Where it listens
    host: str = Field("127.0.0.1", description="address to listen on; any but loopback demands callers' keys")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 takes a free one")
    unix: str = Field("", description="path of a unix socket to listen on instead of TCP; empty for none")
    admin_host: str = Field("127.0.0.1", description="address of /metrics, /healthz, /readyz and /streams")
    admin_port: int = Field(9464, ge=0, le=65535, description="port of those; 0 takes a free one")

    # Who may call
    api_keys: Annotated[
        tuple[str, ...], Field(description="callers' keys, sent as Bearer or x-api-key", repr=False)
    ] = ()
    auth: Literal["", "none"] = Field("", description='"none" serves anyone, also beyond loopback')
    cors_origins: Annotated[
        tuple[str, ...], Field(description='sites whose pages may call, such as "https://chat.example"; "*" for any')
    ] = ()

    # Who is let in
    max_streams: int = Field(5000, ge=1, le=1_000_000, description="the most streams in flight, each worker's own")
    max_lag_s: float = Field(
        0.03, gt=0, le=60, description="no new stream is let in while the event loop is later than this, in seconds"
    )

    # What is asked of Claude where the request does not say
    model: str = Field("claude-opus-4-8", min_length=1, description="model")
    max_tokens: int = Field(64_000, ge=1, le=1_000_000, description="most output tokens of an answer")
    thinking: Literal["adaptive", "disabled", ""] = Field(
        "adaptive", description="thinking; empty leaves it out of the request"
    )

    # What a request may ask
    max_tokens_limit: int = Field(128_000, ge=1, le=1_000_000, description="the largest max_tokens taken, in tokens")
    max_body_bytes: int = Field(
        8_388_608, ge=1024, le=33_554_432, description="the largest body of a question to /api, in bytes"
    )
    max_messages_bytes: int = Field(
        33_554_432,
        ge=1024,
        le=268_435_456,
        description="the largest body of /v1/messages, as large as Claude's own, in bytes",
    )
    body_timeout_s: float = Field(
        120.0, gt=0, le=3600, description="how long such a body may take to arrive, in seconds"
    )
    ignore_fields: Annotated[
        tuple[str, ...], Field(description="fields of the pages' own in bodies to /api, which go nowhere")
    ] = ()
    pass_through: Annotated[
        tuple[str, ...],
        Field(
            description="paths of Claude's API that are passed on as they are, with all below them, and are not booked"
        ),
    ] = ("/v1/models", "/v1/messages/batches", "/v1/files", "/v1/skills", "/v1/complete")
    max_passed_bytes: int = Field(
        536_870_912, ge=1024, le=17_179_869_184, description="the largest body of those, which is never held, in bytes"
    )
    forward_headers: Annotated[
        tuple[str, ...], Field(description='further request headers that go up to Claude, such as "x-team" or "x-my-*"')
    ] = ()

    # The batches
    window_s: float = Field(
        0.1, ge=0, le=5, description="time between two batches, in seconds, more under load; 0 sends each at once"
    )
    window_max_s: float = Field(
        1.0, ge=0, le=30, description="what the window grows to while a reader lags, in seconds"
    )
    batch_bytes: int = Field(
        2048, ge=64, le=1_048_576, description="a batch this large goes without waiting for its window, in bytes"
    )
    commit_s: float = Field(
        1.0, gt=0, le=60, description="silence after which a first keep-alive commits the status, in seconds"
    )
    heartbeat_s: float = Field(10.0, gt=0, le=300, description="silence between two keep-alives, in seconds")

    # Readers that are lost, that stall, that come back
    policy: Literal["abort", "grace", "drain"] = Field(
        "abort", description="what happens to a stream whose reader is lost, where the request does not say"
    )
    chat_policy: Literal["abort", "grace", "drain"] = Field(
        "abort", description="the same for /api/chat, where a page's stop() is a lost reader too"
    )
    grace_s: float = Field(
        30.0, gt=0, le=3600, description="how long a resumable stream waits for a lost reader, in seconds"
    )
    grace_max_s: float = Field(300.0, gt=0, le=3600, description="the longest grace a request may ask, in seconds")
    stall_timeout_s: float = Field(
        60.0, ge=1, le=3600, description="a reader that takes nothing for this long is stalled, in seconds"
    )
    vanish_timeout_s: float = Field(
        8.0, ge=1, le=3600, description="one that acknowledges nothing for this long has vanished, in seconds"
    )
    replay_bytes: int = Field(
        2_097_152, ge=1024, le=67_108_864, description="what a resumable stream keeps for its readers, in bytes"
    )
    replay_total_bytes: int = Field(
        268_435_456, ge=0, le=68_719_476_736, description="what all of them keep together, in bytes"
    )
    replay_s: float = Field(
        300.0, gt=0, le=86_400, description="how long a resumable stream stays readable after its end, in seconds"
    )
    credit_bytes: int = Field(
        65_536, ge=4096, le=16_777_216, description="how far to run ahead of a page that acknowledges, in bytes"
    )
    drain_s: float = Field(30.0, ge=0, le=3600, description="what streams are given at a shutdown, in seconds")

    # The buffers, from Claude to the reader
    receive_buffer_bytes: int = Field(
        8192, ge=2048, le=16_777_216, description="SO_RCVBUF towards Claude, in bytes (Linux doubles it)"
    )
    queue_items: int = Field(64, ge=1, le=65_536, description="the queue's bound in items")
    queue_bytes: int = Field(4096, ge=256, le=16_777_216, description="the queue's bound in bytes")
    send_buffer_bytes: int = Field(
        8192, ge=2048, le=16_777_216, description="SO_SNDBUF towards the reader, in bytes (Linux doubles it)"
    )
    notsent_lowat_bytes: int = Field(
        2048, ge=256, le=16_777_216, description="TCP_NOTSENT_LOWAT towards the reader, in bytes"
    )

    warm_connections: int = Field(
        8, ge=0, le=64, description="the most connections to Claude kept ready before they are asked for; 0 keeps none"
    )

    # Deadlines and retries towards Claude; none of them runs while the reader holds the stream
    connect_timeout_s: float = Field(5.0, gt=0, le=120, description="for connecting to Claude, in seconds")
    idle_timeout_s: float = Field(90.0, gt=0, le=3600, description="without a byte from Claude, in seconds")
    progress_timeout_s: float = Field(
        600.0, gt=0, le=7200, description="with nothing but pings from Claude, in seconds"
    )
    upstream: str = Field(
        "anthropic", min_length=1, description="whose prices and way of billing apply, by name in the price table"
    )
    prices_file: str = Field(
        "", description="a file like config/prices.toml, whose entries win over the shipped table's"
    )
    retries: int = Field(2, ge=0, le=10, description="further attempts before the first event")
    retry_after_max_s: float = Field(
        10.0, ge=0, le=300, description="the longest retry-after that is waited for, in seconds"
    )

    # What the ledger learned
    ledger_file: str = Field("", description="where that is kept across restarts; empty forgets it")

    reconcile_per_minute: float = Field(
        0.0,
        ge=0,
        le=8000,
        description="how many aborted answers a minute are counted anew by count_tokens; 0 counts none",
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least level logged")

    @field_validator("api_keys", "cors_origins", "ignore_fields", "pass_through", "forward_headers", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(key for part in value.split(",") if (key := part.strip()))
        return value

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(not key or key != key.strip() or not {*map(ord, key)}.isdisjoint(_CONTROLS) for key in keys):
            raise PydanticCustomError("key", "a key is empty, or has a blank at an end or a control character in it")
        return keys


def load(
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Reads the settings: file, then environment, then overrides; a later one wins.

    Args:
        config: the TOML file; None for none.
        environ: the environment; None for the process's own. Only `SLUICEWAY_…` counts.
        overrides: from the command line; None values are left out.

    Raises:
        SettingsError: naming the setting and its bound.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(source: str, given: Mapping[str, Any], shown: Mapping[str, str]) -> None:
        for key, value in given.items():
            if key not in Settings.model_fields:
                near = difflib.get_close_matches(key, Settings.model_fields, n=1)
                hint = f"; did you mean {_as_in(source, near[0])}?" if near else ""
                raise SettingsError(f"{source}: unknown setting {shown[key]}{hint}")
            values[key] = value
            sources[key] = f"{source}: {shown[key]}"

    if config is not None:
        try:
            table = tomllib.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # not there, not UTF-8, not TOML
            reason = error.strerror if isinstance(error, OSError) else None
            raise SettingsError(f"config {config}: {reason or error}") from error
        take(config.name, table, {key: key for key in table})
    names = {name: name.removeprefix(ENV_PREFIX).lower() for name in environ if _is_ours(name, environ[name])}
    take("environment", {key: environ[name] for name, key in names.items()}, {key: name for name, key in names.items()})
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    take("command line", given, {key: f"--{key.replace('_', '-')}" for key in given})
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_told(problem, sources) for problem in error.errors())) from None


def _is_ours(name: str, value: str) -> bool:
    """Whether an environment variable is a setting, and not what Kubernetes tells every pod of a Service `sluiceway`."""
    if not name.startswith(ENV_PREFIX):
        return False
    return not _SERVICE_LINK.fullmatch(name) and not (name.endswith("PORT") and value.startswith(_LINK_SCHEMES))


def _as_in(source: str, key: str) -> str:
    return ENV_PREFIX + key.upper() if source == "environment" else key


def _told(problem: Any, sources: Mapping[str, str]) -> str:
    key = str(problem["loc"][0])
    # The message alone: the value may be a key.
    return f"{sources.get(key, key)}: {problem['msg']}"
