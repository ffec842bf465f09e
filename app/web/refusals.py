"""Every request that is turned away before anything is started for it: counted, and told in the log, but never as a flood."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from ..errors import Refusal, SluicewayError
from .elsewhere.forwarding import PASSED_ON

log = logging.getLogger(__name__)

# An operator can do something about these; the others are the fault of requests.
_OURS = frozenset({Refusal.FULL, Refusal.LAG, Refusal.FAILED, Refusal.BUDGET_AWAY})
# The refusals that aiohttp itself raises, by status.
_OF_STATUS = {404: Refusal.NOT_FOUND, 405: Refusal.METHOD, 413: Refusal.TOO_LARGE}


class Refusals:
    """Hears of every refusal of one service.

    The log has the first of each reason, and from then on at most one line a minute with the number of the others. What
    is remembered for that is bounded by the list of reasons.

    Args:
        count: told of each.
    """

    QUIET_S = 60.0

    def __init__(self, count: Callable[[Refusal], None]) -> None:
        self._count = count
        self._untold: dict[Refusal, int] = {}  # since the last line of that reason, which is not a minute old
        self._timers: dict[Refusal, asyncio.TimerHandle] = {}  # each ends such a minute

    def refused(self, refusal: Refusal) -> None:
        """A request was turned away."""
        self._count(refusal)
        if refusal in self._untold:
            self._untold[refusal] += 1
            return
        log.log(_level(refusal), "turned a request away: %s", refusal.value)
        self._be_quiet(refusal)

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Hears what is refused on its way out. It belongs right within what makes responses of errors."""
        try:
            return await handler(request)
        except (SluicewayError, web.HTTPException) as error:
            refusal = refusal_of(error)
            # A process that was asked by another one, and does not have the stream, refuses nobody: the one that asked
            # may.
            if refusal is not None and not (refusal is Refusal.NOT_FOUND and PASSED_ON in request.headers):
                self.refused(refusal)
            raise
        except ConnectionError:
            raise
        except Exception:
            self.refused(Refusal.FAILED)
            raise

    def close(self) -> None:
        """Tells what was not told yet. Idempotent."""
        for timer in self._timers.values():
            timer.cancel()
        for refusal in self._untold:
            self._tell(refusal)
        self._timers, self._untold = {}, {}

    def _be_quiet(self, refusal: Refusal) -> None:
        self._untold[refusal] = 0
        self._timers[refusal] = asyncio.get_running_loop().call_later(self.QUIET_S, self._minute_is_over, refusal)

    def _minute_is_over(self, refusal: Refusal) -> None:
        if self._untold[refusal]:
            self._tell(refusal)
            self._be_quiet(refusal)
        else:
            del self._untold[refusal], self._timers[refusal]

    def _tell(self, refusal: Refusal) -> None:
        if more := self._untold[refusal]:
            log.log(_level(refusal), "%d more turned away: %s", more, refusal.value)


def refusal_of(error: SluicewayError | web.HTTPException) -> Refusal | None:
    """Why an error refuses a request; None where a stream was started, whose outcome tells, or nothing is refused."""
    if isinstance(error, SluicewayError):
        return error.refusal
    return _OF_STATUS.get(error.status, Refusal.INVALID) if 400 <= error.status < 500 else None


def _level(refusal: Refusal) -> int:
    return logging.WARNING if refusal in _OURS else logging.INFO
