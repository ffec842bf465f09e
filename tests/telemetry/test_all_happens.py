"""Nothing is declared that never happens: a real service goes through every ending, and leaves no series at zero.

No exceptions: each metric, outcome, reason and type of error, and each selector of the dashboard and of the alerts, must
have been seen above zero.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from app.answer.outcome import Outcome
from app.answer.tally import Phase
from app.errors import Refusal
from app.fleet.mirror_rules import END_ID
from app.fleet.names import Keys
from app.money.prices import SPENDING_TYPES
from app.settings import Settings
from app.streams.registry import Streams
from app.telemetry.callers import CallerMetrics
from app.telemetry.fleet import FleetMetrics
from app.telemetry.prometheus import BASES, ERROR_TYPES, LEFT, Metrics
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import Running, running
from app.wire.plain import PlainFormat
from tests.conftest import Serve
from tests.grafana.board import BOARD, GRAFANA, filled, targets, vector_selectors
from tests.support.far import Far, far_away
from tests.support.readers import Reader, eventually
from tests.support.redis_server import redis_server
from tests.support.scrape import scrape

MODEL = "claude-opus-4-8"
LONG = "tokens=60000 rate=50 text=numbered"
MESSAGES = [{"role": "user", "content": "hello"}]
# What a scrape, the process and the rules add, of which no stream tells.
FOREIGN = re.compile("up|process_.*|ALERTS")

# What the simulated Claude does not do by itself: usage of every kind, usage that is none, errors of every type.
USAGE = {
    "input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 30, "output_tokens": 1,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    "server_tool_use": {"web_search_requests": 2},
}  # fmt: skip
CLAUDES_ERRORS = [kind for kind in ERROR_TYPES if kind.endswith("_error") or kind in ("request_too_large", "other")]


def answer(**usage: Any) -> list[dict[str, Any]]:
    """The events of a short answer with this usage."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage | {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    """A simulated Claude with answers at hand that no scenario of its own gives."""
    plays = {"usage": answer(**USAGE), "unreadable": answer(input_tokens=-1, output_tokens=1)}
    plays |= {kind: [{"type": "error", "error": {"type": kind, "message": "as told"}}] for kind in CLAUDES_ERRORS}
    files = {name: tmp_path / f"{name}.jsonl" for name in plays}
    for name, events in plays.items():
        files[name].write_text("\n".join(json.dumps(event) for event in events))
    async with Simulator(transcripts=files) as running:
        yield running


@pytest.fixture
def far() -> Iterator[Far]:
    with far_away() as made:
        yield made


class Seen:
    """What was exposed, ever.

    Attributes:
        samples: each that was not zero.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    async def look(self, service: Running) -> None:
        """Scrapes once more."""
        self.samples += [sample for sample in (await scrape(service)).samples if sample.value]

    async def until(self, service: Running, name: str) -> None:
        """Scrapes until this has been exposed above zero."""
        while not any(sample.name == f"sluiceway_{name}" for sample in self.samples):
            await self.look(service)

    def values(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples if sample.name == f"sluiceway_{name}"}

    def has(self, name: str, matchers: list[tuple[str, str, str]]) -> bool:
        return any(
            sample.name == name and all(_matches(sample.labels.get(label, ""), *how) for label, *how in matchers)
            for sample in self.samples
        )


def _matches(value: str, operator: str, wanted: str) -> bool:
    match operator:
        case "=":
            return value == wanted
        case "!=":
            return value != wanted
        case "=~":
            return re.fullmatch(wanted, value) is not None
    raise AssertionError(f"no expression uses {operator} yet")


async def opened(service: Running, directive: str, *, rcvbuf_bytes: int | None = None, **body: Any) -> Reader:
    """A reader whose answer has begun."""
    reader = await Reader.connect(service.url, rcvbuf_bytes)
    await reader.ask(directive, **body)
    await reader.head()
    return reader


async def whole(service: Running, directive: str, **body: Any) -> None:
    """A reader that reads to the end."""
    reader = await opened(service, directive, **body)
    await reader.rest()
    reader.leave()


async def settled(service: Running) -> None:
    await eventually(lambda: not service.streams.live)


async def posted(service: Running, path: str, body: Any = None, method: str = "POST", **headers: str) -> int:
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, f"{service.url}{path}", json=body, headers=headers) as response,
    ):
        await response.read()
        return response.status


async def read_to_the_end(service: Running, seen: Seen) -> None:
    """Answers of every kind, read by readers of every kind."""
    await whole(service, "tokens=20 thinking=20 tool=5 text=numbered", model=MODEL)
    await whole(service, "tokens=5", model="a-model-of-tomorrow")
    await whole(service, "transcript=usage", model=MODEL)
    await whole(service, "transcript=unreadable", model=MODEL)
    asked = {"model": MODEL, "max_tokens": 50, "messages": MESSAGES}
    assert await posted(service, "/v1/messages", asked) == 200
    slow = await opened(service, "tokens=6000 text=numbered", rcvbuf_bytes=4096)
    await slow.at(20_000, 0.5)
    await slow.rest()  # held Claude still meanwhile
    slow.leave()
    await whole(service, "fault=http_529 fault_times=1 tokens=3", model=MODEL)  # tried again
    await settled(service)
    await seen.look(service)


async def left(service: Running, seen: Seen) -> None:
    """Readers who leave, before and after enough answers have finished to say what that saved."""

    def stand_at(phase: Phase) -> bool:
        return [one.page.account.tally.phase for one in service.streams.live.values()] == [phase]

    for directive, phase in (
        ("ttft_s=60", Phase.BEFORE_FIRST_EVENT), ("thinking=60000 rate=50", Phase.THINKING),
        ("thinking=500 hidden rate=50", Phase.THINKING), ("tokens=0 tool=60000 rate=50", Phase.TOOL_USE),
    ):  # fmt: skip
        reader = await Reader.connect(service.url)
        thinking = {"type": "enabled", "budget_tokens": 1024}
        await reader.ask(f"{directive} text=numbered", thinking=thinking, max_tokens=9000)
        await eventually(partial(stand_at, phase))
        await seen.look(service)
        reader.leave()
        await settled(service)
    for length in range(60):
        await whole(service, f"tokens={20 + length * 7 % 50} text=numbered", max_tokens=9000)
    for stops in (False, True):
        reader = await opened(service, "tokens=60 rate=60 text=numbered", max_tokens=9000)
        await reader.until(b"token0010")
        if stops:
            token = {"X-Stop-Token": reader.headers["x-stop-token"]}
            assert await posted(service, f"/api/stream/{reader.headers['x-stream-id']}/stop", **token) == 200
        else:
            reader.leave()
        await settled(service)
        reader.leave()
    await seen.look(service)


async def lost(serve: Serve, seen: Seen, far: Far) -> None:
    """Readers who are lost: beyond their grace period, connected but taking nothing, cut off without a word."""
    service = await serve(grace_s=0.1, stall_timeout_s=1.0)
    gone = await opened(service, LONG, resumable=True)
    gone.leave()
    stalled = await opened(service, "tokens=60000 text=numbered", rcvbuf_bytes=4096)
    await seen.until(service, "readers_stalled")
    await settled(service)
    await seen.until(service, "stall_seconds_count")  # which the watch tells at its next look
    stalled.leave()
    await seen.look(service)
    service = await serve(host=far.host, auth="none", heartbeat_s=1.0, vanish_timeout_s=1.0)
    reader = await far.reader(int(service.url.rpartition(":")[2]))
    await reader.ask(LONG)
    await reader.head()
    far.cut()
    await settled(service)
    await seen.look(service)
    reader.leave()


async def failed(serve: Serve, seen: Seen, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that fail: each error that Claude has a word for, and each that we have."""
    service = await serve(retries=0, idle_timeout_s=1.0)
    for directive in [f"transcript={kind}" for kind in CLAUDES_ERRORS] + [
        "fault=http_400", "fault=cut after=3 tokens=9", "fault=garbage after=3 tokens=9", "fault=silence after=3 tokens=9",
    ]:  # fmt: skip
        await whole(service, directive)
    with monkeypatch.context() as patched:
        patched.setattr(PlainFormat, "encode", _fails)  # a defect of ours
        await whole(service, "tokens=5")
    await simulator.stop()
    await whole(service, "tokens=5")
    await settled(service)
    await seen.look(service)


def _fails(*_given: object) -> Any:
    raise RuntimeError("a defect")


async def barred(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way to Claude that a person must mend."""
    given = {"port": 0, "admin_port": 0, "max_lag_s": 60.0, "warm_connections": 0}
    with monkeypatch.context() as patched:
        patched.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
        async with running(Settings.model_validate(given), Credentials("k", "https://claude.example")) as service:
            await whole(service, "tokens=5")
            await settled(service)
            await seen.look(service)


async def turned_away(serve: Serve, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for which nothing is started, for every reason there is."""
    service = await serve(max_streams=1, api_keys=("k",), max_body_bytes=1024, body_timeout_s=1.0)
    key = {"x-api-key": "k"}
    ask = {"prompt": f"{{{{{LONG}}}}}"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{service.url}/api/stream", json=ask, headers=key) as one,
    ):
        assert await posted(service, "/api/stream", ask, **key) == 503  # full
        path = f"/api/stream/{one.headers['X-Stream-Id']}"
        assert await posted(service, path, method="GET", **key) == 410  # expired: it keeps nothing
    plain = {"Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"}
    for status, headers, body, method in (
        (401, {}, ask, "POST"), (400, key, {"prompt": 5}, "POST"), (403, key | plain, ask, "POST"),
        (405, key, None, "PUT"), (413, key, {"prompt": "x" * 2000}, "POST"),
        (415, key | {"Content-Type": "text/csv"}, ask, "POST"),
    ):  # fmt: skip
        assert await posted(service, "/api/stream", body, method, **headers) == status
    assert await posted(service, "/nothing", method="GET") == 404
    assert await posted(service, "/v1/nothing", method="GET", **key) == 404  # not served
    reader = await Reader.connect(service.url)
    await reader.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    assert await reader.head() == 400
    reader.leave()
    large = await Reader.connect(service.url)
    await large.send(large.request(b"", headers={"Cookie": "x" * 40_000}))
    assert await large.head() == 431
    large.leave()
    slow = await Reader.connect(service.url)
    await slow.send(slow.request(b"{}", headers=key | {"Content-Type": "application/json"})[:-1])
    assert await slow.head() == 408
    slow.leave()
    with monkeypatch.context() as patched:
        patched.setattr(Streams, "find", _fails)
        assert await posted(service, f"{path}/stop", **key) == 500
    await settled(service)
    service.streams.accepting = False
    assert await posted(service, "/api/stream", ask, **key) == 503  # draining
    await seen.look(service)
    service = await serve(max_lag_s=1e-9, max_connections_per_client=1)
    first, second = await Reader.connect(service.url), await Reader.connect(service.url)
    assert await second.head() == 429
    for reader in (first, second):
        reader.leave()
    await eventually(lambda: not len(service.service.crowd))
    while await posted(service, "/api/stream", {"prompt": "{{tokens=1}}"}) != 503:
        pass
    await seen.look(service)


async def bounded(serve: Serve, seen: Seen, folder: Path) -> None:
    """Callers who ask too much, spend all they may, and whose spending cannot be kept for a while."""
    file = folder / "callers.toml"
    file.touch(0o600)
    file.write_text(
        "[callers.busy]\nrequests_per_minute = 1\n[callers.wide]\nstreams = 1\n"
        "[callers.poor]\nbudget_usd_per_day = 0.003\n"
    )
    keys = tuple(f"{name}:{name}-key" for name in ("busy", "wide", "poor"))
    service = await serve(callers_file=str(file), api_keys=keys, budget_warn_share=0.4)
    busy, wide, poor = ({"x-api-key": f"{name}-key"} for name in ("busy", "wide", "poor"))
    short, long = {"prompt": "{{tokens=1}}"}, {"prompt": f"{{{{{LONG}}}}}", "model": MODEL}
    assert [await posted(service, "/api/stream", short, **busy) for _ in range(2)] == [200, 429]
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{service.url}/api/stream", json=long, headers=wide) as one:
            assert one.status == 200
            assert await posted(service, "/api/stream", long, **wide) == 429
        asking = (client.post(f"{service.url}/api/stream", json=long, headers=poor) for _ in range(4))
        answers = await asyncio.gather(*asking)  # at once, or the first would have spent what is to be held
        assert 429 in {answer.status for answer in answers}  # held for the others
        for answer in answers:
            await answer.read()
    await settled(service)
    await eventually(lambda: not service.streams.live)
    statuses: list[int] = []
    while 402 not in statuses and len(statuses) < 20:  # what is left is spent first
        statuses.append(await posted(service, "/api/stream", long, **poor))
    assert statuses[-1] == 402
    await seen.look(service)
    with closing(sqlite3.connect(folder / "state" / "limits.sqlite3")) as database, database:
        database.execute("INSERT INTO drawn VALUES ('a-dead-process', 'poor', 'month', '2026-01', 1000000)")
    await seen.look(await serve(callers_file=str(file), api_keys=keys))  # which books that
    gone = folder / "gone"
    service = await serve(callers_file=str(file), api_keys=keys, state_dir=str(gone))
    await eventually((gone / "limits.sqlite3").exists)
    with closing(sqlite3.connect(gone / "limits.sqlite3", timeout=60, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")  # nobody else may write
        assert await posted(service, "/api/stream", long, **poor) == 503
        await seen.look(service)


async def ended_by_us(serve: Serve, seen: Seen) -> None:
    """A chat's older answer that a newer question takes the place of; a stream that a shutdown ends."""
    service = await serve(chat_policy="grace")
    chat = {
        "id": "c",
        "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": f"{{{{{LONG}}}}}"}]}],
    }
    async with aiohttp.ClientSession() as client:
        first = await client.post(f"{service.url}/api/chat", json=chat)
        second = await client.post(f"{service.url}/api/chat", json=chat)
        await first.read()
        service.streams.patience.hurry()
        await service.streams.drain()
        await second.read()
    await settled(service)
    await seen.look(service)


async def in_a_fleet(serve: Serve, seen: Seen, folder: Path) -> None:
    """Readers of another process's stream, from itself and from Redis; and a Redis that forgets, is full, and goes away."""
    keys = Keys("slw")
    with redis_server(folder) as redis:
        ours, other = [await serve(redis_url=redis.url, redis_timeout_s=5.0, mirror_s=0.05) for _ in range(2)]
        async with aiohttp.ClientSession() as client:
            ask = {"prompt": f"{{{{{LONG}}}}}", "policy": "drain"}
            reader = await client.post(f"{ours.url}/api/stream", json=ask)
            await reader.content.readany()
            stream_id = reader.headers["X-Stream-Id"]
            log, owner = keys.stream(stream_id).log, stream_id.partition("_")[2].partition(".")[0]
            await eventually(lambda: redis.client.exists(log, keys.place(owner), keys.secret) == 3)
            through = await client.get(f"{other.url}/api/stream/{stream_id}")
            await through.content.readany()
            await seen.until(other, "fleet_relayed_readers")
            # Whose owner nobody finds any more: its log is ended for it once this process may judge.
            redis.client.hset(keys.stream("st0_abcdefgh.x").about, mapping={"v": 1, "c": "", "t": "", "w": "plain"})
            redis.client.xadd(keys.stream("st0_abcdefgh.x").log, {"v": 1}, id="0-1")
            dead = await client.get(f"{other.url}/api/stream/st0_abcdefgh.x")
            await seen.until(other, "fleet_copied_readers")
            assert b"worker_lost" in await dead.read()
            await seen.until(other, "fleet_lost_streams_total")
            redis.client.flushall()
            await seen.until(ours, "fleet_redis_lost_frames_total")
            await seen.until(ours, "fleet_redis_healed_frames_total")
            redis.client.config_set("maxmemory", 1)
            await seen.until(ours, "fleet_redis_refused_total")
            redis.client.config_set("maxmemory", 0)
            await eventually(lambda: redis.client.exists(log) == 1)
            redis.client.xadd(log, {"e": "worker_lost", "n": 0}, id=f"{END_ID}-0")
            await through.read()
            second = await client.post(f"{ours.url}/api/stream", json=ask)
            redis.kill()
            await seen.until(ours, "fleet_redis_away")
            await seen.until(ours, "fleet_mirror_lag_seconds")
            async with client.get(f"{ours.url}/api/stream/st0_abcdefgh.elsewhere") as answer:
                assert answer.status == 503
            stop = {"stop_token": second.headers["X-Stop-Token"]}
            await client.post(f"{ours.url}/api/stream/{second.headers['X-Stream-Id']}/stop", json=stop)
        await settled(ours)
        await seen.look(ours)


async def test_everything_that_is_declared_happens(
    serve: Serve, simulator: Simulator, far: Far, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = Seen()
    service = await serve()
    await read_to_the_end(service, seen)
    async with asyncio.TaskGroup() as at_once:  # each with services of its own, and waiting most of the time
        at_once.create_task(left(service, seen))
        at_once.create_task(lost(serve, seen, far))
        at_once.create_task(ended_by_us(serve, seen))
        at_once.create_task(bounded(serve, seen, tmp_path))
        at_once.create_task(in_a_fleet(serve, seen, tmp_path))
    await turned_away(serve, seen, monkeypatch)
    await failed(serve, seen, simulator, monkeypatch)
    await barred(seen, monkeypatch)

    registry = CollectorRegistry()
    Metrics(registry, [MODEL])
    CallerMetrics(registry)
    FleetMetrics(registry)
    named = {re.sub("_(total|info)$", "", sample.name) for sample in seen.samples}
    named |= {re.sub("_count$", "", name) for name in named}
    assert {family.name for family in registry.collect()} - named == set()
    assert {one.value for one in Outcome} - seen.values("streams_total", "outcome") == set()
    assert {one.value for one in Phase} - seen.values("streams_total", "phase") == set()
    assert {one.value for one in Refusal} - seen.values("refused_total", "reason") == set()
    assert set(ERROR_TYPES) - seen.values("upstream_errors_total", "type") == set()
    assert set(BASES) - seen.values("output_tokens_total", "basis") == set()
    assert {one.value for one in Outcome if one.aborts} - seen.values("aborted_tokens_total", "reason") == set()
    assert set(SPENDING_TYPES) - seen.values("spent_usd_total", "type") == set()
    assert {one.value for one in (Outcome.COMPLETED, *LEFT)} - seen.values("spent_usd_total", "outcome") == set()
    assert seen.values("streams_total", "model") == {MODEL, "other"}

    rules = yaml.safe_load((GRAFANA / "rules" / "sluiceway.rules.yml").read_text("utf-8"))["groups"]
    expressions = [rule["expr"] for group in rules for rule in group["rules"]]
    expressions += [target["expr"] for _, target in targets()] + [one["expr"] for one in BOARD["annotations"]["list"]]
    unseen = {
        (name, *matchers)
        for expr in expressions
        for name, matchers in vector_selectors(filled(expr))
        if not (FOREIGN.fullmatch(name) or name.startswith("job:") or seen.has(name, matchers))
    }
    assert unseen == set()
