"""What one answer's usage comes to, as Claude bills it. Pure.

The rules (Messages API: pricing, refusals and fallback, compaction, the advisor tool; the SDK's `beta_*_iteration_usage`):

1. The top level of a usage is the sum of its iterations of type `message`, or what the `fallback_message` among them
   took; it is priced by the model that served. What a model took that declined is not in it, and is not added.
2. `compaction` and `advisor_message` iterations are not in it and are billed on top, an advisor's at its own model's
   price. An iteration without a model is the served model's.
3. Server tools' uses are paid by the use, whatever the tier of service.
4. A refusal before any output is not billed.

A tier by length of the prompt is chosen for the top level and for each iteration on top by its own prompt. What has no
price is counted in tokens and named; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..answer.usage import count
from .prices import MODIFIER_FIELDS, NO_COST, Cost, Prices, prompt_tokens

_WITHIN = ("message", "fallback_message")
_ON_TOP = ("compaction", "advisor_message")
_WORD_CHARS = 60


@dataclass(frozen=True, slots=True)
class Bill:
    """What a usage comes to, but for the answer's own output, whose tokens may be an estimate.

    Attributes:
        priced: the table states the price of the answer's own tokens.
        cost: US dollars; its `output` is that of iterations on top.
        output_usd_per_token: of the answer's own output.
        unpriced_tokens: tokens that have no price, without the answer's own output.
        unpriced: what has no price, in words.
    """

    priced: bool
    cost: Cost = NO_COST
    output_usd_per_token: float = 0.0
    unpriced_tokens: int = 0
    unpriced: tuple[str, ...] = ()


def bill(prices: Prices, model: str, usage: Mapping[str, Any], *, refused: bool = False) -> Bill:
    """Adds up a usage.

    Args:
        prices: the table.
        model: the one that wrote the answer.
        usage: the Messages API's, cleansed.
        refused: it is of a refusal before any output.
    """
    rate = prices.rate(model, usage)
    own = {} if refused else usage
    cost = NO_COST if rate is None else rate.cost(own, 0)
    tokens = prompt_tokens(own) if rate is None else 0
    unpriced = [what] if (what := prices.unstated(model, usage)) else []
    for name, iteration in _on_top(usage, model):
        its_rate = prices.rate(name, iteration) if name is not None else None
        output = count(iteration.get("output_tokens")) or 0
        if its_rate is not None:
            cost = cost.plus(its_rate.cost(iteration, output))
        elif all_tokens := prompt_tokens(iteration) + output:
            tokens += all_tokens
            unpriced.append((name and prices.unstated(name, iteration)) or _kind(iteration))
    fee, without = _fees(prices, usage)
    return Bill(
        priced=rate is not None,
        cost=cost.plus(Cost(fee=fee)) if fee else cost,
        output_usd_per_token=0.0 if rate is None else rate.output_usd_per_token,
        unpriced_tokens=tokens,
        unpriced=tuple(dict.fromkeys(unpriced + without)),
    )


def cost_usd(prices: Prices, model: str, usage: Mapping[str, Any]) -> float | None:
    """What a finished answer has cost, in US dollars; None where its own tokens have no price."""
    whole = bill(prices, model, usage)
    output = count(usage.get("output_tokens")) or 0
    return whole.cost.total + output * whole.output_usd_per_token if whole.priced else None


def _on_top(usage: Mapping[str, Any], served: str) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """The iterations that the top level does not hold, each with whose price it has; None for an unknown kind."""
    for entry in usage.get("iterations") or ():
        kind = entry.get("type")
        if kind in _WITHIN:
            continue
        model = entry.get("model") or served
        # The request's terms hold for all its parts, except for the speed, which only the asked model has.
        terms = {
            name: usage[name] for name in MODIFIER_FIELDS if usage.get(name) and (name != "speed" or model == served)
        }
        yield (model if kind in _ON_TOP else None), terms | {k: v for k, v in entry.items() if v is not None}


def _kind(iteration: Mapping[str, Any]) -> str:
    kind = iteration.get("type")
    return f"an iteration of type {kind[:_WORD_CHARS]!r}" if kind else "an iteration without a type"


def _fees(prices: Prices, usage: Mapping[str, Any]) -> tuple[float, list[str]]:
    """The fees for uses of server tools, and the uses that have none stated."""
    fee, without = 0.0, list[str]()
    for use, value in (usage.get("server_tool_use") or {}).items():
        uses = count(value)
        if not uses:
            continue
        stated = prices.fees.get(use)
        if stated is None or stated.usd_each is None:
            without.append(f"server_tool_use.{use[:_WORD_CHARS]}")
        else:
            fee += uses * stated.usd_each
    return fee, without
