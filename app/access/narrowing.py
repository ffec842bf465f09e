"""How a browser token narrows what its caller may. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
from msgspec import Meta

from ..errors import BadRequest
from .callers import Caller

# The longest life of a token, in seconds: so long is a stolen one worth something.
LONGEST_S = 900
# What a token gets that nobody asked for another one: an answer or two, then the page asks anew.
_USUAL_S = 300

Pattern = Annotated[str, Meta(min_length=1, max_length=200)]
Streams = Annotated[int, Meta(ge=1, le=1_000_000)]
Usd = Annotated[float, Meta(gt=0, le=100_000_000)]
Subject = Annotated[str, Meta(min_length=1, max_length=200)]


class Narrowing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token's bearer may at most; what it leaves out is as the caller has it."""

    models: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=20)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    streams: Streams | None = None
    budget_usd: Usd | None = None


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that is asked for: for how many seconds, for whom, and how narrow."""

    ttl_s: Annotated[int, Meta(ge=1, le=LONGEST_S)] = _USUAL_S
    sub: Subject | None = None
    models: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=20)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    streams: Streams | None = None
    budget_usd: Usd | None = None

    @property
    def narrowing(self) -> Narrowing:
        """The part that narrows."""
        return Narrowing(self.models, self.max_tokens, self.streams, self.budget_usd)


_wanted = msgspec.json.Decoder(Wanted).decode


def parse_wanted(body: bytes, caller: Caller) -> Wanted:
    """Reads what a caller wants of a token.

    Args:
        body: JSON; empty for what is usual.
        caller: who asks, whose bounds the token's may only narrow.

    Raises:
        BadRequest: names the field and its bound.
    """
    try:
        wanted = _wanted(body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        told = str(error) if isinstance(error, msgspec.MsgspecError) else "it is no JSON"
        raise BadRequest(f"the body is not what a token is asked for with: {told[:300]}") from None
    for name in ("max_tokens", "streams"):
        asked, most = getattr(wanted, name), getattr(caller, name)
        if asked is not None and most is not None and asked > most:
            raise BadRequest(f"{name} must be at most {most}, as caller {caller.name} has it", field=name)
    for model in wanted.models or ():
        # A pattern that one of the caller's own matches as if it were a name is narrower than that one.
        if caller.models is not None and not any(fnmatchcase(model, pattern) for pattern in caller.models):
            may = ", ".join(caller.models)
            raise BadRequest(
                f"models: {model[:80]!r} is none of caller {caller.name}'s, which are {may}", field="models"
            )
    return wanted
