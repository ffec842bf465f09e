"""Answers from a Claude that is far away: through the service, and straight from it, over the same long link."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from app.tools.load import new_event_loop
from app.tools.load.protocols import MESSAGES
from tests.bench.measures import question
from tests.bench.processes import WAYS, Contender, Upstream, service, upstream
from tests.bench.ratios import STRAIGHT, Answer, Pair
from tests.bench.upstream import WORD
from tests.support.long_link import long_link

# How long a service has been up when it is asked first: by then a connection is warm.
_WARM_S = 5.0


@dataclass(frozen=True, slots=True)
class Distance:
    """How far away Claude is, and what it tells from there.

    Attributes:
        round_trip_s: in seconds.
        rate: tokens a second.
        tokens: of an answer.
    """

    round_trip_s: float
    rate: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.rate:,} tokens/s, {self.round_trip_s * 1000:.0f} ms away"


DISTANCES = (Distance(0.2, 400, 2000), Distance(0.08, 1000, 4000))


class FarAway:
    """A Claude far away, and a service here for each way to it.

    Args:
        above: the Claude.
        services: by way.
        tokens: of each answer.
    """

    def __init__(self, above: Upstream, services: Mapping[str, Contender], tokens: int) -> None:
        self._above = above
        self._services = services
        self._text = "".join(f"{WORD.decode()}{number % 1000:04d}" for number in range(tokens))

    def pair(self, way: str, *, straight_first: bool) -> Pair:
        """One answer straight and one through the service, whole and in order.

        Raises:
            ValueError: something is missing or wrong in one.
        """
        ours = self._services[way]
        straight = Contender(STRAIGHT, way, self._above.url(way), MESSAGES, pid=0)
        both = (straight, ours) if straight_first else (ours, straight)
        return {one.name: self._ask(one) for one in both}

    def _ask(self, whom: Contender) -> Answer:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            found, text = runner.run(_answer(whom, self._above))
        if text != self._text:
            raise ValueError(f"{whom.name}: {len(text)} characters for {len(self._text)}, or in another order")
        return found


@contextmanager
def far_away(distance: Distance, loss: float = 0.0, ways: tuple[str, ...] = WAYS) -> Iterator[FarAway]:
    """Runs all of it, `distance` apart; of the packets a share of `loss` is lost."""
    with ExitStack() as stack:
        link = stack.enter_context(long_link(distance.round_trip_s, loss, seed=1))
        above = stack.enter_context(upstream(link.there, link.within))
        above.set(tokens=distance.tokens, rate=distance.rate, hold_after=0)
        services = {way: stack.enter_context(service(above, way)) for way in ways}
        time.sleep(_WARM_S)
        yield FarAway(above, services, distance.tokens)


async def _answer(whom: Contender, above: Upstream) -> tuple[Answer, str]:
    target, asked = question(whom)
    head, _, body = asked.ask("far", resumable=False).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    trust = ssl.create_default_context(cafile=str(above.pem)) if target.tls is not None else True
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        async with session.post(whom.url + whom.protocol.path, data=body, headers=headers, ssl=trust) as response:
            first_s = time.perf_counter() - began
            told = await response.read()
        return Answer(first_s, time.perf_counter() - began), text_of(told)


def text_of(told: bytes) -> str:
    """The text in an answer of the plain protocol or of the Messages API."""
    events: list[dict[str, Any]] = [json.loads(line[6:]) for line in told.split(b"\n") if line.startswith(b"data: ")]
    return "".join(event.get("text") or event.get("delta", {}).get("text", "") for event in events)
