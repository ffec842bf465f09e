"""What a bench measures: the cost of paced streams, tokens/s at full speed, memory for each stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from app.tools.load import new_event_loop
from app.tools.load.connection import LoadConnection, Target
from app.tools.load.figures import Spread, StreamEnd
from app.tools.load.plan import Kind, Plan
from app.tools.load.protocols import Question
from app.tools.load.reply import Reply
from app.tools.load.run import run
from tests.bench.processes import Contender, Upstream
from tests.bench.ratios import Cost, Round
from tests.bench.upstream import WORD

MODEL = "claude-opus-4-8"
_MAX_TOKENS = 64_000
_STEADY_S = 1.5  # nothing has moved for this long: everything that could be taken in has been
_STEADY_MAX_S = 40.0
_CONNECT_AT_ONCE = 50
MEMORY_STATES = ("idle", "streaming", "stalled")


class _Resumable(Question):
    """Asks for every stream so that it can be resumed."""

    def ask(self, name: str, *, resumable: bool) -> bytes:
        return super().ask(name, resumable=True)


def question(contender: Contender, *, resumable: bool = False) -> tuple[Target, Question]:
    """What a contender is asked. Passed through, the question is for Claude itself, which wants a key."""
    target = Target.of(contender.url)
    return target, (_Resumable if resumable else Question)(
        contender.protocol,
        target.host,
        "hello",
        MODEL,
        _MAX_TOKENS,
        headers={"x-api-key": "sk-bench"},
        word=WORD,
    )


def cost(
    contender: Contender,
    above: Upstream,
    streams: int,
    tokens: int,
    rate: float,
    ramp_s: float = 2.0,
    *,
    resumable: bool = False,
) -> Cost:
    """Streams of so many tokens at so many a second; `rate` 0: as fast as they go.

    Raises:
        RuntimeError: none got anything.
    """
    target, asked = question(contender, resumable=resumable)

    def drive(count: int, over_s: float) -> Any:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(run(Plan(count, over_s), target, asked, where=contender.url, timeout_s=180))

    above.set(tokens=20, rate=0.0, hold_after=0)
    drive(2, 0.0)  # warm
    above.set(tokens=tokens, rate=rate, hold_after=0)
    cpu_s = contender.cpu_s()
    found = drive(streams, ramp_s)
    cpu_s = contender.cpu_s() - cpu_s
    made = above.books()["tokens"]
    fast = found.figures.of(Kind.FAST)
    if not fast.words or not made:
        raise RuntimeError(f"{contender.name}: {dict(fast.ends)}")
    return Cost(
        contender=contender.name,
        streams=streams,
        failed=found.figures.errors + found.figures.count(StreamEnd.REFUSED),
        cpu_us=cpu_s / made * 1e6,
        tokens_per_s=made / found.elapsed_s,
        delivered=fast.words / made,
        wire_bytes=fast.wire_bytes / made,
        ttft_p50_ms=_ms(fast.ttft, 0.5),
        ttft_p99_ms=_ms(fast.ttft, 0.99),
        gap_p50_ms=_ms(fast.gaps, 0.5),
        gap_p99_ms=_ms(fast.gaps, 0.99),
        own_lag_p99_ms=_ms(found.figures.lag, 0.99),
    )


def one_round(
    contenders: Sequence[Contender], above: Upstream, streams: int, tokens: int, rate: float, *, backwards: bool
) -> Mapping[str, Round]:
    """Every contender once, one right after the other, by the way they go; every other round backwards, so that drift
    favours nobody."""
    found: dict[str, dict[str, Cost]] = {}
    for one in reversed(contenders) if backwards else contenders:
        found.setdefault(one.way, {})[one.name] = cost(one, above, streams, tokens, rate, 2.0 if rate else 0.0)
    return found


def memory_kb(contender: Contender, above: Upstream, state: str, streams: int) -> float:
    """Memory for each of many streams in kB (1,024 bytes).

    Args:
        contender: freshly started, so that nothing freed earlier is used again.
        above: its upstream.
        state: `idle`: one token came, and then nothing; `streaming`: 20 tokens/s, so that one upstream can serve
            a thousand under TLS; `stalled`: the reader stopped reading an answer of 20,000 tokens that comes as fast as
            it is read.
        streams: how many.
    """
    knobs: dict[str, dict[str, Any]] = {
        "idle": {"tokens": 1000, "rate": 50.0, "hold_after": 1},
        "streaming": {"tokens": 100_000, "rate": 20.0, "hold_after": 0},
        "stalled": {"tokens": 20_000, "rate": 0.0, "hold_after": 0},
    }
    cost(contender, above, _CONNECT_AT_ONCE, 20, 0.0)  # warm: pools and tables have grown, and stay
    above.set(**knobs[state])
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_held(contender, above, state, streams)) / streams / 1024


async def _held(contender: Contender, above: Upstream, state: str, streams: int) -> int:
    target, asked = question(contender)
    request = asked.ask("memory", resumable=False)
    before = contender.memory_bytes()
    connections: list[LoadConnection] = []
    try:
        for at in range(0, streams, _CONNECT_AT_ONCE):
            more = min(_CONNECT_AT_ONCE, streams - at)
            connections += await asyncio.gather(
                *(_begun(target, request, asked, stalls=state == "stalled") for _ in range(more))
            )
        if state == "streaming":
            await asyncio.sleep(_STEADY_S)
        else:
            await _steady(above)
        lost = sum(one.over.done() for one in connections)
        if lost:
            raise RuntimeError(f"{contender.name}: {lost} of {streams} {state} streams were over too early")
        return contender.memory_bytes() - before
    finally:
        for one in connections:
            one.leave()
        await asyncio.sleep(0.2)  # until the sockets are closed


async def _begun(target: Target, request: bytes, asked: Question, *, stalls: bool) -> LoadConnection:
    """A stream that has its first token."""
    began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def heard(_contents: int) -> None:
        if not began.done():
            began.set_result(None)

    connection = await target.connect(request, Reply(asked.protocol), heard, small=stalls)
    async with asyncio.timeout(30):
        await began
    if stalls:
        connection.allow(0)
    return connection


async def _steady(above: Upstream) -> None:
    """Waits until the upstream's count stands still."""
    last, still_s, waited_s, tick_s = -1, 0.0, 0.0, 0.25
    while still_s < _STEADY_S and waited_s < _STEADY_MAX_S:
        tokens = (await asyncio.to_thread(above.books))["tokens"]
        still_s = still_s + tick_s if tokens == last else 0.0
        last, waited_s = tokens, waited_s + tick_s
        await asyncio.sleep(tick_s)


def _ms(spread: Spread, share: float) -> float:
    at = spread.at(share)
    return float("nan") if at is None else at * 1000
