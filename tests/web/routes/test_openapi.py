"""`/openapi.json` is complete: every route is in it and nothing else, with what it takes and whatever it answers."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest

from app import errors
from app.settings import Settings
from app.web.entrance.way_in import Body, Route, Who
from app.web.routes.openapi import errors_of, path_of
from app.web.runner import Running
from tests.support.documented import Document


@pytest.fixture
async def document(service: Running, client: aiohttp.ClientSession) -> Document:
    async with client.get(f"{service.url}/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        return Document(await response.json())


async def test_every_route_is_in_it_and_nothing_else(document: Document, service: Running) -> None:
    served = set()
    for route in service.service.app.router.routes():
        assert route.resource is not None, "it has a path"
        path = re.sub(r"\{(\w+):.*\}$", r"{\1}", route.resource.canonical)
        if route.method != "HEAD":
            served.add((route.method, path))
    assert served == set(document.operations)
    assert ("GET", "/openapi.json") in served


async def test_each_operation_tells_what_it_is_and_what_it_answers(document: Document) -> None:
    assert document.said["openapi"] == "3.1.0"
    assert document.broken() == []
    ids = [operation["operationId"] for operation in document.operations.values()]
    assert len(ids) == len(set(ids))
    for operation in document.operations.values():
        assert operation["summary"]
        assert any(status.startswith("2") for status in operation["responses"])
        assert all(answer["description"] for answer in operation["responses"].values())


async def test_bounds_are_the_settings_own(document: Document) -> None:
    defaults = Settings.model_validate({}).questions
    fields = document.said["components"]["schemas"]["Question"]["properties"]
    assert fields["max_tokens"]["maximum"] == defaults.max_tokens_limit
    assert fields["grace_s"]["maximum"] == defaults.grace_max_s
    assert fields["model"]["default"] == defaults.model


def of(who: Who, body: Body = Body.NONE, **told: Any) -> set[type[errors.SluicewayError]]:
    async def handler(_request: Any) -> Any: ...

    route = Route("POST", "/x", handler, who, body)
    return set(errors_of(route))


def test_what_a_route_demands_tells_what_it_refuses() -> None:
    assert errors.Unauthorized not in of(Who.ANYONE)
    assert errors.Unauthorized in of(Who.CALLER)
    assert {errors.TooLarge, errors.WrongMediaType} <= of(Who.STEERER, Body.CONTROL) - of(Who.STEERER)
    assert {errors.HeadTooLarge, errors.Malformed, errors.TooManyConnections} <= of(Who.ANYONE)


def test_an_expression_in_a_path_is_left_out() -> None:
    async def handler(_request: Any) -> Any: ...

    assert path_of(Route("GET", "/v1/{path:(?!a)[^/]+/?}", handler)) == "/v1/{path}"
