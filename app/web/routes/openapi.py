"""`GET /openapi.json`: every route, what it takes and whatever it may answer (OpenAPI 3.1); the reference for people too.

It is made of the routes as they are served: who may call and what body is taken stand there, each status and type of an
error in its class, each bound in the settings.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from ... import __version__
from ...errors import (
    BadRequest,
    BudgetAway,
    BudgetExhausted,
    BudgetHeld,
    Draining,
    Forbidden,
    HeadTooLarge,
    InternalError,
    Lagging,
    Malformed,
    Overloaded,
    RateLimited,
    SlowRequest,
    SluicewayError,
    TooLarge,
    TooManyConnections,
    Unauthorized,
    UpstreamCut,
    UpstreamGarbled,
    UpstreamTimeout,
    UpstreamUnreachable,
    WrongMediaType,
)
from ...settings import Settings
from ...upstream.failures import UpstreamBarred
from ..entrance.way_in import Body, Route, Who
from ..http.operation import Answer, Operation
from .openapi_schemas import HEADERS, PARAMETERS, schemas

PATH = "/openapi.json"
_EVERYWHERE = (Malformed, Forbidden, SlowRequest, TooManyConnections, HeadTooLarge, Overloaded, InternalError)
_WITH_BODY = (BadRequest, TooLarge, WrongMediaType)
_STARTING = (
    BudgetExhausted, BudgetHeld, BudgetAway, RateLimited, Lagging, Draining, UpstreamUnreachable, UpstreamBarred,
    UpstreamCut, UpstreamGarbled, UpstreamTimeout,
)  # fmt: skip
_KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
_DESCRIPTION = """\
Streams Claude to the browser with backpressure that is real from end to end.

`GET` stands for `HEAD` too. Doubled slashes in a path are one. Compressed bodies are not taken. A path that is not here is
404, another method 405 with `Allow`. Errors under `/v1/` have the Messages API's shape, all others the plain one, and both
have the same statuses and types; an error after the first event is the stream's last event. Every answer has an
`X-Request-Id`, which the service's log repeats; `request-id` is Claude's. `/metrics`, `/healthz`,
`/readyz` and `/streams` are on the admin port.
"""


def openapi_route(settings: Settings, routes: Iterable[Route]) -> Route:
    """The document's own route; it is in the document too.

    Args:
        settings: whose bounds it tells.
        routes: all others.
    """

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    operation = Operation("This document", answers={200: Answer("OpenAPI 3.1")})
    route = Route("GET", PATH, serve, Who.ANYONE, told=operation)
    body = json.dumps(document([*routes, route], settings)).encode()
    return route


def document(routes: Sequence[Route], settings: Settings) -> dict[str, Any]:
    """The document. Pure."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(path_of(route), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sluiceway", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": schemas(settings),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a caller's key, where keys are demanded",
                },
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "the same"},
                "stop token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Stop-Token",
                    "description": "the stream's own",
                },
            },
        },
    }


def path_of(route: Route) -> str:
    """A route's path as OpenAPI writes it, which knows no expressions; whatever `{path}` stands for may have slashes."""
    return re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", route.path)


def _operation(route: Route) -> dict[str, Any]:
    told = route.told
    parameters: list[dict[str, Any]] = [{"$ref": f"#/components/parameters/{name}"} for name in told.parameters]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", path_of(route))
    ]
    found: dict[str, Any] = {
        "summary": told.summary,
        "operationId": f"{route.method.lower()} {path_of(route)}",
        "responses": {str(status): _answer(answer) for status, answer in told.answers.items()} | _errors(route),
    }
    if told.told:
        found["description"] = told.told
    if parameters:
        found["parameters"] = parameters
    if route.who is not Who.ANYONE:
        found["security"] = [*_KEYS, *([{"stop token": []}] if route.who is Who.STEERER else []), {}]
    if told.body:
        content: dict[str, Any] = {"application/json": {"schema": _ref(told.body)}}
        if route.body is Body.CONTROL:  # a beacon can say nothing else
            content["text/plain"] = {"schema": {"type": "string", "contentMediaType": "application/json"}}
        found["requestBody"] = {"required": route.body is not Body.CONTROL, "content": content}
    elif route.body is Body.STREAMED:
        found["requestBody"] = {"content": {"*/*": {"schema": {}}}}
    return found


def _answer(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.told}
    if answer.media_type:
        found["content"] = {answer.media_type: {"schema": _ref(answer.schema) if answer.schema else {}}}
    if answer.headers:
        found["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in answer.headers}
    return found


def _errors(route: Route) -> dict[str, Any]:
    """Every error, by status; errors of one status in one entry, each by its type and what its class says."""
    schema = _ref("MessagesError" if route.path.startswith("/v1/") else "Error")
    content = {"application/json": {"schema": schema}}
    told: dict[int, list[str]] = {}
    for error in errors_of(route):
        told.setdefault(error.status, []).append(f"`{error.type}`: {_sentence(error)}")
    found: dict[str, Any] = {
        str(status): {"description": "\n\n".join(dict.fromkeys(lines)), "content": content}
        for status, lines in sorted(told.items())
    }
    if route.told.starts:
        # Whatever Claude answers; under /v1/ as it came, be it JSON or not.
        anything = {"*/*": {"schema": {}}} if route.path.startswith("/v1/") else content
        found["default"] = {"description": "Claude refused: with its own status, type and words.", "content": anything}
    return found


def errors_of(route: Route) -> list[type[SluicewayError]]:
    """What a route may refuse, by what it demands and does."""
    return [
        *_EVERYWHERE,
        *((Unauthorized,) if route.who is not Who.ANYONE else ()),
        *(_WITH_BODY if route.body is not Body.NONE else ()),
        *(_STARTING if route.told.starts else ()),
        *route.told.errors,
    ]


def _sentence(error: type[SluicewayError]) -> str:
    return (inspect.getdoc(error) or "").partition("\n")[0]


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
