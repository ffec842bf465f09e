"""Tickets for streams whose callers nothing bounds."""

from __future__ import annotations

from app.access.limits import Places
from app.streams.limiter import Ticket


def unbounded() -> Ticket:
    """One that counts nothing."""
    return Ticket(Places().take(""))


async def admitted() -> Ticket:
    """The same, for a reader of a kept answer."""
    return unbounded()
