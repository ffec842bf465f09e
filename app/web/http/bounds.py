"""What a caller may ask, held against what it asks; the same for every protocol. Pure.

What is out of a caller's bounds is refused by the name of the field and of the bound, and nothing of it is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from msgspec import Raw

from ...access.callers import Caller
from ...errors import BadRequest, Forbidden
from ...settings.sections import Defaults
from ...streams.terms import Policy

# Claude's paths to which a POST brings something and asks nothing of a model.
_BRINGING = ("/v1/files", "/v1/skills")
# What may be read there for nothing.
_FREE = ("/v1/models",)


class _Named(msgspec.Struct):
    model: Raw = Raw(b"null")
    max_tokens: Raw = Raw(b"null")


_named = msgspec.json.Decoder(list[_Named]).decode


def within(defaults: Defaults, caller: Caller) -> Defaults:
    """The defaults and the bounds of a request, as this caller has them."""
    most, longest_s = caller.max_tokens, caller.grace_max_s
    if most is not None:
        least = min(most, defaults.max_tokens_limit)
        defaults = replace(defaults, max_tokens=min(defaults.max_tokens, least), max_tokens_limit=least)
    if longest_s is not None:
        shorter_s = min(longest_s, max(defaults.grace_s, defaults.grace_max_s))
        defaults = replace(defaults, grace_s=min(defaults.grace_s, shorter_s), grace_max_s=shorter_s)
    if defaults.policy not in caller.policies:
        defaults = replace(defaults, policy="abort")
    return defaults


def check_policy(caller: Caller, policy: Policy) -> None:
    """Raises Forbidden: the caller may not choose it."""
    if policy.value not in caller.policies:
        may = ", ".join(sorted(caller.policies))
        raise Forbidden(
            f"policy: caller {caller.name} may not ask for {policy.value}; its policies are {may}", field="policy"
        )


def check_asked(caller: Caller, model: str, max_tokens: int, fields: Mapping[str, Any]) -> None:
    """Whether the caller may ask this model for so much, and those that it names beside it.

    Args:
        caller: who asks.
        model: that is to answer; empty where it is none.
        max_tokens: of the answer; 0 where it is no number.
        fields: of the request, in JSON; `tools`, where an advisor names its model, and `fallbacks` are looked at.

    Raises:
        Forbidden: it may not ask the model. BadRequest: it asks for too much, or what is named beside cannot be read.
    """
    if not caller.model_lists and caller.max_tokens is None:
        return
    _check_model(caller, "model", model)
    _check_max_tokens(caller, "max_tokens", max_tokens)
    for name in ("tools", "fallbacks"):
        for place, named in enumerate(_beside(fields, name)):
            other, tokens = (msgspec.json.decode(raw) for raw in (named.model, named.max_tokens))
            if other is not None:
                _check_model(caller, f"{name}[{place}].model", other)
            # An advisor's words are none of the answer's.
            if tokens is not None and name == "fallbacks":
                _check_max_tokens(caller, f"{name}[{place}].max_tokens", tokens)


def _check_model(caller: Caller, name: str, model: object) -> None:
    asked = model if isinstance(model, str) else ""
    for patterns in caller.model_lists:
        if any(fnmatchcase(asked, pattern) for pattern in patterns):
            continue
        may = ", ".join(patterns)
        raise Forbidden(f"{name}: caller {caller.name} may not ask {asked[:80]!r}; its models are {may}", field=name)


def _check_max_tokens(caller: Caller, name: str, tokens: object) -> None:
    most = caller.max_tokens
    if most is not None and not (isinstance(tokens, int) and not isinstance(tokens, bool) and 1 <= tokens <= most):
        raise BadRequest(f"{name} must be from 1 to {most} for caller {caller.name}", field=name)


def _beside(fields: Mapping[str, Any], name: str) -> list[_Named]:
    raw = bytes(fields.get(name, b"null"))
    try:
        return [] if raw == b"null" else _named(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # `fallbacks` may be a word that leaves the choice to Claude: nobody knows its models then.
        raise BadRequest(f"{name} must be a list of objects: the models in it are looked at", field=name) from None


def check_passing(caller: Caller, method: str, path: str) -> None:
    """Whether a request may pass to Claude unread and unbooked. Raises Forbidden."""
    if caller.token is not None:
        raise Forbidden("a browser token may not use Claude's other paths, which show the whole workspace's")
    if caller.budget_closes and not (method in ("GET", "HEAD") and _is_below(path, _FREE)):
        raise Forbidden(
            f"caller {caller.name} may not {method} {path[:80]}: there is a budget, and it would not be booked; "
            "upstream_passthrough = true would allow it",
            field="upstream_passthrough",
        )
    if not (caller.upstream_passthrough or caller.budget_closes):
        raise Forbidden(
            f"caller {caller.name} may not use Claude's other paths: upstream_passthrough is false",
            field="upstream_passthrough",
        )
    held = {
        "models": caller.models,
        "max_tokens": caller.max_tokens,
        "output_tokens_per_minute": caller.output_tokens_per_minute,
    }
    bounds = [name for name, bound in held.items() if bound is not None]
    if bounds and method not in ("GET", "HEAD", "DELETE") and not _is_below(path, _BRINGING):
        raise Forbidden(
            f"caller {caller.name} may not {method} {path[:80]}: it is not read on its way, so that {' and '.join(bounds)} "
            "could not be held",
            field=bounds[0],
        )


def _is_below(path: str, known: tuple[str, ...]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in known)
