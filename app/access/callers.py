"""Who may do what: the callers file, read. Pure: whoever reads the file and judges its rights is `callers_file.py`.

    [limits]               all callers together
    [default]              what a caller's own table does not say
    [callers.acme]         a caller; its name is what streams, budgets, logs and metrics know it by
    [issuers."https://…"]  who may make browser tokens, see `issuers.py`

A caller is a name, not a key: keys come and go, its streams and what it spent stay. What a table leaves out is unbounded,
but for two: `drain`, which lets a caller spend without reading, is only where it is named, and requests that are not
booked pass only where there is no budget that they would go around.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from .issuers import Issuer, IssuerTable

# A name goes into metrics, logs and file names, so it holds nothing that means something there.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Callers are looked at one after another nowhere, but the file is read at once: 10,000 tables take some 0.3 s.
_MOST_CALLERS = 10_000
_MOST_ISSUERS = 100
_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much, for one caller or for all together; None where there is no bound.

    Attributes:
        streams: at once, those that wait for a lost reader too.
        requests_per_minute: let in.
        output_tokens_per_minute: generated.
        budget_nano_usd_per_day, budget_nano_usd_per_month: spent, in billionths of a dollar; days and months are UTC's.
    """

    streams: int | None = None
    requests_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    budget_nano_usd_per_day: int | None = None
    budget_nano_usd_per_month: int | None = None

    @property
    def has_budget(self) -> bool:
        """Whether what is spent is bounded."""
        return self.budget_nano_usd_per_day is not None or self.budget_nano_usd_per_month is not None


@dataclass(frozen=True, slots=True)
class Token:
    """The browser token that a request came with, where it came with one.

    Attributes:
        token_id: tells it from others, and gives nothing away.
        subject: whom it stands for: tokens of the same subject have the same streams.
        models: patterns of the models that it may ask, beside the caller's own; None for all of those.
        streams: that its subject may have at once, of those asked for with such tokens; None for no such bound.
        budget_nano_usd: what all that is asked for with it may cost; None for no such bound.
        budget_id: by which that is counted; begins with the day on which it expires.
        expires_at: seconds since 1970.
        expired: only the running streams that it began itself are still its own.
    """

    token_id: str
    subject: str
    models: tuple[str, ...] | None = None
    streams: int | None = None
    budget_nano_usd: int | None = None
    budget_id: str = ""
    expires_at: float = 0.0
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Caller(Limits):
    """Who asks, and what that caller may.

    Attributes:
        name: by which its streams and what it spent are known; gives no key away; empty where nobody is known.
        models: patterns of the models that it may ask (`fnmatch`); None for every model.
        max_tokens: the most output tokens of one answer; None for the service's own bound alone.
        policies: what it may choose to happen when its reader is lost; `abort` is always there.
        grace_max_s: the longest grace that it may ask, in seconds; None for the service's own bound alone.
        upstream_passthrough: it may use Claude's other paths, which are not booked.
        budget_closes: it may not only because there is a budget; what costs nothing is open to it.
        token: the browser token that it came with; None where it came with a key.
    """

    name: str = ""
    models: tuple[str, ...] | None = None
    max_tokens: int | None = None
    policies: frozenset[str] = frozenset({"abort", "grace", "drain"})
    grace_max_s: float | None = None
    upstream_passthrough: bool = True
    budget_closes: bool = False
    token: Token | None = None

    @property
    def subject_streams(self) -> tuple[str, int] | None:
        """A name for whom its token stands for, which no caller has, and how many streams that one may have at once."""
        if self.token is None or self.token.streams is None:
            return None
        return f"{self.name}\n{self.token.subject}", self.token.streams

    @property
    def model_lists(self) -> list[tuple[str, ...]]:
        """Lists of patterns: a model must be in each of them."""
        of_token = self.token.models if self.token is not None else None
        return [patterns for patterns in (self.models, of_token) if patterns is not None]


@dataclass(frozen=True, slots=True)
class Roster:
    """The callers file.

    Attributes:
        callers: by name.
        default: what a caller without a table may, such as one of `api_keys`; it has no name.
        limits: of all callers together.
        issuers: of browser tokens, by name.
    """

    callers: Mapping[str, Caller] = field(default_factory=dict)
    default: Caller = Caller()
    limits: Limits = Limits()
    issuers: Mapping[str, Issuer] = field(default_factory=dict)

    @property
    def tables(self) -> frozenset[str]:
        """The tables that bound anyone, as a file has them."""
        bounds = (("[limits]", self.limits != Limits()), ("[default]", _has_default(self)))
        return frozenset([table for table, there in bounds if there] + [_table_of(name) for name in self.callers])

    def caller(self, name: str) -> Caller:
        """The caller of this name: as its table says, or as the default does."""
        return self.callers.get(name) or replace(self.default, name=name)


def is_name(name: str) -> bool:
    """Whether a caller may be called so."""
    return _NAME.fullmatch(name) is not None


def parse_callers(text: str) -> Roster:
    """Reads a callers file.

    Args:
        text: TOML.

    Raises:
        ValueError: names the table, the field and its bound. RecursionError: it is nested without end.
    """
    document = tomllib.loads(text, parse_float=Decimal)
    _check_names("", document, _TABLES)
    limits = _checked(_Limits, "[limits]", _table(document, "limits")).limits()
    default = _table(document, "default")
    told = _checked(_Caller, "[default]", default)
    tables = _table(document, "callers")
    if len(tables) > _MOST_CALLERS:
        raise ValueError(f"[callers]: it has {len(tables)} tables, and at most {_MOST_CALLERS} can be")
    callers = {}
    for name in tables:
        if not is_name(name):
            raise ValueError(
                f"[callers.{name[:80]!r}]: a caller's name has 1 to 64 letters, digits, dots, dashes or underscores of "
                "ASCII, and begins with a letter or a digit"
            )
        own = _table(tables, name, f"callers.{name}")
        callers[name] = _checked(_Caller, f"[callers.{name}]", default | own).caller(name, limits)
    return Roster(callers, told.caller("", limits), limits, _issuers(_table(document, "issuers"), callers))


_TABLES = ("limits", "default", "callers", "issuers")


def lost_tables(before: Set[str], after: Set[str], names: Collection[str]) -> list[str]:
    """The tables that a file no longer has, and that bounded callers who may still call: a file cut short looks so. Pure.

    Beside a file without any caller, this is not asked of callers whose keys were made for them: without a table, those
    keys are refused.

    Args:
        before: `Roster.tables` of the file as it was taken last.
        after: as it is now.
        names: of the callers that have keys of `api_keys`, who may call without a table.
    """
    gone = before - after
    lost = [table for name in names if (table := _table_of(name)) in gone]
    if not lost and not any(table.startswith(_CALLER) for table in after):
        lost = ["[callers]"] if any(table.startswith(_CALLER) for table in gone) else []
    return [*lost, *(table for table in ("[limits]", "[default]") if table in gone)]


_CALLER = "[callers."


def _table_of(name: str) -> str:
    return f"{_CALLER}{name}]"


def _has_default(roster: Roster) -> bool:
    return roster.default not in (_Caller().caller("", roster.limits), Caller())


def _issuers(tables: Mapping[str, Any], callers: Mapping[str, Caller]) -> dict[str, Issuer]:
    if len(tables) > _MOST_ISSUERS:
        raise ValueError(f"[issuers]: it has {len(tables)} tables, and at most {_MOST_ISSUERS} can be")
    found = {}
    for name in tables:
        told = f'[issuers."{name[:80]}"]'
        table = _checked(IssuerTable, told, _table(tables, name, told[1:-1]))
        try:
            if not 1 <= len(name) <= 200 or name == "sluiceway":
                raise ValueError("an issuer's name has 1 to 200 characters, and is not sluiceway, which signs its own")
            found[name] = table.issuer(name, callers)
        except ValueError as error:
            raise ValueError(f"{told} {error}") from None
    return found


def _as_decimal(value: object) -> Decimal:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return Decimal(value)
    raise PydanticCustomError("number", "it must be a number, such as 5 or 0.25, without quotes")


Usd = Annotated[Decimal, BeforeValidator(_as_decimal), Field(ge=0, le=100_000_000, decimal_places=9)]
Seconds = Annotated[Decimal, BeforeValidator(_as_decimal), Field(gt=0, le=3600)]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]


class _Limits(BaseModel):
    """A table as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    streams: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    output_tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    budget_usd_per_day: Usd | None = None
    budget_usd_per_month: Usd | None = None

    def limits(self) -> Limits:
        """What it stands for."""
        return Limits(
            self.streams,
            self.requests_per_minute,
            self.output_tokens_per_minute,
            _nano(self.budget_usd_per_day),
            _nano(self.budget_usd_per_month),
        )


class _Caller(_Limits):
    models: Annotated[list[Pattern], Field(min_length=1, max_length=100)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    policies: Annotated[list[Literal["abort", "grace", "drain"]], Field(min_length=1)] = ["abort", "grace"]
    grace_max_s: Seconds | None = None
    upstream_passthrough: bool | None = None

    def caller(self, name: str, of_all: Limits) -> Caller:
        """What it stands for, beside what bounds all callers together."""
        own = self.limits()
        closes = self.upstream_passthrough is None and (own.has_budget or of_all.has_budget)
        return Caller(
            **{bound.name: getattr(own, bound.name) for bound in fields(Limits)},
            name=name,
            models=tuple(self.models) if self.models is not None else None,
            max_tokens=self.max_tokens,
            policies=frozenset(self.policies) | {"abort"},
            grace_max_s=float(self.grace_max_s) if self.grace_max_s is not None else None,
            upstream_passthrough=self.upstream_passthrough is not False and not closes,
            budget_closes=closes,
        )


def _nano(usd: Decimal | None) -> int | None:
    return int(usd * _NANO) if usd is not None else None


_Table = TypeVar("_Table", bound=BaseModel)


def _checked(kind: type[_Table], told: str, table: dict[str, Any]) -> _Table:
    _check_names(f"{told} ", table, kind.model_fields)
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        # The message alone: a value may be a key that was put into the wrong place.
        raise ValueError(
            "; ".join(f"{told} {_place(problem)}: {problem['msg']}" for problem in error.errors())
        ) from None


def _place(problem: Any) -> str:
    """The field at fault; of a list its place too, but not which member of a union refused it."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else part
        for part in problem["loc"]
        if part == problem["loc"][0] or isinstance(part, int)
    )


def _check_names(told: str, table: Mapping[str, Any], known: Any) -> None:
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            raise ValueError(f"{told}unknown field {name[:80]!r}{hint}")


def _table(document: Mapping[str, Any], name: str, told: str = "") -> dict[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"[{told or name}]: it must be a table")
    return table
