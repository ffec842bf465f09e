"""One trial: a number of streams at once, and what the account's headers say before and after. START of the I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ...answer.tally import Tally
from ...errors import SluicewayError
from ...upstream.claude import Claude
from .design import (
    PROBE_MAX_TOKENS,
    READING_GAP_S,
    READINGS,
    SETTLE_S,
    Arm,
    CannotPlan,
    MeasuredPace,
    Plan,
    SpendingCap,
    input_tokens_at_most,
)

# Long by nature, the same every time, and without anything to think about: each answer ends at its max_tokens.
PROMPT = (
    "Write out all whole numbers from one upwards as English words, separated by commas. Write nothing else, use no "
    "digits, never abbreviate, and go on for as long as you can."
)
_PROBE = "Say A."
_FULL_WITHIN = 500  # tokens: what the headers' rounding hides
_FULL_POLLS = 5  # then it is taken as it is: other traffic keeps it from being full


@dataclass(frozen=True, slots=True)
class RateLimitSample:
    """What the headers said, and at what loop time."""

    at_s: float
    limit: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Took:
    """What came of one stream.

    Attributes:
        chars: received before the abort or the pause, or in all.
        usage: as reported in the end; None where it was left.
        natural: it ended at its `max_tokens`.
        first_s, last_s: loop times of the first text and the last.
        first_chars: what came with the first text.
        error: what went wrong.
    """

    chars: int
    usage: dict[str, Any] | None
    natural: bool
    first_s: float
    last_s: float
    first_chars: int
    error: SluicewayError | None = None

    @property
    def tokens(self) -> int:
        return int((self.usage or {}).get("output_tokens") or 0)


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm of one block; all in tokens.

    Attributes:
        first, second: lost by the account until the first reading (paused streams are still open) and until the second.
        received: by the arm's streams; exact where they were complete, else by the characters.
        reserved: of a long arm, the share of its tokens that was already gone when a third of its time had passed.
    """

    arm: Arm
    first: float
    second: float
    received: float
    reserved: float | None


class Void(Exception):
    """The trial does not count; the message says why.

    Attributes:
        late: complete streams were not over at the reading.
    """

    def __init__(self, why: str, *, late: bool = False) -> None:
        super().__init__(why)
        self.late = late


class TrialRunner:
    """Sends what a trial needs, within the cap.

    Args:
        claude: the way to the Messages API.
        model: what is asked.
        cap: keeps the cap; every request is promised at its worst before it is sent.
        thinking: the request's `thinking`; None leaves it out.

    Attributes:
        idle: refill seen while nothing ran, tokens a second, one a pause between trials.
        output_tokens: exact, of all finished answers.
    """

    def __init__(self, claude: Claude, model: str, cap: SpendingCap, thinking: dict[str, Any] | None) -> None:
        self._claude, self._model, self._cap, self._thinking = claude, model, cap, thinking
        self._chars = self._tokens = 0  # of complete streams: characters a token
        self.idle: list[float] = []
        self.output_tokens = 0

    @property
    def tokens_per_char(self) -> float:
        return self._tokens / self._chars

    async def probe(self) -> RateLimitSample:
        """Asks for one token and reads the headers. Cancelling is safe.

        Raises:
            CannotPlan: the account shows no such headers. Void: the request failed. CapReached: no money for it.
        """
        params = {"model": self._model, "max_tokens": PROBE_MAX_TOKENS, **self._thought()}
        promised_usd = self._cap.promise(input_tokens_at_most(_PROBE), PROBE_MAX_TOKENS)
        answer = self._claude.ask(params | {"messages": [{"role": "user", "content": _PROBE}]})
        tally = Tally()
        try:
            await answer.open()
            at_s = asyncio.get_running_loop().time()
            while events := await answer.read():
                for event in events:
                    tally.see(event)
        except SluicewayError as error:
            raise Void(str(error)) from error
        finally:
            await answer.close()
        self._settle(promised_usd, tally)
        try:
            limit, remaining = (
                int(answer.headers[f"anthropic-ratelimit-output-tokens-{name}"]) for name in ("limit", "remaining")
            )
        except (KeyError, ValueError):
            raise CannotPlan("the answers carry no rate-limit headers for output tokens") from None
        return RateLimitSample(at_s, limit, remaining)

    async def calibrate(self, max_tokens: int, streams: int) -> MeasuredPace:
        """Measures how fast one stream runs, one after the other. Cancelling is safe.

        Raises:
            CannotPlan: the model's answers do not suit the experiment. CapReached: no money for it.
        """
        paces = []
        for _ in range(streams):
            began_s = asyncio.get_running_loop().time()
            took = await self._stream(max_tokens, None, None)
            if took.error is not None:
                raise CannotPlan(f"Claude answered: {took.error}")
            if not took.natural or not took.chars:
                raise CannotPlan("the model ends the answer by itself, or thinks unseen: lengths cannot be known")
            if took.chars == took.first_chars:
                raise CannotPlan("an answer came in one piece: how fast it runs cannot be known")
            after_first = took.tokens * (1 - took.first_chars / took.chars)
            paces.append((took.first_s - began_s, after_first / max(1e-3, took.last_s - took.first_s)))
        return MeasuredPace(fmean(ttft for ttft, _ in paces), fmean(rate for _, rate in paces), self.tokens_per_char)

    async def full(self, limit: int) -> RateLimitSample:
        """Waits until the bucket is full, or as full as other traffic leaves it, and measures the refill on the way."""
        refill = limit / 60
        reading = await self.probe()
        if reading.remaining < limit - 4 * _FULL_WITHIN:
            await asyncio.sleep((limit - reading.remaining) / refill * 0.7)
            later = await self.probe()
            if later.remaining < limit - 2 * _FULL_WITHIN:
                self.idle.append((later.remaining - reading.remaining) / (later.at_s - reading.at_s))
            reading = later
        for _ in range(_FULL_POLLS):
            if reading.remaining >= limit - _FULL_WITHIN:
                break
            await asyncio.sleep(max(2.0, (limit - reading.remaining + 2 * _FULL_WITHIN) / refill))
            reading = await self.probe()
        return reading

    async def trial(self, arm: Arm, plan: Plan, pace: MeasuredPace, limit: int, dither: int) -> Trial:
        """Runs one arm. Cancelling is safe: every stream is aborted.

        Args:
            dither: tokens that complete streams draw beside it.

        Raises:
            Void: it does not count. CapReached: no money for it.
        """
        start = await self.full(limit)
        began_s = asyncio.get_running_loop().time()
        release = asyncio.Event()
        leave_at = None if arm in ("short", "long") else plan.short_tokens / self.tokens_per_char
        max_tokens = plan.short_tokens if arm == "short" else plan.long_tokens
        hold = release if arm == "paused" else None
        streams = [asyncio.create_task(self._stream(max_tokens, leave_at, hold)) for _ in range(plan.streams)]
        parts = [part for part in (dither // 2, dither - dither // 2) if part]
        beside = [asyncio.create_task(self._stream(part, None, None)) for part in parts]
        read_at_s = began_s + plan.read_at_s
        try:
            reserved = None
            if arm == "long":
                reserved = await self._reserved(start, began_s, plan, pace)
            first = await self._lost(start, read_at_s)
            if not all(task.done() for task in beside + ([] if arm == "paused" else streams)):
                raise Void("streams ran longer than expected", late=True)
            release.set()
            span_s = READINGS * READING_GAP_S
            second = await self._lost(start, read_at_s + span_s + SETTLE_S)
            async with asyncio.timeout(5):
                tooks, dithered = await asyncio.gather(*streams), await asyncio.gather(*beside)
        except TimeoutError:
            raise Void("an aborted stream did not end") from None
        finally:
            for task in streams + beside:
                task.cancel()
            await asyncio.gather(*streams, *beside, return_exceptions=True)
        _check(arm, [*tooks, *dithered], tooks)
        drawn = sum(took.tokens for took in dithered)
        known = arm in ("short", "long")
        received = sum(took.tokens if known else took.chars * self.tokens_per_char for took in tooks)
        return Trial(arm, first - drawn, second - drawn, received, reserved)

    async def _lost(self, start: RateLimitSample, at_s: float) -> float:
        """Tokens the account lost from `start` to this loop time, without what it was refilled: several readings."""
        loop, lost = asyncio.get_running_loop(), []
        refill = start.limit / 60
        for number in range(READINGS):
            due_s = at_s + (number - (READINGS - 1) / 2) * READING_GAP_S
            await asyncio.sleep(due_s - loop.time())
            reading = await self.probe()
            since_s = reading.at_s - at_s if reading.remaining < start.limit - _FULL_WITHIN else 0.0
            lost.append(start.remaining - (reading.remaining - refill * since_s))
        return fmean(lost)

    async def _reserved(self, start: RateLimitSample, began_s: float, plan: Plan, pace: MeasuredPace) -> float:
        early_s = pace.ttft_s + plan.long_tokens / pace.tokens_per_s / 3
        await asyncio.sleep(began_s + early_s - asyncio.get_running_loop().time())
        reading = await self.probe()
        refilled = start.limit / 60 * (reading.at_s - began_s - pace.ttft_s)
        return (start.remaining - reading.remaining + refilled) / (plan.streams * plan.long_tokens)

    async def _stream(self, max_tokens: int, leave_at_chars: float | None, hold: asyncio.Event | None) -> Took:
        """Reads one answer to its end, or until so many characters, then aborts it; after `hold`, where that is given."""
        params = {"model": self._model, "max_tokens": max_tokens, **self._thought()}
        promised_usd = self._cap.promise(input_tokens_at_most(PROMPT), max_tokens)
        answer = self._claude.ask(params | {"messages": [{"role": "user", "content": PROMPT}]})
        loop, tally = asyncio.get_running_loop(), Tally()
        first_s = last_s = 0.0
        first_chars = 0
        error: SluicewayError | None = None
        try:
            await answer.open()
            while events := await answer.read():
                for event in events:
                    tally.see(event)
                if tally.chars["text"]:
                    last_s = loop.time()
                    first_s, first_chars = first_s or last_s, first_chars or tally.chars["text"]
                if leave_at_chars is not None and tally.chars["text"] >= leave_at_chars:
                    break
            if hold is not None:
                await hold.wait()
        except SluicewayError as raised:
            error = raised
        finally:
            rest = await answer.close()
        if hold is None:
            # What had arrived when it was left was received as well.
            for event in rest:
                tally.see(event)
        complete = error is None and tally.exact and tally.stop_reason is not None
        if complete:
            self._settle(promised_usd, tally)
            self._chars += tally.chars["text"]
            self._tokens += int(tally.usage["output_tokens"])
        natural = tally.stop_reason == "max_tokens" and not tally.hidden_thinking
        return Took(
            tally.chars["text"], tally.usage if complete else None, natural, first_s, last_s, first_chars, error
        )

    def _settle(self, promised_usd: float, tally: Tally) -> None:
        if tally.exact:
            self._cap.settle(promised_usd, tally.usage)
            self.output_tokens += int(tally.usage["output_tokens"])

    def _thought(self) -> dict[str, Any]:
        return {} if self._thinking is None else {"thinking": self._thinking}


def _check(arm: Arm, all_tooks: Sequence[Took], tooks: Sequence[Took]) -> None:
    """Raises Void where a stream was not what its arm needs."""
    failed = [took.error for took in all_tooks if took.error is not None]
    if failed:
        raise Void(f"{len(failed)} of {len(all_tooks)} streams failed: {failed[0]}")
    if arm in ("short", "long") and not all(took.natural for took in tooks):
        raise Void("an answer ended before its max_tokens")
    if arm in ("aborted", "paused") and any(took.usage is not None for took in tooks):
        raise Void("an answer was over before it could be left")


Say = Callable[[str], None]
