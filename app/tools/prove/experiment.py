"""The experiment: calibrates, runs blocks of trials until the data decide or the cap is reached, and sums up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from ...money.prices import Prices
from ...upstream.claude import Claude
from .design import (
    ARMS,
    PROBE_MAX_TOKENS,
    READINGS,
    Arm,
    CannotPlan,
    CapReached,
    MeasuredPace,
    Plan,
    SpendingCap,
    input_tokens_at_most,
    plan,
)
from .inference import FEWEST_BLOCKS, UNKNOWN, Share, Verdict, headers_tell, share, trustworthy
from .trial import PROMPT, Say, Trial, TrialRunner, Void

_CALIBRATION_TOKENS, _CALIBRATION_STREAMS = 400, 2
# How much longer than expected the slowest stream may take; after the second that took longer still, more.
_SLACK, _MORE_SLACK, _STRAGGLERS_MAX = 1.3, 1.25, 1
# A third into a long trial, the account has lost this share of its tokens at most, and at least: as generated, in advance.
_LIVE_BELOW, _RESERVED_ABOVE = 0.65, 0.8
_VOIDS_MAX = 8


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator chose.

    Attributes:
        cap_usd: never exceeded, at the table's prices.
        blocks_max: blocks of four trials, at most.
        streams_max: streams at once, at most.
        thinking: the request's `thinking`; None leaves it out.
    """

    model: str
    cap_usd: float
    seed: int = 0
    blocks_max: int = 10
    streams_max: int = 400
    thinking: dict[str, Any] | None = None


@dataclass(slots=True)
class Findings:
    """All that was seen and what follows from it.

    Attributes:
        abort, pause: shares of the unread rest that were drawn.
        abort_verdict, pause_verdict: what they say, or that they do not.
        why: what stood in the way of an answer, in sentences.
        told: the share of the known streams' tokens that the headers showed.
        charged_in_advance: `max_tokens` is taken at the start; None where that stayed unclear.
        refill_seen: tokens a second while nothing ran: the account's refill less other traffic.
        known_tokens: output tokens of finished answers, exact.
        left_received, left_unread: of the streams that were left, tokens received, and not.
        worst_usd: what all this can have cost at most.
        began_at, ended_at: seconds since the epoch.
    """

    model: str
    abort: Share = UNKNOWN
    pause: Share = UNKNOWN
    abort_verdict: Verdict = Verdict.UNCLEAR
    pause_verdict: Verdict = Verdict.UNCLEAR
    why: list[str] = field(default_factory=list)
    limit: int | None = None
    pace: MeasuredPace | None = None
    plan: Plan | None = None
    blocks: int = 0
    trials: list[Trial] = field(default_factory=list)
    told: float | None = None
    charged_in_advance: bool | None = None
    refill_seen: float | None = None
    known_tokens: int = 0
    left_received: float = 0.0
    left_unread: float = 0.0
    worst_usd: float = 0.0
    cap_usd: float = 0.0
    began_at: float = 0.0
    ended_at: float = 0.0


class Experiment:
    """Runs once.

    Args:
        claude: the way to the Messages API; its receive buffers bound what a paused stream can still take in.
        prices: the price table.
        say: told of the progress, a line at a time.
        epoch: the time in seconds since the epoch.

    Raises:
        CannotPlan: the model has no price.
    """

    def __init__(
        self,
        claude: Claude,
        prices: Prices,
        options: Options,
        *,
        say: Say = lambda _: None,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._options, self._say, self._epoch = options, say, epoch
        self._rng = random.Random(options.seed)
        self._cap = SpendingCap(prices, options.model, options.cap_usd)
        self._runner = TrialRunner(claude, options.model, self._cap, options.thinking)
        self._voids = self._stragglers = 0
        self._slack = _SLACK
        self._left: list[tuple[float, float]] = []  # of every trial whose streams were left: received, unread
        self.findings = Findings(options.model, cap_usd=options.cap_usd)

    async def run(self) -> Findings:
        """Experiments until both questions are answered, or as long as blocks and cap last.

        Cancelling is safe: all streams are aborted, and `findings` holds what was seen so far.
        """
        found = self.findings
        found.began_at = self._epoch()
        try:
            await self._prepare()
            await self._run_blocks()
        except (CannotPlan, CapReached, Void) as error:
            found.why.append(f"{str(error).rstrip('.')}.")
        finally:
            self._sum_up()
        return found

    async def _prepare(self) -> None:
        found, bench = self.findings, self._runner
        found.limit = (await bench.probe()).limit
        found.pace = await bench.calibrate(_CALIBRATION_TOKENS, _CALIBRATION_STREAMS)
        self._replan()
        assert found.plan is not None, "just made"
        needed_usd = FEWEST_BLOCKS * sum(self._worst_usd(found.plan, arm) for arm in ARMS)
        self._say(
            f"{found.limit:,} output tokens a minute; {found.pace.tokens_per_s:.0f} tokens/s a stream. A block is four "
            f"trials of {found.plan.streams} streams; {FEWEST_BLOCKS} blocks cost at most ${needed_usd:.2f}."
        )
        if self._cap.worst_usd + needed_usd > self._options.cap_usd:
            raise CannotPlan(
                f"the cap of ${self._options.cap_usd:g} does not pay for the {FEWEST_BLOCKS} blocks that the least "
                f"answer needs: ${self._cap.worst_usd + needed_usd:.2f} would. A cheaper model, or a workspace of its "
                "own with a lower limit of output tokens a minute, makes it cheaper"
            )

    def _replan(self) -> None:
        found = self.findings
        assert found.limit is not None, "prepared"
        assert found.pace is not None, "prepared"
        found.plan = plan(found.limit, found.pace, streams_max=self._options.streams_max, slack=self._slack)

    def _worst_usd(self, planned: Plan, arm: Arm) -> float:
        """What a trial costs at most, its probes and their waiting included."""
        streams = self._cap.cost((planned.streams + 2) * input_tokens_at_most(PROMPT), planned.most_output_tokens(arm))
        probes = 2 * READINGS + 8
        return streams + self._cap.cost(probes * input_tokens_at_most(""), probes * PROBE_MAX_TOKENS)

    async def _run_blocks(self) -> None:
        found = self.findings
        block: list[Trial] = []
        while found.blocks < self._options.blocks_max:
            for arm in self._rng.sample(ARMS, len(ARMS)):
                trial = await self._one(arm)
                if trial is None:
                    # Lengths were underestimated: another plan, and nothing of the old one compares with it.
                    block, found.trials, found.blocks = [], [], 0
                    break
                block.append(trial)
            else:
                found.trials += block
                found.blocks, block = found.blocks + 1, []
                self._decide()
                self._say(
                    f"Block {found.blocks}: abort {_shown(found.abort)}, pause {_shown(found.pause)}; "
                    f"at most ${self._cap.worst_usd:.4f} spent."
                )
                if Verdict.UNCLEAR not in (found.abort_verdict, found.pause_verdict):
                    return
        found.why.append(f"{found.blocks} blocks left it open: the headers are too coarse, or other traffic too heavy.")

    async def _one(self, arm: Arm) -> Trial | None:
        """A trial that counts; None where the plan had to be changed."""
        found = self.findings
        while True:
            assert found.plan is not None, "prepared"
            assert found.pace is not None, "prepared"
            assert found.limit is not None, "prepared"
            if self._cap.worst_usd + self._worst_usd(found.plan, arm) > self._options.cap_usd:
                raise CapReached(f"the cap of ${self._options.cap_usd:g} does not pay for another trial")
            dither = self._rng.randint(0, found.plan.dither_tokens)
            received = None
            try:
                trial = await self._runner.trial(arm, found.plan, found.pace, found.limit, dither)
                received = trial.received
                return trial
            except Void as void:
                self._voids += 1
                self._say(f"A trial does not count: {void}.")
                if self._voids > _VOIDS_MAX:
                    raise
                self._stragglers += void.late
                if self._stragglers > _STRAGGLERS_MAX:
                    self._stragglers = 0
                    self._slack *= _MORE_SLACK
                    self._replan()
                    return None
            finally:
                if arm in ("aborted", "paused"):
                    whole = float(found.plan.streams * found.plan.long_tokens)
                    # Of a void trial nothing is sure: all of it may have been drawn.
                    self._left.append((received or 0.0, whole - (received or 0.0)))

    def _decide(self) -> None:
        """Looks at the data so far."""
        found = self.findings
        if found.blocks < FEWEST_BLOCKS:
            return
        assert found.plan is not None, "blocks were run"
        first: dict[str, list[float]] = {arm: [t.first for t in found.trials if t.arm == arm] for arm in ARMS}
        second: dict[str, list[float]] = {arm: [t.second for t in found.trials if t.arm == arm] for arm in ARMS}
        received = {arm: fmean(t.received for t in found.trials if t.arm == arm) for arm in ARMS}
        found.told = headers_tell(first, received["long"] - received["short"])
        reserved = fmean(trial.reserved for trial in found.trials if trial.reserved is not None)
        found.charged_in_advance = True if reserved > _RESERVED_ABOVE else False if reserved < _LIVE_BELOW else None
        if not trustworthy(found.told):
            return
        looks = self._options.blocks_max - FEWEST_BLOCKS + 1
        over = {arm: received[arm] - received["short"] for arm in ARMS}
        # A verdict once reached stays: the intervals hold over all looks together.
        if found.abort_verdict is Verdict.UNCLEAR:
            found.abort = share(first, "aborted", overshoot=over["aborted"], looks=looks)
            found.abort_verdict = found.abort.verdict
        if found.pause_verdict is Verdict.UNCLEAR:
            # While streams are open, only an account charged as tokens come shows what they drew.
            live = found.charged_in_advance is False
            found.pause = share(first if live else second, "paused", overshoot=over["paused"], looks=looks)
            seen = found.pause.verdict
            if live or Verdict.AT_ONCE in (seen, found.abort_verdict):
                found.pause_verdict = seen

    def _sum_up(self) -> None:
        found = self.findings
        found.ended_at = self._epoch()
        found.worst_usd, found.known_tokens = self._cap.worst_usd, self._runner.output_tokens
        found.refill_seen = median(self._runner.idle) if self._runner.idle else None
        found.left_received = sum(received for received, _ in self._left)
        found.left_unread = sum(unread for _, unread in self._left)
        if found.told is not None and not trustworthy(found.told):
            found.why.append(
                f"The headers showed {found.told:.0%} of the tokens of streams whose length is known, so they are not "
                "believed for the others."
            )
        undone = found.abort_verdict in (Verdict.A_WHILE, Verdict.WHOLE) and found.pause_verdict is Verdict.UNCLEAR
        if undone and found.charged_in_advance is not False:
            found.why.append("Where tokens are charged in advance, a pause shows only if an abort stops generation.")


def _shown(one: Share) -> str:
    return "open" if one is UNKNOWN else f"{one.estimate:.2f} [{one.low:.2f}, {one.high:.2f}]"
