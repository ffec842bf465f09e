"""What a reader of the report must know to read it right."""

from __future__ import annotations

from collections.abc import Iterator

from .admin import AdminPorts
from .figures import Figures, StreamEnd
from .plan import Kind, Plan
from .readers import Readers

# A count of streams that is off by less is not remarked: some were booked before the test, or are not booked yet.
_TOLERANCE = 0.05


def notes(readers: Readers, ports: AdminPorts) -> list[str]:
    """One sentence each."""
    return [*_on_readers(readers), *_on_admin(ports), *_on_counts(readers.figures, ports)]


def _on_readers(readers: Readers) -> Iterator[str]:
    plan: Plan = readers.plan
    if readers.figures.count(StreamEnd.RUN_OVER):
        yield (
            "What still ran when the test was over was closed by it. The service saw such readers leave, or had completed "
            "what they had not read yet."
        )
    if readers.answers_left == 0:
        yield "The most to spend was reached: after that no reader asked again."
    if plan.mix.get(Kind.VANISHING):
        yield (
            "Vanished readers drop every packet in their own kernel: nothing is acknowledged, sent or reset."
            if readers.vanishes
            else "Vanished readers only stopped reading: their kernel goes on to acknowledge, which a truly vanished one's does not."
        )
    if any(plan.mix.get(kind) for kind in (Kind.SLOW, Kind.STALLING, Kind.VANISHING, Kind.LEAVING)):
        yield (
            "Slow, stalling, vanishing and leaving readers have a receive buffer of 4 kB, so that what they do not take "
            "waits upstream."
        )
    if readers.target.tls is not None:
        yield "Over TLS a reader's own TLS layer takes in up to 256 kB before it holds anything back."


def _on_admin(ports: AdminPorts) -> Iterator[str]:
    if not ports.urls:
        yield "The service's admin port was not read (--admin): memory, CPU and tokens are missing."
    elif not ports.answered:
        yield f"{', '.join(ports.urls)} could not be read (--admin): memory, CPU and tokens are missing."
    else:
        for url in ports.strangers:
            yield (
                f"{url} listed none of this test's streams: another service, or a worker that served none of them. "
                "Its figures are left out."
            )


def _on_counts(figures: Figures, ports: AdminPorts) -> Iterator[str]:
    """Whether the service's own count of streams is that of the readers."""
    if len(ports.samples) < 2:
        return
    first, last = ports.samples[0], ports.samples[-1]
    counted = last.since(first).outcomes.total() + last.streams - first.streams
    answered = sum(one.answered for one in figures.kinds.values())
    if counted < answered * (1 - _TOLERANCE):
        yield (
            f"The admin ports that were read know of {counted:,.0f} of this test's {answered:,} streams: "
            "--admin takes the port of each worker."
        )
    elif counted > figures.started * (1 + _TOLERANCE):
        yield f"The service counted {counted:,.0f} streams in this time, {figures.started:,} of them this test's: it served others too."
