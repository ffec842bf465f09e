"""The way to a Sluiceway, measured by its own probes (`app/web/routes/probe.py`): one method a measurement, none of them judges."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode

from ..load.connection import Target
from .exchange import HEAD_S, Exchange, NoAnswer, Request, clock
from .findings import Repeated
from .own_lateness import own_lateness
from .spacing import Arrival, Spacing, spacing_of

_PATH, _POSTS = "/api/probe", "/api/probe/posts"
# Another doctor may be at work: two probes run at a time.
_BUSY_TRIES, _BUSY_S = 20, 1.0
# Where several processes answer at one address, so many new connections are tried to meet a certain one.
MEETINGS = 8
# A reader that takes nothing: what the service got rid of is asked until it has not changed for so many looks. The whole
# is more than the sockets of two hops hold.
_STEADY_LOOKS, _LOOK_S = 4, 0.15
_FLOOD_EVENTS, _FLOOD_BYTES = 1000, 16_000
# A reader that leaves in the middle of such a silence has all the rest of it, in milliseconds, until its leaving must have
# arrived; one that leaves while events flow has so many of them, at such a distance.
_QUIET_MS = 2500
_FLOWING, _FLOWING_MS = 20, 100
# Where this process itself was too late to leave in time, it tries again so often.
_LATE_TRIES = 3
# An answer to what is announced is not waited for longer; nor one that follows a leave to send, in seconds.
_ANSWER_S, _SECOND_THOUGHT_S = 5.0, 0.3
_JSON = {"Content-Type": "application/json"}


class CouldNotRun(Exception):
    """Nothing could be measured; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Knock:
    """What the first probe met.

    Attributes:
        told: what the service said of itself and of the request.
        headers: of the response, with names in lower case.
        via: what stands on the way, as far as headers tell.
    """

    told: dict[str, Any]
    headers: dict[str, str]
    via: str


@dataclass(frozen=True, slots=True)
class Left:
    """A reader that left at once.

    Attributes:
        heard: the service heard of it before it had sent everything.
        sent: events that it sent nevertheless.
        events, whole_s: of so many, in so many seconds.
    """

    heard: bool
    sent: int
    events: int
    whole_s: float


class Way:
    """A way.

    Args:
        target: where it begins.
        key: the caller's; None for none.
    """

    def __init__(self, target: Target, key: str | None) -> None:
        self._target = target
        self._headers = {"Accept-Encoding": "identity"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    # --- the first look ------------------------------------------------------------------------------------------------

    async def knock(self) -> Knock:
        """The first probe, with everything on it that has to arrive. Raises CouldNotRun."""
        try:
            async with self._probe({"events": 0}, {"Last-Event-ID": "7"}) as exchange:
                said = await _whole_body(exchange)
        except (NoAnswer, TimeoutError) as error:
            raise CouldNotRun(str(error) or "the first probe did not end within 10 s") from None
        first = next((event for event in _events_in(said)), None)
        if first is None or "probe" not in first:
            raise CouldNotRun("what answers there is no Sluiceway of this version; --sse looks at any stream of events")
        headers = exchange.headers
        via = [headers[name] for name in ("server", "via", "cf-ray", "x-served-by") if name in headers]
        return Knock(first, headers, ", ".join(via) or "a proxy")

    # --- spacing -------------------------------------------------------------------------------------------------------

    async def spacing(
        self, *, accel: bool, events: int = 12, every_ms: int = 80, size: int = 0
    ) -> tuple[Spacing, bool | None]:
        """How events are spaced; and whether they came as they were sent, None where that cannot be told."""
        query = {"events": events, "every_ms": every_ms, "size": size, "accel": int(accel)}
        arrivals, said = [], b""
        async with own_lateness() as late, self._probe(query) as exchange:
            probe_id = exchange.headers.get("x-stream-id", "")
            held = b""
            async for came_s, data in exchange.pieces():
                said += data
                *whole, held = (held + data).split(b"\n\n")
                for event in whole:
                    told = _event(event)
                    if "event" in told:
                        arrivals.append(Arrival(told["at_s"], came_s, len(event) + 2))
        stands = await self.tell(probe_id) if exchange.whole else None
        same = None if stands is None else stands["sha256"] == hashlib.sha256(said).hexdigest()
        return spacing_of(arrivals, late), same

    # --- what is lost, held or changed ---------------------------------------------------------------------------------

    async def compression(self) -> tuple[str, int, int]:
        """How a stream is compressed for a reader who takes what browsers take, empty for not at all; bytes that came and went."""
        query = {"events": 20, "every_ms": 5, "size": 64}
        async with self._probe(query, {"Accept-Encoding": "gzip, deflate, br, zstd"}) as exchange:
            await _whole_body(exchange)
        told = await self.tell(exchange.headers.get("x-stream-id", ""))
        sent_bytes = told["taken_bytes"] if told is not None else 0
        return exchange.headers.get("content-encoding", ""), exchange.body_bytes, sent_bytes

    async def cut_looks_whole(self) -> bool:
        """Whether a stream that the service breaks off comes as a whole one."""
        async with self._probe({"events": 3, "every_ms": 20, "cut": 1}) as exchange:
            try:
                await _whole_body(exchange)
            except NoAnswer:
                return False
            return exchange.whole

    async def silence(self, silence_s: float) -> float | None:
        """After how many seconds a stream was cut that was to be silent for so many; None: it was not."""
        query = {"events": 1, "every_ms": round(silence_s * 1000)}
        began = clock()
        try:
            async with self._probe(query, head_s=silence_s + 5) as exchange:
                began = clock()
                async with asyncio.timeout(silence_s + 5):
                    said = await exchange.body()
        except (NoAnswer, TimeoutError):
            return clock() - began
        return None if any("event" in event for event in _events_in(said)) else clock() - began

    async def leave(self, method: str, *, quiet: bool) -> Left | None:
        """A reader leaves, in a silence or while events flow; None where that, or what came of it, cannot be told.

        A `POST` stands for a question, a `GET` for a reader who has come back.
        """
        events, every_ms = (1, _QUIET_MS) if quiet else (_FLOWING, _FLOWING_MS)
        for _ in range(_LATE_TRIES):
            async with self._probe({"events": events, "every_ms": every_ms}, method=method) as exchange:
                came_at = clock()
                probe_id = exchange.headers.get("x-stream-id", "")
                told = await self.tell(probe_id)
            if told is None or not told["over"]:
                break
            if clock() - came_at < events * every_ms / 2000:
                return None  # the head itself was held until then, so that nobody could leave before
        else:
            return None  # each time it was over before this process, on a busy machine, had left
        while told is not None and not told["over"]:  # at the end of a minute the service ends it
            await asyncio.sleep(_LOOK_S)
            told = await self.tell(probe_id)
        return None if told is None else Left(told["left"], max(0, told["sent"] - 1), events, events * every_ms / 1000)

    async def swallowed(self, *, accel: bool) -> tuple[int, bool] | None:
        """How many bytes the way takes for a reader that reads nothing, and whether that was all there was."""
        query = {"events": _FLOOD_EVENTS, "every_ms": 0, "size": _FLOOD_BYTES, "accel": int(accel)}
        async with self._probe(query, small=True) as exchange:
            looks: list[int] = []
            while len(looks) < _STEADY_LOOKS or len({*looks[-_STEADY_LOOKS:]}) > 1:
                told = await self.tell(exchange.headers.get("x-stream-id", ""))
                if told is None:
                    return None
                looks.append(told["taken_bytes"])
                if told["over"]:
                    return looks[-1], True
                await asyncio.sleep(_LOOK_S)
        return looks[-1], False

    # --- requests ------------------------------------------------------------------------------------------------------

    async def refusal_of(self, size_bytes: int, *, sent: bool) -> str | None:
        """Who refuses a body of this size, by `Server`; None: it passes. It is only announced unless `sent`."""
        body = b"x" * size_bytes if sent else b""
        headers = _JSON if sent else {**_JSON, "Expect": "100-continue"}
        request = Request(self._path({}, _POSTS), {**self._headers, **headers}, "POST", body, size_bytes)
        exchange = await Exchange.begin(self._target, request)
        try:
            await exchange.leave_to_send(_ANSWER_S)
            if exchange.told_to_go_on and not exchange.status:
                await exchange.head(_SECOND_THOUGHT_S)  # by another proxy, behind the one that said so
            return exchange.headers.get("server", "a proxy") if exchange.status == 413 else None
        except NoAnswer:
            return None
        finally:
            exchange.leave()

    async def is_retried(self, instance: str, how: str) -> bool:
        """Whether a POST is sent again whose first attempt fails: `cut`, or with a `503`."""
        named = secrets.token_hex(8)
        for _ in range(MEETINGS):
            query = {"fail": named, "on": instance, "as": how}
            try:
                status, told = await self._json(
                    Request(self._path(query, _POSTS), {**self._headers, **_JSON}, "POST", b"{}")
                )
            except NoAnswer:
                return False
            if status != 200:
                return False
            if told.get("attempts", 0) > 1:
                return True
            # Another process answered: either it was met at once, or by a second attempt. The one that is to fail knows.
        return False

    async def as_page(self, origin: str) -> tuple[str, dict[str, str]]:
        """The origin that arrived of a request that a page of `origin` makes, and the headers of its answer."""
        async with self._probe({"events": 0}, {"Origin": origin}) as exchange:
            first = next(iter(_events_in(await _whole_body(exchange))), {})
        return str(first.get("seen", {}).get("origin", "")), exchange.headers

    async def preflight(self, origin: str) -> tuple[int, dict[str, str]]:
        """The status and the headers of what that page's browser asks before; without a key, as browsers do. Raises NoAnswer."""
        asks = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        exchange = await Exchange.begin(self._target, Request(self._path({}), asks, "OPTIONS"))
        try:
            return await exchange.head(), exchange.headers
        finally:
            exchange.leave()

    async def repeats(self) -> Repeated | None:
        """What came twice with the same bytes; None: nothing did."""
        same = {"u": secrets.token_hex(4)}
        ids = [await self._probe_id(query) for query in (same, same, {"u": "other"})]
        if ids[0] and ids[0] == ids[1]:
            return Repeated("a stream", ids[1] == ids[2])
        owner = ids[1]
        path, other = (f"{_PATH}/{quote(owner)}?u={which}" for which in ("same", "other"))
        said = [await self._json(Request(where, self._headers)) for where in (path, path, other)]
        nonces = [told.get("nonce") for _, told in said]
        if nonces[0] and nonces[0] == nonces[1]:
            return Repeated("a status in JSON", nonces[1] == nonces[2])
        return None

    async def tell(self, probe_id: str) -> dict[str, Any] | None:
        """What has become of a probe; None where no process that was met knows it."""
        for _ in range(MEETINGS):
            status, told = await self.ask_once(probe_id)
            if status == 200:
                return told
        return None

    async def ask_once(self, probe_id: str) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of one request for a probe, on a connection of its own; status 0 where none came."""
        path = f"{_PATH}/{quote(probe_id)}?u={secrets.token_hex(4)}"
        try:
            return await self._json(Request(path, self._headers))
        except NoAnswer:
            return 0, {}

    # --- within --------------------------------------------------------------------------------------------------------

    def _path(self, query: Mapping[str, Any], path: str = _PATH) -> str:
        return f"{path}?{urlencode({'u': secrets.token_hex(4), **query})}"

    async def _probe_id(self, query: Mapping[str, Any]) -> str:
        async with self._probe({"events": 0, **query}) as exchange:
            await _whole_body(exchange)
            return exchange.headers.get("x-stream-id", "")

    @asynccontextmanager
    async def _probe(
        self,
        query: Mapping[str, Any],
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        method: str = "GET",
        small: bool = False,
        head_s: float = HEAD_S,
    ) -> AsyncIterator[Exchange]:
        """A stream whose head has come. Raises NoAnswer, CouldNotRun."""
        body, headers = (b"{}", {**headers, **_JSON}) if method == "POST" else (b"", headers)
        for _ in range(_BUSY_TRIES):
            # With a query of its own each time, or a cache would answer.
            request = Request(self._path(query), {**self._headers, **headers}, method, body, small=small)
            exchange = await Exchange.begin(self._target, request)
            try:
                status = await exchange.head(head_s)
                if status == 200:
                    yield exchange
                    return
                if status != 429:
                    raise await _refused(exchange)
            finally:
                exchange.leave()
            await asyncio.sleep(_BUSY_S)
        raise CouldNotRun("two probes have been running there all the time: is another doctor at work?")

    async def _json(self, request: Request) -> tuple[int, dict[str, Any]]:
        exchange = await Exchange.begin(self._target, request)
        try:
            status = await exchange.head()
            async with asyncio.timeout(5):
                return status, _object(await exchange.body())
        except TimeoutError:
            raise NoAnswer("an answer did not end within 5 s") from None
        finally:
            exchange.leave()


async def _refused(exchange: Exchange) -> CouldNotRun | NoAnswer:
    status = exchange.status
    said = _object(await exchange.body())
    error = said.get("error")
    words = f": {error}" if isinstance(error, str) else ""
    if status in (401, 403):
        return CouldNotRun(f"{status}{words}; --key-file FILE names the file that holds a caller's key")
    if status in (404, 405):
        return CouldNotRun(
            f"{status}: what answers there is no Sluiceway of this version; --sse looks at any stream of events"
        )
    if status in (301, 302, 307, 308):
        return CouldNotRun(f"{status}: it leads to {exchange.headers.get('location', 'another address')}; ask there")
    if status == 504:
        return NoAnswer("504: a proxy lost its patience")
    return CouldNotRun(f"{status}{words} from {exchange.headers.get('server', 'there')}: it does not serve")


async def _whole_body(exchange: Exchange) -> bytes:
    async with asyncio.timeout(10):
        return await exchange.body()


def _events_in(said: bytes) -> list[dict[str, Any]]:
    return [_event(event) for event in said.split(b"\n\n") if event.strip()]


def _event(event: bytes) -> dict[str, Any]:
    """The JSON of an event's data; empty where it is none."""
    for line in event.splitlines():
        if line.startswith(b"data:"):
            return _object(line[5:])
    return {}


def _object(raw: bytes) -> dict[str, Any]:
    try:
        told = json.loads(raw)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
