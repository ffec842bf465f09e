"""The sections of the settings: each is the very object that one part of the service takes, so that it is written once.

A section is a plain frozen dataclass, which a test may make with any values; `Settings` checks the bounds. A field without
a description is a constant, and no setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

# No header can hold them (RFC 9110, field values).
_CONTROLS = frozenset([*range(0x20), 0x7F])


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(name for part in value.split(",") if (name := part.strip()))
    return value


def _without_brackets(host: str) -> str:
    # As an address of IPv6 stands in a URL.
    return host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host


def _check_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    if any(not key or key != key.strip() or not {*map(ord, key)}.isdisjoint(_CONTROLS) for key in keys):
        raise PydanticCustomError("key", "a key is empty, or has a blank at an end or a control character in it")
    return keys


def _check_pepper(pepper: str) -> str:
    if pepper and len(pepper) < 32:
        raise PydanticCustomError("pepper", "it must have 32 characters or more: `openssl rand -hex 32` makes one")
    return pepper


def _check_collector(url: str) -> str:
    if url:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port or an address that is none
            good = False
        if not good or not url.isascii() or not url.isprintable() or set("@?# ") & set(url):
            raise PydanticCustomError(
                "url", "it must be http:// or https:// with a host, and hold no key and no question"
            )
    return url


# The fields of bodies to /api that are the service's own, beside the Messages API's.
OWN_FIELDS = frozenset({"prompt", "resumable", "policy", "grace_s", "credits", "betas"})
# A list in the file; in the environment and on the command line its items are separated by commas.
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Keys = Annotated[Names, AfterValidator(_check_keys)]
Pepper = Annotated[str, AfterValidator(_check_pepper)]
Collector = Annotated[str, AfterValidator(_check_collector)]
Host = Annotated[str, AfterValidator(_without_brackets)]


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the service listens."""

    host: Annotated[Host, Field(description="address to listen on; any but loopback demands callers' keys")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="TCP port; 0 takes a free one")] = 8080
    unix: Annotated[str, Field(description="path of a unix socket to listen on instead of TCP; empty for none")] = ""
    admin_host: Annotated[Host, Field(description="address of /metrics, /healthz, /readyz and /streams")] = "127.0.0.1"
    admin_port: Annotated[int, Field(ge=0, le=65535, description="port of those; 0 takes a free one")] = 9464


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may call."""

    callers_file: Annotated[
        str,
        Field(description="a file like config/callers.toml: who may do what; with it, keys are demanded everywhere"),
    ] = ""
    api_keys: Annotated[
        Keys, Field(description="further keys, sent as Bearer or x-api-key: each KEY, a caller of its own, or NAME:KEY")
    ] = field(default=(), repr=False)
    key_pepper: Annotated[
        Pepper,
        Field(
            description="secret of 32 characters or more, which digests of keys need; empty keeps one beside callers_file"
        ),
    ] = field(default="", repr=False)
    auth: Annotated[
        Literal["", "none"], Field(description='"none" serves anyone, also beyond loopback and on a unix socket')
    ] = ""
    admin_auth: Annotated[
        Literal["", "none"],
        Field(description='"none" shows the admin port to anyone, where admin_host is not loopback'),
    ] = ""
    allowed_hosts: Annotated[
        Names,
        Field(description="the names in Host that are answered to on loopback where no key is asked for, any port"),
    ] = ("localhost", "127.0.0.1", "[::1]")
    cors_origins: Annotated[
        Names, Field(description='sites whose pages may call, such as "https://chat.example"; "*" for any')
    ] = ()


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Who is let in."""

    max_streams: Annotated[
        int, Field(ge=1, le=1_000_000, description="the most streams in flight, each worker's own")
    ] = 5000
    # A core that is fully used by streams it can serve is 20 to 40 ms late; one that is too slow for them is soon 100.
    max_lag_s: Annotated[
        float,
        Field(
            gt=0,
            le=60,
            description="no new stream is let in once the event loop has been later than this for a second, in seconds",
        ),
    ] = 0.05


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is asked of Claude where the request does not say, and what a request may ask."""

    model: Annotated[str, Field(min_length=1, description="model")] = "claude-opus-4-8"
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000, description="most output tokens of an answer")] = 64_000
    thinking: Annotated[
        Literal["adaptive", "disabled", ""], Field(description="thinking; empty leaves it out of the request")
    ] = "adaptive"
    max_tokens_limit: Annotated[
        int, Field(ge=1, le=1_000_000, description="the largest max_tokens taken, in tokens")
    ] = 128_000
    ignore_fields: Annotated[
        Names, Field(description="fields of the pages' own in bodies to /api, which go nowhere")
    ] = ()
    policy: Annotated[
        Literal["abort", "grace", "drain"],
        Field(description="what happens to a stream whose reader is lost, where the request does not say"),
    ] = "abort"
    chat_policy: Annotated[
        Literal["abort", "grace", "drain"],
        Field(description="the same for /api/chat, where a page's stop() is a lost reader too"),
    ] = "abort"
    grace_s: Annotated[
        float, Field(gt=0, le=3600, description="how long a resumable stream waits for a lost reader, in seconds")
    ] = 30.0
    grace_max_s: Annotated[
        float, Field(gt=0, le=3600, description="the longest grace a request may ask, in seconds")
    ] = 300.0


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a request may bring."""

    # Twice what the largest context, a million tokens, takes as text or code.
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=33_554_432, description="the largest body of a question to /api, in bytes")
    ] = 8_388_608
    max_messages_bytes: Annotated[
        int,
        Field(
            ge=1024, le=268_435_456, description="the largest body of /v1/messages, as large as Claude's own, in bytes"
        ),
    ] = 33_554_432
    body_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="how long such a body may take to arrive, in seconds")
    ] = 120.0
    # A phone whose link has gone bad sends some kilobytes a second; who sends a byte now and then holds a place for nothing.
    body_grace_s: Annotated[
        float, Field(gt=0, le=3600, description="for how long any body may be slower than the next, in seconds")
    ] = 10.0
    min_body_bytes_per_s: Annotated[
        int,
        Field(
            ge=0,
            le=16_777_216,
            description="how fast a body must come once those seconds are over, in bytes a second; 0 for any speed",
        ),
    ] = 512
    # Sixteen of the largest at once.
    max_arriving_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=68_719_476_736,
            description="what all bodies that are still arriving may hold together, in bytes",
        ),
    ] = 536_870_912


@dataclass(frozen=True, slots=True)
class PassedOn:
    """What is passed on to Claude as it is."""

    pass_through: Annotated[
        Names,
        Field(
            description="paths of Claude's API that are passed on as they are, with all below them, and are not booked"
        ),
    ] = ("/v1/models", "/v1/messages/batches", "/v1/files", "/v1/skills", "/v1/complete")
    # A file of the Files API has at most 500 MB.
    max_passed_bytes: Annotated[
        int, Field(ge=1024, le=17_179_869_184, description="the largest body of those, which is never held, in bytes")
    ] = 536_870_912
    forward_headers: Annotated[
        Names, Field(description='further request headers that go up to Claude, such as "x-team" or "x-my-*"')
    ] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """How a stream's consumer writes."""

    # As much as the queue holds: a burst that waited longer for its window would only hold Claude still.
    batch_bytes: Annotated[
        int, Field(ge=64, le=1_048_576, description="a batch this large goes without waiting for its window, in bytes")
    ] = 2048
    commit_s: Annotated[
        float, Field(gt=0, le=60, description="silence after which a first keep-alive commits the status, in seconds")
    ] = 1.0
    # Only what is out can be acknowledged: this and `vanish_timeout_s`, with half a second between two looks, keep the
    # promise that a vanished reader is found within 20 s. And proxies end a silent response after 30 to 60 s.
    heartbeat_s: Annotated[float, Field(gt=0, le=300, description="silence between two keep-alives, in seconds")] = 10.0


@dataclass(frozen=True, slots=True)
class StreamBounds(Pace):
    """The queue, the batches and the end of every stream."""

    window_s: Annotated[
        float,
        Field(ge=0, le=5, description="time between two batches, in seconds, more under load; 0 sends each at once"),
    ] = 0.1
    window_max_s: Annotated[
        float, Field(ge=0, le=30, description="what the window grows to while a reader lags, in seconds")
    ] = 1.0
    # The bounds of the queue stand for what is generated in vain when a reader stalls. 2,048 bytes are one full batch
    # beside the one that is being written, some 170 tokens: with the sockets beside it, generation is about 1,000
    # tokens ahead of a stalled reader (measured: 880 to 930 plain, 1,020 to 1,440 where Claude is behind TLS). The
    # bound in items is for events that are nearly empty: 64 of them come in about a second.
    queue_items: Annotated[int, Field(ge=1, le=65_536, description="the queue's bound in items")] = 64
    queue_bytes: Annotated[int, Field(ge=256, le=16_777_216, description="the queue's bound in bytes")] = 2048
    # As long as Kubernetes waits by default before it kills.
    drain_s: Annotated[float, Field(ge=0, le=3600, description="what streams are given at a shutdown, in seconds")] = (
        30.0
    )
    # What a reader is given to take the typed last event: a socket that is drained takes it in milliseconds.
    farewell_s: float = 0.5


@dataclass(frozen=True, slots=True)
class SendBuffers:
    """What may wait in the sockets towards a reader."""

    # A token takes some 22 bytes on its way to the reader, so 16 kB, as Linux doubles it, hold some 700 tokens: most of what
    # is generated ahead of a stalled reader. Half of it would hold back a reader over a long round trip.
    send_buffer_bytes: Annotated[
        int, Field(ge=2048, le=16_777_216, description="SO_SNDBUF towards the reader, in bytes (Linux doubles it)")
    ] = 8192
    # One full batch: whoever writes goes on when the batch before has left, so that the newest text waits here and not
    # below.
    notsent_lowat_bytes: Annotated[
        int, Field(ge=256, le=16_777_216, description="TCP_NOTSENT_LOWAT towards the reader, in bytes")
    ] = 2048


@dataclass(frozen=True, slots=True)
class ReaderBounds(SendBuffers):
    """Every reader's connection: what may wait below it, and when it counts as gone."""

    # As nginx's `send_timeout`, which would end the connection behind a proxy then anyway.
    stall_timeout_s: Annotated[
        float, Field(ge=1, le=3600, description="a reader that takes nothing for this long is stalled, in seconds")
    ] = 60.0
    vanish_timeout_s: Annotated[
        float, Field(ge=1, le=3600, description="one that acknowledges nothing for this long has vanished, in seconds")
    ] = 8.0
    # Some 6,000 tokens, more than is generated in a minute: a hidden tab, whose timers browsers let run once a minute,
    # is not held still.
    credit_bytes: Annotated[
        int, Field(ge=4096, le=16_777_216, description="how far to run ahead of a page that acknowledges, in bytes")
    ] = 65_536


@dataclass(frozen=True, slots=True)
class ReplayBounds:
    """What is kept for readers who come back."""

    # Twice the frames of the largest answers: 64,000 tokens are up to 1 MB.
    replay_bytes: Annotated[
        int, Field(ge=1024, le=67_108_864, description="what a resumable stream keeps for its readers, in bytes")
    ] = 2_097_152
    # A thousand streams of an ordinary answer, 64,000 characters and their frames, or 128 of the largest.
    replay_total_bytes: Annotated[
        int, Field(ge=0, le=68_719_476_736, description="what all of them keep together, in bytes")
    ] = 268_435_456
    replay_s: Annotated[
        float,
        Field(gt=0, le=86_400, description="how long a resumable stream stays readable after its end, in seconds"),
    ] = 300.0


@dataclass(frozen=True, slots=True)
class RetryRule:
    """When a request to Claude that failed before its first event is sent again."""

    retries: Annotated[int, Field(ge=0, le=10, description="further attempts before the first event")] = 2
    retry_after_max_s: Annotated[
        float, Field(ge=0, le=300, description="the longest retry-after that is waited for, in seconds")
    ] = 10.0
    # The first delay where Claude named none; it doubles with each attempt.
    backoff_s: float = 0.5


@dataclass(frozen=True, slots=True)
class UpstreamOptions(RetryRule):
    """How Claude is reached; none of the deadlines runs while the reader holds the stream."""

    # Claude sends some 140 bytes a token, so 16 kB, as Linux doubles it, hold some 120 tokens. This is what it begins with:
    # on a far way the buffer grows with the stream (`upstream/resting_socket.py`).
    receive_buffer_bytes: Annotated[
        int, Field(ge=2048, le=16_777_216, description="SO_RCVBUF towards Claude, in bytes (Linux doubles it)")
    ] = 8192
    warm_connections: Annotated[
        int,
        Field(
            ge=0, le=64, description="the most connections to Claude kept ready before they are asked for; 0 keeps none"
        ),
    ] = 8
    connect_timeout_s: Annotated[float, Field(gt=0, le=120, description="for connecting to Claude, in seconds")] = 5.0
    idle_timeout_s: Annotated[float, Field(gt=0, le=3600, description="without a byte from Claude, in seconds")] = 90.0
    progress_timeout_s: Annotated[
        float, Field(gt=0, le=7200, description="with nothing but pings from Claude, in seconds")
    ] = 600.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What streams cost, and what the ledger has learned."""

    upstream: Annotated[
        str, Field(min_length=1, description="whose prices and way of billing apply, by name in the price table")
    ] = "anthropic"
    prices_file: Annotated[
        str, Field(description="a file like config/prices.toml, whose entries win over the shipped table's")
    ] = ""
    ledger_file: Annotated[str, Field(description="where that is kept across restarts; empty forgets it")] = ""
    reconcile_per_minute: Annotated[
        float,
        Field(
            ge=0,
            le=8000,
            description="how many aborted answers a minute are counted anew by count_tokens; 0 counts none",
        ),
    ] = 0.0


@dataclass(frozen=True, slots=True)
class Logs:
    """What is logged."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="the least level logged")] = (
        "info"
    )
    log_format: Annotated[
        Literal["auto", "human", "json"],
        Field(description="lines for people, or JSON; auto: for people on a terminal, else JSON"),
    ] = "auto"
    otlp_endpoint: Annotated[
        Collector,
        Field(
            description='collector that a span of each answer is sent to, such as "http://127.0.0.1:4318"; empty for none'
        ),
    ] = ""
