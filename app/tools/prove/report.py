"""What was found, in plain words and as JSON. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from .experiment import Findings
from .inference import ALPHA, AT_ONCE_BELOW, WHOLE_ABOVE, Share, Verdict
from .usage_report import Reported

ABORT_WORDS = {
    Verdict.AT_ONCE: "generation stops (and is charged) at the abort",
    Verdict.A_WHILE: "generation goes on for a while after the abort, and that is charged",
    Verdict.WHOLE: "the whole answer is charged",
    Verdict.UNCLEAR: "could not tell",
}
PAUSE_WORDS = {
    Verdict.AT_ONCE: "generation holds still while nothing is read",
    Verdict.A_WHILE: "generation goes on for a while though nothing is read (buffers on the way fill first)",
    Verdict.WHOLE: "the whole answer is generated though nothing is read",
    Verdict.UNCLEAR: "could not tell",
}
NOT_SHOWN = (
    "This is what the rate limit was charged. It is not the invoice: that a limit was drawn on does not show that money "
    "was, nor the other way round.",
    "It holds for this model, this account, this day and answers of this length. A provider may change it unannounced.",
    "A pause shows buffers too: on the way to Claude lie buffers that may take in an answer of this length whole, so that "
    "it says nothing of what happens to a longer one.",
)


def words(found: Findings, reported: Reported | None) -> str:
    """The findings for a reader who was not there."""
    lines = [
        f"Abort: {ABORT_WORDS[found.abort_verdict]}.",
        f"Pause: {PAUSE_WORDS[found.pause_verdict]}.",
        "",
        "Evidence",
    ]
    lines += [f"  {line}" for line in _evidence(found, reported)]
    if found.why:
        lines += ["", "What stood in the way", *(f"  {why}" for why in found.why)]
    lines += ["", "What this does not show", *(f"  {line}" for line in NOT_SHOWN)]
    return "\n".join(lines)


def as_json(found: Findings, reported: Reported | None) -> dict[str, Any]:
    """The findings as values JSON knows: what is not a finite number is null."""
    whole = asdict(found) | {"abort_verdict": found.abort_verdict.value, "pause_verdict": found.pause_verdict.value}
    return {
        "abort_in_words": ABORT_WORDS[found.abort_verdict],
        "pause_in_words": PAUSE_WORDS[found.pause_verdict],
        **_finite(whole),
        "level": 1 - ALPHA,
        "at_once_below": AT_ONCE_BELOW,
        "whole_above": WHOLE_ABOVE,
        "usage_report": asdict(reported) if reported is not None else None,
        "rest_by_usage_report": rest_by_report(found, reported) if reported is not None else None,
        "not_shown": list(NOT_SHOWN),
    }


def rest_by_report(found: Findings, reported: Reported) -> float | None:
    """The share of the unread rest that the usage report holds, if nobody else used the model; None without a rest."""
    if not found.left_unread:
        return None
    return (reported.output_tokens - found.known_tokens - found.left_received) / found.left_unread


def _evidence(found: Findings, reported: Reported | None) -> list[str]:
    lines = []
    if found.plan is not None and found.limit is not None:
        planned = found.plan
        lines.append(
            f"{found.blocks} blocks of four trials, each of {planned.streams} streams: complete after "
            f"{planned.short_tokens:,} tokens, complete after {planned.long_tokens:,}, and aborted or paused at "
            f"{planned.short_tokens:,} of {planned.long_tokens:,}. The order in a block was random."
        )
        lines += _of_arm("Aborted", found.abort, planned.rest_tokens, planned.long_tokens - planned.short_tokens, found)
        lines += _of_arm("Paused", found.pause, planned.rest_tokens, planned.long_tokens - planned.short_tokens, found)
    if found.told is not None:
        lines.append(f"Streams of known length showed in the headers with {found.told:.0%} of their tokens.")
    if found.refill_seen is not None and found.limit is not None:
        lines.append(
            f"Between trials the limit refilled by {found.refill_seen:,.0f} tokens/s; undisturbed it would be "
            f"{found.limit / 60:,.0f}. The difference, less rounding, is other traffic."
        )
    if found.charged_in_advance is not None:
        how = "in advance, by max_tokens" if found.charged_in_advance else "as they are generated"
        lines.append(f"The headers charge tokens {how}.")
    if reported is not None:
        rest = rest_by_report(found, reported)
        lines.append(
            f"The usage report has {reported.output_tokens:,} output tokens from {reported.began_at} to "
            f"{reported.ended_at}, everyone's. Finished answers account for {found.known_tokens:,}, text received before "
            f"aborts for {found.left_received:,.0f}; {found.left_unread:,.0f} were never read."
            + ("" if rest is None else f" If nobody else used the model, {rest:.0%} of those are in the report.")
        )
    lines.append(f"Spent: at most ${found.worst_usd:.4f} at the table's prices, of a cap of ${found.cap_usd:g}.")
    return lines


def _of_arm(name: str, one: Share, rest: int, rest_a_stream: int, found: Findings) -> list[str]:
    if not math.isfinite(one.low):
        return [f"{name} streams: the data bound nothing yet."]
    text = (
        f"{name} streams: of the {rest:,} tokens a trial that nobody read, {one.estimate:.0%} were drawn from the limit "
        f"({1 - ALPHA:.0%} interval {one.low:.0%} to {one.high:.0%})"
    )
    if found.pace is None:
        return [f"{text}."]
    low, high = (max(0.0, share * rest_a_stream / found.pace.tokens_per_s) for share in (one.low, one.high))
    return [f"{text}: {low:.1f} to {high:.1f} s of a stream's generation."]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
