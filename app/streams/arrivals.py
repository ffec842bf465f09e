"""Who came before a drain began is served, however long his request takes to be whole, and to be let in."""

from __future__ import annotations

from contextvars import ContextVar

_IN_TIME: ContextVar[bool] = ContextVar("in_time", default=False)


def arrives(*, in_time: bool) -> None:
    """A request begins: what this task does until the next one, it does for somebody who came in time, or too late."""
    _IN_TIME.set(in_time)


def came_in_time() -> bool:
    """Whether what is done here is for a request that came in time; False where it is for none."""
    return _IN_TIME.get()
