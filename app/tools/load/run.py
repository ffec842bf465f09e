"""Runs a load test: sends the readers, watches the service's metrics and its own lag, until all are done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import aiohttp

from .connection import Target, clock
from .figures import Figures
from .findings import Findings
from .plan import Kind, Plan
from .protocols import Question
from .readers import Readers
from .service import Observer, Sample

# How often the load tester looks how late it is itself.
_LAG_TICK_S = 0.02
# How long the service is given to settle the last streams before its books are read.
_SETTLE_S = 5.0

Progress = Callable[[float, Figures, Sample | None], None]


async def run(
    plan: Plan,
    target: Target,
    question: Question,
    *,
    where: str,
    metrics: Sequence[str] = (),
    timeout_s: float = 300.0,
    progress: Progress = lambda elapsed_s, figures, sample: None,
) -> Findings:
    """Carries out a plan. Cancelling closes every connection.

    Args:
        plan: what the readers do.
        target: where they connect.
        question: what they ask.
        where: the service's URL, for the report.
        metrics: URLs of the workers' `/metrics`; none: the service is not looked at.
        timeout_s: what one stream is given, in seconds.
        progress: told once a second: seconds so far, the figures, the newest sample.
    """
    figures = Figures()
    readers = Readers(plan, target, question, figures, timeout_s)
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    async with aiohttp.ClientSession() as session:
        observer = Observer(metrics, session)
        if metrics:
            await observer.look(0.0)
        began, cpu_began = clock(), time.process_time()
        async with asyncio.TaskGroup() as watching:
            watchers = [
                watching.create_task(_watch_lag(figures)),
                watching.create_task(_watch_service(figures, observer, began, progress)),
            ]
            async with asyncio.TaskGroup() as group:
                for number, kind in enumerate(plan.kinds()):
                    group.create_task(_come(readers, number, kind, began))
            elapsed_s, cpu_s = clock() - began, time.process_time() - cpu_began
            for watcher in watchers:
                watcher.cancel()
        if observer.samples:
            await _settle(observer, began)
    notes = _notes(plan, readers, metrics, observer)
    return Findings(
        began_at, where, question.protocol.name, plan, figures, observer.samples, elapsed_s, cpu_s / elapsed_s, notes
    )


async def _come(readers: Readers, number: int, kind: Kind, began: float) -> None:
    """One reader: comes at its time; with a duration, comes again until that is over."""
    await asyncio.sleep(began + readers.plan.starts_at_s(number) - clock())
    visit = 0
    while True:
        away_s = await readers.read(number, visit, kind)
        visit += 1
        if clock() - began + away_s >= readers.plan.duration_s:
            return
        await asyncio.sleep(away_s)


async def _watch_lag(figures: Figures) -> None:
    while True:
        due = clock() + _LAG_TICK_S
        await asyncio.sleep(_LAG_TICK_S)
        figures.lagged(max(0.0, clock() - due))


async def _watch_service(figures: Figures, observer: Observer, began: float, progress: Progress) -> None:
    second, watched = 0, bool(observer.samples)
    while True:
        second += 1
        await asyncio.sleep(began + second - clock())
        figures.tick()
        sample = await observer.look(clock() - began) if watched else None
        progress(clock() - began, figures, sample)


async def _settle(observer: Observer, began: float) -> None:
    """The last streams are booked once the service has noticed that their readers are gone."""
    deadline = clock() + _SETTLE_S
    while True:
        sample = await observer.look(clock() - began)
        if sample is None or sample.streams <= observer.samples[0].streams or clock() > deadline:
            return
        await asyncio.sleep(0.2)


def _notes(plan: Plan, readers: Readers, metrics: Sequence[str], observer: Observer) -> list[str]:
    notes = []
    if metrics and not observer.samples:
        notes.append("The service's metrics could not be read: memory, CPU and tokens are missing.")
    if plan.mix.get(Kind.VANISHING):
        notes.append(
            "Vanished readers drop every packet in their own kernel: nothing is acknowledged, sent or reset."
            if readers.vanishes
            else "Vanished readers only stopped reading: their kernel goes on to acknowledge, which a truly vanished one's does not."
        )
    if any(plan.mix.get(kind) for kind in (Kind.SLOW, Kind.STALLING, Kind.VANISHING, Kind.LEAVING)):
        notes.append(
            "Slow, stalling, vanishing and leaving readers have a receive buffer of 4 kB, so that what they do not take waits upstream."
        )
    if readers.target.tls is not None:
        notes.append("Over TLS a reader's own TLS layer takes in up to 256 kB before it holds anything back.")
    return notes
