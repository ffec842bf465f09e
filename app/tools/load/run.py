"""Runs a load test: sends the readers, watches the service and the test's own lag, until all are done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import aiohttp

from .admin import AdminPorts
from .connection import Target, clock
from .figures import Figures
from .findings import Findings
from .frontdoor import FrontDoor
from .notes import notes
from .plan import Kind, Plan
from .protocols import Question
from .readers import Readers
from .service import Sample
from .subject import Subject, subjects_of

# The load tester measures its own lateness this often, because late readers would be blamed on the service.
_LAG_TICK_S = 0.02
# How often the service's metrics are read, in whole seconds: each time costs it some hundredths of a second.
_LOOK_EVERY_S = 2
# How often each running stream's gauges are asked for, unless that were more than so many requests a second.
_GAUGES_EVERY_S, _GAUGES_PER_S = 1.0, 50.0
# A look at `/streams` that showed none of our streams is repeated after this time.
_RECOGNISE_AGAIN_S = 0.3
# How long the service is given to settle the last streams before its books are read.
_SETTLE_S = 5.0

Progress = Callable[[float, Figures, Sample | None], None]


async def run(
    plan: Plan,
    target: Target,
    question: Question,
    *,
    where: str,
    admin: Sequence[str] = (),
    subject: Subject | None = None,
    timeout_s: float = 300.0,
    most_answers: int | None = None,
    over: asyncio.Event | None = None,
    progress: Progress = lambda elapsed_s, figures, sample: None,
) -> Findings:
    """Carries out a plan. Cancelling closes every connection.

    Args:
        plan: what the readers do.
        target: where they connect.
        question: what they ask.
        where: the service's URL, for the report.
        admin: URLs of the workers' admin ports; none: they are not looked at.
        subject: what the test is to show.
        timeout_s: what one stream is given, in seconds.
        most_answers: how many answers may be asked for; None: any number.
        over: ends the test early, once it is set.
        progress: told once a second: seconds so far, the figures, the newest sample.
    """
    figures = Figures()
    readers = Readers(plan, target, question, figures, timeout_s, most_answers)
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    async with aiohttp.ClientSession() as session, FrontDoor(target, question.credentials) as door:
        ports = AdminPorts(admin, session)
        await ports.look(0.0)
        began, cpu_began = clock(), time.process_time()
        async with asyncio.TaskGroup() as watching:
            watchers = [
                watching.create_task(_watch_lag(figures)),
                watching.create_task(_watch_service(figures, ports, began, progress)),
                watching.create_task(_recognise(readers, ports)),
            ]
            if Subject.HELD in subjects_of(plan, subject):
                watchers.append(watching.create_task(_watch_producers(readers, door)))
            await _send(readers, began, over or asyncio.Event())
            elapsed_s, cpu_s = clock() - began, time.process_time() - cpu_began
            for watcher in watchers:
                watcher.cancel()
        if ports.samples:
            await _settle(ports, began)
    return Findings(
        began_at,
        where,
        question.protocol.name,
        plan,
        figures,
        ports.samples,
        elapsed_s,
        cpu_s / elapsed_s,
        notes(readers, ports),
        subject,
    )


async def _send(readers: Readers, began: float, over: asyncio.Event) -> None:
    """Sends all readers, until each is done, the duration is over, or `over` is set: then what still runs is cut."""
    duration_s = readers.plan.duration_s
    async with asyncio.TaskGroup() as group:
        ends = [group.create_task(_come_all(readers, began)), group.create_task(over.wait())]
        left_s = began + duration_s - clock() if duration_s else None
        await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


async def _come_all(readers: Readers, began: float) -> None:
    async with asyncio.TaskGroup() as coming:
        for number, kind in enumerate(readers.plan.kinds()):
            coming.create_task(_come(readers, number, kind, began))


async def _come(readers: Readers, number: int, kind: Kind, began: float) -> None:
    """One reader: comes at its time; with a duration, comes again until that is over."""
    plan, figures = readers.plan, readers.figures
    await asyncio.sleep(began + plan.starts_at_s(number) - clock())
    figures.arrived_s = max(figures.arrived_s, clock() - began)
    visit = 0
    while True:
        away_s = await readers.read(number, visit, kind)
        visit += 1
        if away_s is None or not plan.duration_s:
            return
        await asyncio.sleep(away_s)


async def _watch_lag(figures: Figures) -> None:
    while True:
        due = clock() + _LAG_TICK_S
        await asyncio.sleep(_LAG_TICK_S)
        figures.lagged(max(0.0, clock() - due))


async def _watch_service(figures: Figures, ports: AdminPorts, began: float, progress: Progress) -> None:
    second, sample = 0, None
    while True:
        second += 1
        await asyncio.sleep(began + second - clock())
        figures.tick()
        if ports.answered and not second % _LOOK_EVERY_S:
            sample = await ports.look(clock() - began)
        progress(clock() - began, figures, sample)


async def _recognise(readers: Readers, ports: AdminPorts) -> None:
    """Finds out which admin ports are of the service that answers our readers."""
    while ports.strangers:
        await readers.began.wait()
        readers.began.clear()
        await ports.recognise({stream_id for one in readers.running if (stream_id := one.stream_id)})
        await asyncio.sleep(_RECOGNISE_AGAIN_S if ports.strangers else 0)


async def _watch_producers(readers: Readers, door: FrontDoor) -> None:
    """Asks again and again how the producer of each running stream stands."""
    while True:
        held, asked = 0, 0
        for one in [one for one in readers.running if one.stream_id]:
            gauge = await door.gauge(one.stream_id)
            asked += 1
            if gauge is not None:
                held += gauge.held
                one.told(gauge)
        readers.figures.held = held
        await asyncio.sleep(max(_GAUGES_EVERY_S, asked / _GAUGES_PER_S))


async def _settle(ports: AdminPorts, began: float) -> None:
    """The last streams are booked once the service has noticed that their readers are gone."""
    deadline = clock() + _SETTLE_S
    while True:
        sample = await ports.look(clock() - began)
        if sample is None or sample.streams <= ports.samples[0].streams or clock() > deadline:
            return
        await asyncio.sleep(0.2)
