"""Whatever Claude sends tomorrow means to our readers what it means to the SDK: text, thinking, tool calls, whole messages.

Recorded answers are changed as new releases may change them, cut anywhere, decoded, joined in batches and written in
each format. The oracle is the SDK's own accumulation of the same events.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from anthropic.lib.streaming._beta_messages import accumulate_event
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.answer.decoding import EventDecoder
from app.answer.events import ClaudeEvent, Delta
from app.answer.surrogates import mended, paired
from app.answer.tally import Tally
from app.flow.batching import Batch
from app.wire import WireFormat
from app.wire.messages import MessagesFormat
from app.wire.plain import PlainFormat
from app.wire.ui_stream import UiFormat
from tests.support.mutations import (
    FIELDS,
    MUTATIONS,
    WIRES,
    Answer,
    Data,
    chunked,
    framed,
    mutated,
    payloads,
    shortened,
)
from tests.support.recorded import ANSWERS

SHORT = {name: shortened(answer) for name, answer in ANSWERS.items()}
# Between them these have every kind of block, halves of characters, and the order of a real answer with tools.
FEW = ["all kinds of blocks", "halves that never meet", "code-execution", "thinking", "tools"]


# --- the oracle ----------------------------------------------------------------------------------------------------


def accumulated(answer: Answer) -> dict[str, Any]:
    """The message that the SDK makes of these events."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for data in answer:
        event: Any = data  # it takes the JSON too
        if data["type"] != "ping":  # the SDK drops them before
            snapshot = accumulate_event(
                event=event, current_snapshot=snapshot, json_bufs=buffers, request_headers=httpx2.Headers()
            )
    message: dict[str, Any] = comparable(snapshot.model_dump(mode="python", warnings=False))
    return message


def comparable(value: Any) -> Any:
    """The same, where equal things compare equal: pairs of halves as one character, no number that is none."""
    if isinstance(value, str):
        return paired(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {comparable(name): comparable(inner) for name, inner in value.items()}
    return [comparable(inner) for inner in value] if isinstance(value, list) else value


def spoken(message: dict[str, Any], kind: str) -> str:
    return "".join(mended(block[kind]) for block in message["content"] if block["type"] == kind)


def calls(message: dict[str, Any]) -> dict[int, tuple[str, str, Any]]:
    return {
        index: (block["id"], block["name"], block["input"])
        for index, block in enumerate(message["content"])
        if block["type"] == "tool_use"
    }


# --- what readers make of it ---------------------------------------------------------------------------------------


def batches(chunks: list[bytes], dice: random.Random, tally: Tally) -> Iterator[list[ClaudeEvent]]:
    """The events of these reads as they go to a format, in batches of any size."""
    decoder, batch = EventDecoder(), Batch()
    for chunk in chunks:
        for event in decoder.feed(chunk):
            tally.see(event)
            batch.add(event)
            if dice.random() < 0.1:
                yield batch.take()
        if dice.random() < 0.5:
            yield batch.take()
    assert decoder.error is None
    yield batch.take(everything=True)


def written(wire: WireFormat, taken: list[list[ClaudeEvent]]) -> bytes:
    return b"".join([frame for events in taken for frame in wire.encode(events)] + wire.end(None))


def read(stream: bytes) -> list[tuple[str, bytes]]:
    """Each event's name and data."""
    events = []
    for block in stream.removesuffix(b"\n\n").split(b"\n\n"):
        lines = block.split(b"\n")
        name = lines.pop(0)[7:].decode() if lines[0].startswith(b"event: ") else ""
        assert all(line.startswith(b"data: ") for line in lines)
        events.append((name, b"\n".join(line[6:] for line in lines)))
    return events


def is_joined(data: Data) -> bool:
    """Whether it is a delta of just the known shape."""
    delta = data.get("delta")
    field = FIELDS.get(delta.get("type", "")) if isinstance(delta, dict) else None
    return data.keys() == {"type", "index", "delta"} and isinstance(delta, dict) and delta.keys() == {"type", field}


def check_messages(stream: bytes, answer: Answer, raws: list[bytes]) -> None:
    events = read(stream)
    assert accumulated([json.loads(data) for _, data in events]) == accumulated(answer)
    assert all(json.loads(data)["type"] == name for name, data in events)
    kept = [raw for data, raw in zip(answer, raws, strict=True) if not is_joined(data) and data["type"] != "ping"]
    assert [data for _, data in events if not is_joined(json.loads(data))] == kept, "what is not joined keeps its bytes"


def check_plain(stream: bytes, message: dict[str, Any]) -> None:
    frames = [json.loads(data) for _, data in read(stream)]
    for kind in ("text", "thinking"):
        assert "".join(frame.get(kind, "") for frame in frames) == spoken(message, kind)
    tools = [frame["tool_use"] for frame in frames if "tool_use" in frame]
    told = {}
    for begun in (tool for tool in tools if "id" in tool):
        pieces = [tool["partial_json"] for tool in tools if tool["index"] == begun["index"] and "id" not in tool]
        told[begun["index"]] = begun["id"], begun["name"], comparable(json.loads("".join(pieces) or "{}"))
    assert told == calls(message)
    assert [frame.get("done") for frame in frames] == [None] * (len(frames) - 1) + [True]


def check_chat(stream: bytes, message: dict[str, Any]) -> None:
    *chunks, last = [data for _, data in read(stream)]
    assert last == b"[DONE]"
    parts: dict[str, str] = {}
    for chunk in map(json.loads, chunks):
        if chunk["type"] in ("text-delta", "reasoning-delta"):
            parts[chunk["id"]] = parts.get(chunk["id"], "") + chunk["delta"]
    blocks = enumerate(message["content"])
    expected = {str(at): mended(block[block["type"]]) for at, block in blocks if block["type"] in ("text", "thinking")}
    assert parts == {name: text for name, text in expected.items() if text}


def check(name: str, changes: set[str], seed: int) -> None:
    dice = random.Random(seed)
    answer = mutated(SHORT[name], changes, dice)
    raws = payloads(answer, changes, dice)
    message, tally = accumulated(answer), Tally()
    taken = list(batches(chunked(framed(answer, raws, changes, dice), dice), dice, tally))

    check_messages(written(MessagesFormat(), taken), answer, raws)
    check_plain(written(PlainFormat(thinking=True), taken), message)
    check_chat(written(UiFormat("ui_1"), taken), message)
    deltas = [event for events in taken for event in events if isinstance(event, Delta)]
    for kind in ("text", "thinking"):
        said = "".join(block[kind] for block in message["content"] if block["type"] == kind)
        characters = sum(not "\udc00" <= char <= "\udfff" for char in said)  # a second half alone is none
        assert tally.chars[kind] == characters, "the books count what was said"
    for kind, characters in tally.chars.items():
        assert sum(delta.chars for delta in deltas if delta.kind == kind) == characters, "and what is delivered alike"


changes = st.sets(st.sampled_from([*MUTATIONS, *WIRES]))
# What fails is told by its name, its changes and its seed: to shrink a seed would find nothing.
QUICK: Any = {"suppress_health_check": [HealthCheck.too_slow], "phases": [Phase.explicit, Phase.generate]}


@pytest.mark.slow
@settings(max_examples=500, **QUICK)
@given(st.sampled_from(sorted(SHORT)), changes, st.integers(0, 2**32))
def test_a_changed_answer_means_the_same_to_every_reader(name: str, changes: set[str], seed: int) -> None:
    check(name, changes, seed)


@pytest.mark.soak
@settings(max_examples=20_000, **QUICK)
@given(st.sampled_from(sorted(SHORT)), changes, st.integers(0, 2**32))
def test_a_changed_answer_means_the_same_to_every_reader_20000_times(name: str, changes: set[str], seed: int) -> None:
    check(name, changes, seed)


@pytest.mark.parametrize("change", [*MUTATIONS, *WIRES])
def test_each_change_alone_to_a_few_answers(change: str) -> None:
    for name in FEW:
        check(name, {change}, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHORT.keys() - set(FEW)))
def test_each_change_alone_to_each_other_answer(name: str) -> None:
    for change in [*MUTATIONS, *WIRES]:
        check(name, {change}, 1)


@pytest.mark.parametrize("change", [*MUTATIONS, *WIRES])
def test_each_change_changes_something(change: str) -> None:
    """One that did nothing would prove nothing."""
    for name, answer in SHORT.items():
        made = mutated(answer, {change}, random.Random(1))
        raws = payloads(made, {change}, random.Random(1))
        as_it_was = framed(answer, payloads(answer, set(), random.Random(1)), set(), random.Random(1))
        if framed(made, raws, {change}, random.Random(1)) != as_it_was:
            return
        assert name
    pytest.fail(f"{change} changes none of them")
