"""A look at any stream of events (`--sse`): what its bytes and their spacing tell without a service's help."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import median
from urllib.parse import urlsplit

from ..load.connection import Target
from .exchange import Exchange, NoAnswer, Request, clock
from .findings import Finding, compressed, http_1_0, size
from .way import CouldNotRun

# It is read for so long, in seconds, unless it ends before.
_READ_S = 10.0
_MOST_BYTES = 4_194_304
_COMPRESSED_S = 2.0
# Pieces with less than this between them, in seconds, came together.
_TOGETHER_S = 0.02
# What came as one group after such a wait, in seconds, was held, or made at once.
_WAITED_S = 1.0
_LEAST_EVENTS = 5
# Sizes that buffers have; a group this near to one, and groups of several events, are a buffer's.
_BUFFERS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
_NEAR = 0.03
_LEAST_GROUPS = 3
_OF_CACHES = ("x-cache", "x-cache-status", "x-proxy-cache", "cf-cache-status")


@dataclass(frozen=True, slots=True)
class Seen:
    """A stream as it came.

    Attributes:
        waited_s: from the request to the first byte of the body.
        pieces: the time of each, in seconds, and its size; sizes of events' ends within it.
        ended_s: when it ended; None where it was left.
        whole: its end was HTTP's.
    """

    waited_s: float
    pieces: Sequence[tuple[float, int, int]]
    ended_s: float | None
    whole: bool

    @property
    def events(self) -> int:
        """How many events came."""
        return sum(events for _, _, events in self.pieces)

    @property
    def groups(self) -> list[int]:
        """The sizes of what came together, in bytes."""
        numbers = [0]
        for (before, _, _), (after, _, _) in pairwise(self.pieces):
            numbers.append(numbers[-1] + (after - before >= _TOGETHER_S))
        numbered = zip(numbers, self.pieces, strict=False)
        return [sum(piece[1] for _, piece in group) for _, group in groupby(numbered, key=lambda one: one[0])]


async def look(url: str, target: Target, key: str | None, idle_s: float | None = None) -> list[Finding]:
    """All that is found about a stream of events.

    Args:
        url, target: where it is.
        key: sent as a Bearer; None for none.
        idle_s: for how long it is read, in seconds; None for 10.

    Raises:
        CouldNotRun: it is none, or nothing came. Cancelling closes the connection.
    """
    parts = urlsplit(url if "://" in url else "/")
    target = replace(target, base_path="")
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        exchange, seen = await _read(
            target, Request(path, {**headers, "Accept-Encoding": "identity"}), idle_s or _READ_S
        )
        compression = await _compression(
            target, Request(path, {**headers, "Accept-Encoding": "gzip, deflate, br, zstd"})
        )
    except NoAnswer as error:
        raise CouldNotRun(str(error)) from None
    return judged(exchange.headers, exchange.version, compression, seen)


def judged(headers: dict[str, str], version: str, compression: tuple[str, int], seen: Seen) -> list[Finding]:
    """What follows from what was seen. Pure."""
    found = []
    kept = next((f"{name}: {headers[name]}" for name in _OF_CACHES if "hit" in headers.get(name, "").lower()), "")
    if kept or headers.get("age", "0").strip("0"):
        evidence = f"it came from a cache, by {kept or 'Age: ' + headers['age']}: the events are another reader's"
        found.append(
            Finding("cached", "error", evidence, "proxy_cache off; and Cache-Control: no-store in the response")
        )
    if compression[0]:
        found.append(compressed(*compression))
    if version == "1.0" or (
        "content-length" not in headers and headers.get("transfer-encoding", "").lower() != "chunked"
    ):
        found.append(http_1_0("", cut_looks_whole=False))
    if (held := _held(seen)) is not None:
        found.append(held)
    if not seen.whole and seen.ended_s is not None and seen.pieces:
        quiet_s = seen.ended_s - seen.pieces[-1][0]
        evidence = f"it was cut without an end after {size(sum(piece[1] for piece in seen.pieces))} and {quiet_s:.1f} s of silence"
        found.append(
            Finding(
                "idle-limit", "error", evidence, "proxy_read_timeout 75s; and a comment line as a heartbeat every 15 s"
            )
        )
    return found


def _held(seen: Seen) -> Finding | None:
    groups = seen.groups
    mend = "proxy_buffering off; in nginx, or X-Accel-Buffering: no in the response"
    if seen.events < _LEAST_EVENTS:
        return None
    if len(groups) == 1 and seen.waited_s >= _WAITED_S:
        evidence = (
            f"{seen.events} events, {size(groups[0])}, came in one group after {seen.waited_s * 1000:,.0f} ms: held until the end, "
            "or made all at once"
        )
        return Finding("buffering", "warning", evidence, mend)
    whole = groups[:-1]  # the last one is what was left over
    if len(whole) < _LEAST_GROUPS or seen.events < 2 * len(groups):
        return None
    usual = median(whole)
    near = next((buffer for buffer in _BUFFERS if abs(usual - buffer) <= _NEAR * buffer), None)
    if near is None or sum(abs(one - near) <= _NEAR * near for one in whole) < 0.8 * len(whole):
        return None
    evidence = f"{seen.events} events came in {len(groups)} groups of {size(near)}: a buffer of that size holds them until it is full"
    return Finding("buffering", "error", evidence, mend)


async def _read(target: Target, request: Request, for_s: float) -> tuple[Exchange, Seen]:
    began = clock()
    exchange = await Exchange.begin(target, request)
    pieces: list[tuple[float, int, int]] = []
    ended_s: float | None = None
    try:
        await _check_head(exchange)
        async with asyncio.timeout(for_s):
            tail = b""
            async for came_s, data in exchange.pieces():
                said = (tail + data).replace(b"\r\n", b"\n")
                pieces.append((came_s, len(data), said.count(b"\n\n")))
                tail = b"\n" if said.endswith(b"\n") and not said.endswith(b"\n\n") else b""
                if exchange.body_bytes > _MOST_BYTES:
                    break
            else:
                ended_s = clock()
    except TimeoutError:
        pass
    finally:
        exchange.leave()
    if not pieces:
        raise CouldNotRun(
            f"no event came within {for_s:g} s: either it says nothing, or it is held; --idle S waits longer"
        )
    return exchange, Seen(pieces[0][0] - began, pieces, ended_s, exchange.whole)


async def _compression(target: Target, request: Request) -> tuple[str, int]:
    """How it is compressed, empty for not at all; and the size of its beginning, as it came."""
    exchange = await Exchange.begin(target, request)
    try:
        await exchange.head()
        encoding = exchange.headers.get("content-encoding", "")
        with suppress(TimeoutError):
            async with asyncio.timeout(_COMPRESSED_S if encoding else 0):
                await exchange.body()
        return encoding, exchange.body_bytes
    finally:
        exchange.leave()


async def _check_head(exchange: Exchange) -> None:
    status = await exchange.head()
    kind = exchange.headers.get("content-type", "none")
    if status in (401, 403):
        raise CouldNotRun(f"{status}: it wants a key; --key-file FILE names the file that holds it")
    if status != 200:
        raise CouldNotRun(f"{status}: there is no stream of events to look at")
    if not kind.startswith("text/event-stream"):
        raise CouldNotRun(f"its content type is {kind[:80]}, so it is no stream of events (text/event-stream)")
