"""The written answers: as the SDK's types say, and of every kind that these know; a clone alone has them all."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from anthropic.types.beta import (
    BetaRawContentBlockDelta,
    BetaRawContentBlockStartEvent,
    BetaRawMessageStreamEvent,
    BetaServerToolUseBlock,
    BetaStopReason,
)
from anthropic.types.beta.beta_citations_delta import BetaCitationsDelta
from anthropic.types.beta.beta_context_management_response import BetaContextManagementResponse
from anthropic.types.beta.beta_iterations_usage import BetaIterationsUsage
from pydantic import BaseModel, TypeAdapter

from tests.support.answers import BEGIN_TWICE, WRITTEN, events_in

pytestmark = pytest.mark.slow  # to import all of the SDK's types takes longer than the tests

# Neither may fit: what the API may add, and an order that no answer has.
UNKNOWN = "not-yet-known"
WELL_FORMED = [name for name in WRITTEN if name not in BEGIN_TWICE]


def literals(annotation: Any) -> set[str]:
    """The strings that a `Literal` may be, or the `type`s of the models of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return literals(annotation.model_fields["type"].annotation)
    if get_origin(annotation) is Literal:
        return {value for value in get_args(annotation) if isinstance(value, str)}
    if get_origin(annotation) in (Annotated, Union, types.UnionType, list):
        return {found for part in get_args(annotation) for found in literals(part)}
    return set()


def everywhere(name: str) -> Iterator[tuple[str, Any]]:
    """Each field of an answer, wherever it stands, with its value."""
    todo: list[Any] = events_in(name)
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield from value.items()
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


SEEN = [pair for name in WELL_FORMED if name != UNKNOWN for pair in everywhere(name)]
TYPES = {value for field, value in SEEN if field == "type"}
KINDS: dict[str, tuple[Any, set[str]]] = {
    "events": (BetaRawMessageStreamEvent, TYPES),
    "blocks": (BetaRawContentBlockStartEvent.model_fields["content_block"].annotation, TYPES),
    "deltas": (BetaRawContentBlockDelta, TYPES),
    "citations": (BetaCitationsDelta.model_fields["citation"].annotation, TYPES),
    "iterations": (BetaIterationsUsage, TYPES),
    "edits of the context": (BetaContextManagementResponse.model_fields["applied_edits"].annotation, TYPES),
    "stop reasons": (BetaStopReason, {value for field, value in SEEN if field == "stop_reason"}),
    "server tools": (BetaServerToolUseBlock.model_fields["name"].annotation, {v for field, v in SEEN if field == "name" and isinstance(v, str)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_one_of_each_kind_that_the_sdk_knows(kind: str) -> None:
    annotation, seen = KINDS[kind]
    known = literals(annotation)
    assert len(known) > 1, "the SDK's types are not what they were"
    assert known - seen == set()


@pytest.mark.parametrize("name", [name for name in WELL_FORMED if name != UNKNOWN])
def test_each_event_is_as_the_sdks_types_say(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(BetaRawMessageStreamEvent)
    for event in events_in(name):
        if event["type"] != "ping":
            told = adapter.validate_python(event)
            assert not told.model_extra, told


def test_what_is_not_yet_known_is_unknown_to_the_sdk() -> None:
    known = set[str]().union(*(literals(annotation) for annotation, _ in KINDS.values()))
    events = events_in(UNKNOWN)
    assert {event["type"] for event in events} - known
    assert {event["content_block"]["type"] for event in events if "content_block" in event} - known
    assert {event["delta"]["type"] for event in events if event["type"] == "content_block_delta"} - known
    assert {event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"} - known


@pytest.mark.parametrize("name", WELL_FORMED)
def test_its_events_come_in_the_order_of_the_api(name: str) -> None:
    """Messages API, streaming: the start, then one block after the other, then what it came to."""
    known = [event for event in events_in(name) if event["type"].startswith(("message_", "content_block_"))]
    assert [event["type"] for event in known][:: len(known) - 1] == ["message_start", "message_stop"]
    assert known[-2]["type"] == "message_delta"
    at, inside = 0, False
    for event in known:
        match event["type"]:
            case "content_block_start":
                assert (event["index"], inside) == (at, False)
                inside = True
            case "content_block_delta":
                assert (event["index"], inside) == (at, True)
            case "content_block_stop":
                assert (event["index"], inside) == (at, True)
                at, inside = at + 1, False
    assert not inside
