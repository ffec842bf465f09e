"""The simulated account: a token bucket of output tokens, other traffic on it, and what every answer truly drew. Pure.

A draw may go on after its reader is gone, or while it is not read: that is what `python -m app prove` has to find out
from outside, by the rate-limit headers alone. Times are seconds since the epoch; `now` comes in and never goes back.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

# A draw that goes on by itself is booked in this many portions, so that the account shows it growing.
_PORTIONS = 40


@dataclass(frozen=True, slots=True)
class AccountPlan:
    """The account's limit and its other traffic.

    Attributes:
        output_limit: output tokens a minute; 0: no limit is kept, and the headers never change.
        noise: output tokens a second that other traffic takes, on average.
        noise_tokens: mean size of one such answer, taken at once; sizes are exponential, arrivals a Poisson process.
        reserve: an answer's `max_tokens` is taken when it begins and adjusted when it ends (as the rate-limit page once
            had it), instead of taking tokens as they are generated.
        seed: of the other traffic.
    """

    output_limit: int = 0
    noise: float = 0.0
    noise_tokens: float = 400.0
    reserve: bool = False
    seed: int = 0


class Exhausted(Exception):
    """The bucket is empty.

    Attributes:
        retry_after_s: seconds until there is enough again.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("This request would exceed your organization's rate limit of output tokens per minute.")
        self.retry_after_s = retry_after_s


@dataclass(slots=True, eq=False)
class Draw:
    """What one answer takes from the account.

    Attributes:
        consumed: output tokens generated, read or not.
        reserved: tokens taken in advance and not yet adjusted.
        turn: portions of an earlier one are void.
    """

    model: str
    reserved: int = 0
    consumed: int = 0
    turn: int = 0


class Account:
    """The bucket, full at first, with the minutes' usage."""

    def __init__(self, plan: AccountPlan | None = None) -> None:
        self.plan = plan or AccountPlan()
        self.level = float(self.plan.output_limit)
        self.usage: dict[str, Counter[int]] = {"input": Counter(), "output": Counter()}  # by minute of the epoch
        self.noise_tokens = 0.0  # taken by other traffic so far
        self._rng = random.Random(self.plan.seed)
        self._at: float | None = None  # as of when `level` is; None before the first request
        self._portions: list[tuple[float, int, Draw, int, int, bool]] = []  # at, order, draw, turn, tokens, last
        self._order = 0
        self._next_noise_at = float("inf")

    @property
    def refill_per_s(self) -> float:
        return self.plan.output_limit / 60

    def advance(self, now: float) -> None:
        """Lets everything happen that was to happen by `now`."""
        if self._at is None:
            self._at = now
            if self.plan.noise:
                self._next_noise_at = now + self._until_noise_s()
        while True:
            portion_at = self._portions[0][0] if self._portions else float("inf")
            at = min(portion_at, self._next_noise_at)
            if at > now:
                break
            self._refill(at)
            if portion_at <= self._next_noise_at:
                _, _, draw, turn, tokens, last = heapq.heappop(self._portions)
                if turn == draw.turn:
                    self._take(draw, tokens, at)
                    if last:
                        self.close(draw, at)
            else:
                size = self._rng.expovariate(1 / self.plan.noise_tokens)
                self.level -= size
                self.noise_tokens += size
                self.usage["output"][int(at // 60)] += round(size)
                self._next_noise_at = at + self._until_noise_s()
        self._refill(now)

    def open(self, now: float, model: str, *, input_tokens: int, max_tokens: int) -> Draw:
        """A new answer's draw.

        Raises:
            Exhausted: there is no room for it.
        """
        self.advance(now)
        draw = Draw(model)
        if self.plan.output_limit:
            needed = max_tokens if self.plan.reserve else 1
            if self.level < needed:
                raise Exhausted((needed - self.level) / self.refill_per_s)
            if self.plan.reserve:
                draw.reserved = max_tokens
                self.level -= max_tokens
        self.usage["input"][int(now // 60)] += input_tokens
        return draw

    def generated(self, draw: Draw, now: float, total: int) -> None:
        """The answer has come to `total` tokens; those that were generated ahead do not count twice."""
        if total > draw.consumed:
            # Without limit or other traffic nothing depends on the order, and this is every event's path.
            if self.plan.output_limit or self.plan.noise:
                self.advance(now)
            self._take(draw, total - draw.consumed, now)

    def run_on(self, draw: Draw, now: float, until: int, rate: float, *, then_close: bool) -> None:
        """Generation goes on unread, until `draw` comes to so many tokens.

        Args:
            rate: tokens a second; 0 for all at once.
            then_close: the answer is over with them.
        """
        self.hold(draw, now)
        left = until - draw.consumed
        if left <= 0:
            if then_close:
                self.close(draw, now)
            return
        count = min(left, _PORTIONS)
        for number in range(1, count + 1):
            upto, before = left * number // count, left * (number - 1) // count
            at = now + (upto / rate if rate else 0.0)
            self._order += 1
            portion = (at, self._order, draw, draw.turn, upto - before, then_close and number == count)
            heapq.heappush(self._portions, portion)

    def hold(self, draw: Draw, now: float) -> None:
        """Generation stands still again: what was still to be generated unread is not."""
        self.advance(now)
        draw.turn += 1

    def close(self, draw: Draw, now: float) -> None:
        """The answer is over: what was reserved beyond its tokens is given back. Idempotent."""
        self.advance(now)
        if draw.reserved:
            self.level = min(self.level + draw.reserved - draw.consumed, self.plan.output_limit)
            draw.reserved = 0

    def headers(self, now: float) -> list[tuple[str, str]]:
        """The output tokens' rate-limit headers (Messages API, rate limits: remaining is rounded to thousands)."""
        self.advance(now)
        limit = self.plan.output_limit
        if not limit:
            return [
                ("anthropic-ratelimit-output-tokens-limit", "400000"),
                ("anthropic-ratelimit-output-tokens-remaining", "399000"),
                ("anthropic-ratelimit-output-tokens-reset", "2030-01-01T00:00:00Z"),
            ]
        remaining = max(0, round(self.level / 1000) * 1000)
        full_at = datetime.fromtimestamp(now + (limit - self.level) / self.refill_per_s, UTC)
        return [
            ("anthropic-ratelimit-output-tokens-limit", str(limit)),
            ("anthropic-ratelimit-output-tokens-remaining", str(min(remaining, limit))),
            ("anthropic-ratelimit-output-tokens-reset", full_at.strftime("%Y-%m-%dT%H:%M:%SZ")),
        ]

    def usage_report(self, now: float, starting_at: float, ending_at: float, model: str) -> dict[str, Any]:
        """The usage report in minutes, of the one model that is simulated (Admin API, usage report of messages).

        Args:
            starting_at: snapped down to the minute.
            ending_at: buckets end before or at this time.
            model: named in the results.
        """
        self.advance(now)
        data = []
        for minute in range(int(starting_at // 60), int(ending_at // 60)):
            result = {
                "uncached_input_tokens": self.usage["input"][minute],
                "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
                "cache_read_input_tokens": 0,
                "output_tokens": self.usage["output"][minute],
                "server_tool_use": {"web_search_requests": 0},
                "model": model,
            }
            used = result["uncached_input_tokens"] or result["output_tokens"]
            bounds = {"starting_at": _rfc3339(minute * 60), "ending_at": _rfc3339(minute * 60 + 60)}
            data.append(bounds | {"results": [result] if used else []})
        return {"data": data, "has_more": False, "next_page": None}

    def _take(self, draw: Draw, tokens: int, now: float) -> None:
        draw.consumed += tokens
        self.usage["output"][int(now // 60)] += tokens
        if not draw.reserved:
            self.level -= tokens

    def _refill(self, now: float) -> None:
        assert self._at is not None, "advance() set it"
        if now > self._at:
            self.level = min(self.level + (now - self._at) * self.refill_per_s, float(self.plan.output_limit))
            self._at = now

    def _until_noise_s(self) -> float:
        return self._rng.expovariate(self.plan.noise / self.plan.noise_tokens)


def _rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
