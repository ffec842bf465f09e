"""Who the service is to Claude: where that is, and the key or the tokens that are asked with.

A key from the environment goes up as the SDK would send it, and a test holds the two against each other: importing the SDK
takes longer than all else before the first stream, and half of the process's memory (measured: 2.0 of 2.4 s, 44 of 87
MB). Tokens that are fetched and renewed, by a profile or a workload identity, are the SDK's own work.

What `ANTHROPIC_CUSTOM_HEADERS` says goes up with every request, over the service's own words: an `anthropic-version` or a
`user-agent` there wins where the service asks in its own. Over a client's on the Messages API it does not: whoever wrote the
request knows which version it was written for. `accept`, `accept-encoding` and `content-type` are each request's own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx2

log = logging.getLogger(__name__)

BASE_URL = "https://api.anthropic.com"
# The version of the Messages API whose words the service uses where it asks in its own; clients send theirs.
API_VERSION = "2026-10-21"
# Said of each request and its answer, which the SDK does not make.
_OF_ONE_REQUEST = ("accept", "content-type")
# What the SDK says of itself, beside that. It is left out, because the request is not the SDK's.
_SDKS_OWN = (*_OF_ONE_REQUEST, "user-agent", "anthropic-version", "x-stainless-")
# Where the SDK finds tokens, unless a key is there.
_TOKENS = ("ANTHROPIC_PROFILE", "ANTHROPIC_CONFIG_DIR", "ANTHROPIC_FEDERATION_RULE_ID")


class IdentityError(ValueError):
    """The environment names a profile or an identity that cannot be used; the message says why."""


class NoToken(httpx2.RequestError):
    """There is no token to ask Claude with: it could not be fetched or renewed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        base_url: where Claude is.
        headers: of every request, by lower-case names: a key that stays the same, and what else the environment adds.
        auth: adds a token that is fetched and renewed; None where there is none.
        keys: what must not be told to anyone.
        close: ends what renews tokens.
    """

    base_url: httpx2.URL
    headers: Mapping[str, str] = field(repr=False)
    auth: httpx2.Auth | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    close: Callable[[], Awaitable[None]] | None = None

    @property
    def known(self) -> bool:
        """Whether there is anything to ask with; without, Claude refuses every request."""
        shown = self.headers.get("authorization") or self.headers.get("x-api-key")
        return bool(self.keys) or self.auth is not None or bool(shown)

    @classmethod
    def of(cls, api_key: str | None, base_url: str | None, http: httpx2.AsyncClient) -> Identity:
        """The identity by a key, or the one that the environment has.

        Args:
            api_key: None for `ANTHROPIC_API_KEY`, then `ANTHROPIC_AUTH_TOKEN`, then what the SDK finds.
            base_url: None for `ANTHROPIC_BASE_URL`, then the profile's, then Claude's own.
            http: carries what the SDK sends.

        Raises:
            IdentityError: a profile or an identity is named that cannot be used.
        """
        key = api_key or os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN")
        if not key:
            return _found_by_sdk(base_url, http)
        if not api_key and os.environ.get("ANTHROPIC_API_KEY") and os.environ.get("ANTHROPIC_AUTH_TOKEN"):
            log.warning("ANTHROPIC_API_KEY and ANTHROPIC_AUTH_TOKEN are both set: the first is used")
        if shadowed := [name for name in _TOKENS if os.environ.get(name)]:
            log.warning("%s: not used, because a key is set", ", ".join(shadowed))
        headers = {"authorization": f"Bearer {key}"} | _custom_headers()
        return cls(httpx2.URL(base_url or os.environ.get("ANTHROPIC_BASE_URL") or BASE_URL), headers, keys=(key,))


def _custom_headers() -> dict[str, str]:
    lines = (line.partition(":") for line in os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n"))
    said = {name.strip().lower(): value.strip() for name, colon, value in lines if colon}
    return _without(_OF_ONE_REQUEST, said)


def _without(prefixes: tuple[str, ...], headers: Mapping[str, object]) -> dict[str, str]:
    pairs = ((name.lower(), value) for name, value in headers.items() if isinstance(value, str))
    return {name: value for name, value in pairs if not name.startswith(prefixes)}


def _found_by_sdk(base_url: str | None, http: httpx2.AsyncClient) -> Identity:
    import anthropic

    try:
        sdk = anthropic.AsyncAnthropic(base_url=base_url, http_client=http, max_retries=0)
    except anthropic.AnthropicError as error:
        raise IdentityError(str(error)) from error
    headers = _without(_SDKS_OWN, sdk.default_headers) | _custom_headers()
    auth = None if sdk.custom_auth is None else _Tokens(sdk.custom_auth, anthropic.AnthropicError)
    return Identity(sdk.base_url, headers, auth, close=sdk.close)


class _Tokens(httpx2.Auth):
    """The SDK's tokens, with its failures as one of HTTP."""

    def __init__(self, auth: httpx2.Auth, failure: type[Exception]) -> None:
        self._auth = auth
        self._failure = failure

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        flow = self._auth.async_auth_flow(request)
        try:
            asked = await anext(flow)
            while True:
                answer = yield asked
                asked = await flow.asend(answer)
        except StopAsyncIteration:
            return
        except self._failure as error:
            # The SDK's words say what an operator can mend, and have the tokens taken out.
            log.warning("no token to ask Claude with: %.500s", ascii(str(error)))
            raise NoToken(type(error).__name__) from error
        finally:
            await flow.aclose()
