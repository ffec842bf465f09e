"""`POST /v1/tokens`: a short-lived browser token, for whoever has a caller's key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from ...access.audit import as_time
from ...access.guard import Guard
from ...access.key_ring import KeyRing
from ...access.narrowing import parse_wanted
from ...errors import BadRequest, Forbidden
from ..entrance.way_in import BODY, CALLER, Body, Route
from ..http.operation import Answer, Operation

# Signs a token: the caller's name, its key's id, the claims, the keys with their pepper, and the time.
Sign = Callable[[str, str, Mapping[str, Any], KeyRing, float], str]


_TOLD = Operation(
    "Make a short-lived browser token",
    "For whoever has a caller's key. `ttl_s`, at most 900; `sub`, the user whom it stands for; `models` and `max_tokens` narrow "
    "what the caller may, `streams` is how many that user may have at once, `budget_usd` what all that is asked for with this "
    "token may cost.",
    {200: Answer("The token, and until when it is taken")},
    errors=(BadRequest, Forbidden),
)


@dataclass(frozen=True, slots=True)
class TokenApi:
    """What the handler works with.

    Attributes:
        guard: knows the keys.
        sign: signs a token; None where there is no callers file, so that nobody takes tokens.
    """

    guard: Guard
    sign: Sign | None

    def routes(self) -> list[Route]:
        """The path of tokens."""
        return [Route("POST", "/v1/tokens", self.make, body=Body.CONTROL, told=_TOLD)]

    async def make(self, request: web.Request) -> web.Response:
        """`POST /v1/tokens`: a token that narrows the caller as the body says.

        Raises:
            Forbidden: no tokens are taken here, or it was asked for with one. BadRequest: names the field and its bound.
        """
        caller, now = request[CALLER], time.time()
        if self.sign is None:
            raise Forbidden("browser tokens need callers_file: nobody here would take one")
        if caller.token is not None:
            raise Forbidden("a browser token makes no other one: that takes the caller's key")
        wanted = parse_wanted(request[BODY], caller)
        key_id = self.guard.key_id_of(request.headers)
        expires_at = int(now) + wanted.ttl_s
        claims: dict[str, Any] = {"exp": expires_at, "slw": msgspec.to_builtins(wanted.narrowing)}
        if wanted.sub is not None:
            claims["sub"] = wanted.sub
        token = self.sign(caller.name, key_id, claims, self.guard.known.ring, now)
        return web.json_response({"token": token, "expires_at": as_time(expires_at), "expires_in_s": wanted.ttl_s})
