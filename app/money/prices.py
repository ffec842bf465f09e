"""What Claude costs: a table read from TOML. Pure but for `load_prices`, which reads files.

Every price carries its source and date. What the table does not state (a model, a tier of service, a speed) has no
price: nothing here guesses one. `bill.py` adds an answer up.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..answer.usage import count

TokenType = Literal["input", "output", "cache_read", "cache_write_5m", "cache_write_1h"]
TOKEN_TYPES: tuple[TokenType, ...] = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
SpendingType = Literal[TokenType, "fee"]
SPENDING_TYPES: tuple[SpendingType, ...] = (*TOKEN_TYPES, "fee")
Bills = Literal["until_abort", "whole_answer"]

# The table that comes with the package; a file of the operator's may win over it.
SHIPPED = Path(__file__).with_name("prices.toml")
_DATED = re.compile(r"-20\d{6}$")
_MTOK = 1_000_000
_WORD_CHARS = 60  # of an upstream's own word, the most that is told


# What of a usage chooses a modifier.
ModifierField = Literal["inference_geo", "speed", "service_tier"]
MODIFIER_FIELDS: tuple[ModifierField, ...] = ("inference_geo", "speed", "service_tier")


def _check(price: float | None) -> None:
    if price is not None and not 0 <= price < math.inf:  # TOML knows nan, too
        raise ValueError("a price is a number, and not negative")


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the price file; an unknown key is an error, so that a misspelt price is not silently zero."""


class Rate(_Record, frozen=True):
    """Prices in US dollars per million tokens, by type."""

    input: float
    output: float
    cache_read: float
    cache_write_5m: float
    cache_write_1h: float

    def __post_init__(self) -> None:
        for kind in TOKEN_TYPES:
            _check(getattr(self, kind))

    def times(self, factor: float) -> Rate:
        """The same prices multiplied by `factor`."""
        return Rate(**{kind: getattr(self, kind) * factor for kind in TOKEN_TYPES})

    @property
    def output_usd_per_token(self) -> float:
        return self.output / _MTOK

    def cost(self, usage: Mapping[str, Any], output_tokens: float) -> Cost:
        """The cost of one answer.

        Args:
            usage: the Messages API's usage, cumulative; its own `output_tokens` is not looked at.
            output_tokens: tokens generated, exact or estimated.
        """
        tokens = input_tokens_by_type(usage)
        return Cost(
            input=tokens["input"] * self.input / _MTOK,
            output=output_tokens * self.output / _MTOK,
            cache_read=tokens["cache_read"] * self.cache_read / _MTOK,
            cache_write_5m=tokens["cache_write_5m"] * self.cache_write_5m / _MTOK,
            cache_write_1h=tokens["cache_write_1h"] * self.cache_write_1h / _MTOK,
        )


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars, by type of token; `fee` is what is paid by use, such as for web searches."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write_5m: float = 0.0
    cache_write_1h: float = 0.0
    fee: float = 0.0

    @property
    def total(self) -> float:
        return sum(usd for _, usd in self.items())

    def items(self) -> Iterable[tuple[SpendingType, float]]:
        """Each type with its dollars, in the order of `SPENDING_TYPES`."""
        return [(kind, getattr(self, kind)) for kind in SPENDING_TYPES]

    def plus(self, other: Cost) -> Cost:
        """Both together, type by type."""
        return Cost(**{kind: usd + getattr(other, kind) for kind, usd in self.items()})


NO_COST = Cost()


class Tier(_Record, frozen=True):
    """Prices for every token of a request whose prompt is longer than `above_prompt_tokens`."""

    above_prompt_tokens: int
    usd_per_mtok: Rate
    source: str
    date: datetime.date


class ModelPrice(_Record, frozen=True):
    """The prices of one model under all its ids.

    Attributes:
        doubtful: the source is weak or contradicted; used all the same, and said.
        tiers: dearer or cheaper bands by length of the prompt, shortest first.
    """

    ids: tuple[str, ...]
    usd_per_mtok: Rate
    source: str
    date: datetime.date
    doubtful: bool = False
    note: str = ""
    tiers: tuple[Tier, ...] = ()

    def __post_init__(self) -> None:
        bounds = [tier.above_prompt_tokens for tier in self.tiers]
        if not self.ids or bounds != sorted(set(bounds)):
            raise ValueError("a model needs an id, and its tiers in rising order")


class Modifier(_Record, frozen=True):
    """A factor on all prices of tokens when the usage's `field` has this value.

    A value that no modifier states for a model leaves its answer without a price.

    Attributes:
        models: the ids it holds for; empty means all.
    """

    field: ModifierField
    value: str
    factor: float
    source: str
    date: datetime.date
    models: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _check(self.factor)


class Fee(_Record, frozen=True):
    """What is paid for each use of a server's tool, beside the tokens.

    Attributes:
        use: the count in the usage's `server_tool_use`.
        usd_each: dollars for one; left out where the price does not go by uses, so that a usage does not tell it.
    """

    use: str
    source: str
    date: datetime.date
    usd_each: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        _check(self.usd_each)


class Upstream(_Record, frozen=True):
    """How a provider bills an answer that is aborted."""

    bills: Bills
    source: str
    date: datetime.date
    note: str = ""


class PriceFile(_Record, frozen=True):
    """The whole of a price file, as written."""

    model: tuple[ModelPrice, ...] = ()
    modifier: tuple[Modifier, ...] = ()
    fee: tuple[Fee, ...] = ()
    upstream: dict[str, Upstream] = {}


def input_tokens_by_type(usage: Mapping[str, Any]) -> dict[TokenType, int]:
    """Splits the input side of a usage into types.

    `input_tokens` excludes both kinds of cached tokens (Messages API, usage). Writes without a time to live, or beyond
    what `cache_creation` breaks down, are taken for the five-minute kind, which is the API's default.
    """
    split = usage.get("cache_creation")
    split = split if isinstance(split, dict) else {}
    five, hour = (count(split.get(f"ephemeral_{ttl}_input_tokens")) or 0 for ttl in ("5m", "1h"))
    written = count(usage.get("cache_creation_input_tokens")) or five + hour
    hour = min(hour, written)
    return {
        "input": count(usage.get("input_tokens")) or 0,
        "cache_read": count(usage.get("cache_read_input_tokens")) or 0,
        "cache_write_5m": written - hour,
        "cache_write_1h": hour,
    }


def prompt_tokens(usage: Mapping[str, Any]) -> int:
    """The length of the prompt that chooses a tier: input, cache reads and cache writes together."""
    return sum(input_tokens_by_type(usage).values())


def undated(model: str) -> str:
    """The model's id without its snapshot date: `claude-haiku-4-5-20251001` is `claude-haiku-4-5`."""
    return _DATED.sub("", model)


class Prices:
    """A price table, ready to be asked; whoever holds it asks it anew each time, since it may be replaced.

    Args:
        files: parsed price files; a later one replaces models, fees and upstreams of an earlier one by name, and
            modifiers by field and value.
    """

    def __init__(self, *files: PriceFile) -> None:
        self._models: dict[str, ModelPrice] = {}
        self._modifiers: dict[tuple[ModifierField, str], list[Modifier]] = {}
        self._upstreams: dict[str, Upstream] = {}
        self.fees: dict[str, Fee] = {}  # by use
        for file in files:
            self._models |= {name: price for price in file.model for name in price.ids}
            keys = dict.fromkeys((modifier.field, modifier.value) for modifier in file.modifier)
            self._modifiers |= {key: [m for m in file.modifier if (m.field, m.value) == key] for key in keys}
            self._upstreams |= file.upstream
            self.fees |= {fee.use: fee for fee in file.fee}

    def replace(self, newer: Prices) -> None:
        """Becomes another table, all at once."""
        self._models, self._modifiers, self._upstreams = newer._models, newer._modifiers, newer._upstreams
        self.fees = newer.fees

    @property
    def models(self) -> Mapping[str, ModelPrice]:
        """Every id with its prices."""
        return self._models

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Every provider by name."""
        return self._upstreams

    def find(self, model: str) -> ModelPrice | None:
        """The model's prices by its id, or by its id without the date; None if it is unknown."""
        return self._models.get(model) or self._models.get(undated(model))

    def rate(self, model: str, usage: Mapping[str, Any]) -> Rate | None:
        """The prices of this one request, tier and modifiers applied; None where the table does not state them.

        Args:
            usage: the Messages API's usage; `inference_geo`, `speed` and `service_tier` in it choose modifiers. An
                empty one (nothing came) gives the tier of the shortest prompts.
        """
        price = self.find(model)
        if price is None or self.unstated(model, usage):
            return None
        rate, length = price.usd_per_mtok, prompt_tokens(usage)
        for tier in price.tiers:
            if length > tier.above_prompt_tokens:
                rate = tier.usd_per_mtok
        for modifier in self._modifiers_of(model, usage).values():
            rate = rate if modifier is None or modifier.factor == 1 else rate.times(modifier.factor)
        return rate

    def unstated(self, model: str, usage: Mapping[str, Any]) -> str | None:
        """What of this usage has no price for this model, in words; None if all has."""
        if self.find(model) is None:
            return f"the model {model[:_WORD_CHARS]!r}"
        for (field, value), modifier in self._modifiers_of(model, usage).items():
            if modifier is None:
                return f"{field} {value[:_WORD_CHARS]!r} of {model[:_WORD_CHARS]!r}"
        return None

    def _modifiers_of(self, model: str, usage: Mapping[str, Any]) -> dict[tuple[str, str], Modifier | None]:
        """The modifiers that a usage chooses, each the first stated for this model; None where none is."""
        chosen: dict[tuple[str, str], Modifier | None] = {}
        for field in MODIFIER_FIELDS:
            if (value := usage.get(field)) and isinstance(value, str):
                stated = self._modifiers.get((field, value), ())
                chosen[field, value] = next((m for m in stated if not m.models or undated(model) in m.models), None)
        return chosen

    def bills(self, upstream: str) -> Bills:
        """Whether the upstream bills until the abort or the whole answer; an unknown one the whole, so that no saving
        is claimed that nobody has stated."""
        known = self._upstreams.get(upstream)
        return known.bills if known is not None else "whole_answer"


def load_prices(*paths: Path) -> Prices:
    """Reads price files, later ones overriding earlier ones.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not TOML, or not a price table (the message names the key).
    """
    files = []
    for path in paths:
        try:
            files.append(msgspec.toml.decode(path.read_text("utf-8-sig"), type=PriceFile))
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(f"{path.name}: {error}") from error
    return Prices(*files)
