"""The UI message stream: only chunks that the AI SDK's client takes, in an order that it takes, and nothing lost."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from anthropic.types import ContentBlock, StopReason
from anthropic.types.beta import BetaContentBlock, BetaStopReason
from hypothesis import given
from hypothesis import strategies as st

from app.answer.decoding import EventDecoder
from app.answer.events import ClaudeEvent, Delta, DeltaKind, Event
from app.errors import ShuttingDown, SluicewayError, Stopped, TakenOver, UpstreamCut
from app.wire.plain import framed
from app.wire.ui_stream import FINISH_REASONS, RAW_BLOCK, UiFormat
from tests.support.answers import NAMES, events_in

# What the client's schema demands of each type (UI message stream, version 1); unknown fields are let through.
REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "start": {},
    "start-step": {},
    "finish-step": {},
    "finish": {},
    "abort": {},
    "error": {"errorText": str},
    "message-metadata": {"messageMetadata": dict},
    "text-start": {"id": str},
    "text-delta": {"id": str, "delta": str},
    "text-end": {"id": str},
    "reasoning-start": {"id": str},
    "reasoning-delta": {"id": str, "delta": str},
    "reasoning-end": {"id": str},
    "tool-input-start": {"toolCallId": str, "toolName": str},
    "tool-input-delta": {"toolCallId": str, "inputTextDelta": str},
    "tool-input-available": {"toolCallId": str, "toolName": str},
    "tool-input-error": {"toolCallId": str, "toolName": str, "errorText": str},
    "tool-output-available": {"toolCallId": str},
    "tool-output-error": {"toolCallId": str, "errorText": str},
    "source-url": {"sourceId": str, "url": str},
    "source-document": {"sourceId": str, "mediaType": str, "title": str},
    "file": {"url": str, "mediaType": str},
    RAW_BLOCK: {"data": dict},
}
REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "interrupted", "other"}
OPTIONAL = {"providerExecuted": bool, "dynamic": bool, "providerMetadata": dict, "title": str, "citations": list}


def of(type: str, **data: Any) -> Event:
    payload = {"type": type} | data
    return Event(type, json.dumps(payload).encode(), payload)


def start(index: int, type: str, **content: Any) -> Event:
    return of("content_block_start", index=index, content_block={"type": type} | content)


def stop(index: int) -> Event:
    return of("content_block_stop", index=index)


def begin(**message: Any) -> Event:
    return of("message_start", message={"id": "msg_1", "model": "m", "usage": {"output_tokens": 1}} | message)


def parsed(frames: list[bytes]) -> list[dict[str, Any]]:
    """The chunks, but for the mark at the end; each of a type and with the fields that the client demands."""
    chunks = []
    for frame in frames:
        assert frame.startswith(b"data: ")
        assert frame.endswith(b"\n\n")
        assert frame.count(b"\n") == 2
        if frame == b"data: [DONE]\n\n":
            continue
        chunk = json.loads(frame[6:])
        assert chunk["type"] in REQUIRED, chunk
        for name, kind in REQUIRED[chunk["type"]].items():
            assert isinstance(chunk[name], kind), chunk
        for name, kind in OPTIONAL.items():
            assert isinstance(chunk.get(name, kind()), kind), chunk
        assert chunk.get("finishReason", "stop") in REASONS
        chunks.append(chunk)
    in_order(chunks)
    return chunks


def in_order(chunks: list[dict[str, Any]]) -> None:
    """What the client throws on: a part that goes on without having begun, a result without its call."""
    texts: set[str] = set()
    calls: set[str] = {"earlier"}
    for chunk in chunks:
        kind, _, step = chunk["type"].partition("-")
        if kind in ("text", "reasoning"):
            name = f"{kind} {chunk['id']}"
            if step == "start":
                texts.add(name)
            assert name in texts, chunk
            if step == "end":
                texts.discard(name)
        elif step in ("input-start", "input-available", "input-error"):
            calls.add(chunk["toolCallId"])
        elif kind == "tool":
            assert chunk["toolCallId"] in calls, chunk


def told(*events: ClaudeEvent, wire: UiFormat | None = None) -> list[dict[str, Any]]:
    wire = wire or UiFormat("ui_1", {"earlier"})
    return parsed(wire.encode(list(events)))


def recorded(name: str) -> list[ClaudeEvent]:
    return EventDecoder().feed(b"".join(b"data: %b\n\n" % json.dumps(data).encode() for data in events_in(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_answer_is_told_whole(name: str) -> None:
    events = recorded(name)
    wire = UiFormat("ui_1", {"srvtoolu_01earlier"})
    chunks = parsed([*wire.encode(events), *wire.end(None)])

    assert [chunk["type"] for chunk in chunks[:2]] == ["start", "start-step"]
    assert [chunk["type"] for chunk in chunks[-2:]] == ["finish-step", "finish"]
    for kind, chunk_type, field in (
        ("text", "text-delta", "delta"),
        ("thinking", "reasoning-delta", "delta"),
        ("input_json", "tool-input-delta", "inputTextDelta"),
    ):
        sent = "".join(event.text for event in events if isinstance(event, Delta) and event.kind == kind)
        assert "".join(chunk[field] for chunk in chunks if chunk["type"] == chunk_type) == sent


def test_an_answer_begins_with_its_message_once_even_if_claude_begins_twice() -> None:
    chunks = told(begin(), begin())

    assert chunks == [
        {"type": "start", "messageId": "ui_1", "messageMetadata": {"model": "m", "usage": {}}},
        {"type": "start-step"},
    ]


def test_text_is_a_part_with_an_end() -> None:
    begun = start(0, "text", text="a"), Delta(0, "text", "a", 0, b"")
    assert told(*begun, Delta(1, "thinking", "t"), Delta(0, "text", "b"), stop(0)) == [
        {"type": "text-start", "id": "0"},
        {"type": "text-delta", "id": "0", "delta": "a"},
        {"type": "reasoning-start", "id": "1"},
        {"type": "reasoning-delta", "id": "1", "delta": "t"},
        {"type": "text-delta", "id": "0", "delta": "b"},
        {"type": "text-end", "id": "0"},
    ]


def test_text_whose_blocks_start_never_came_is_a_part_none_the_less() -> None:
    assert told(Delta(3, "text", "a"), Delta(4, "thinking", "b"), Delta(5, "input_json", "{}"), stop(3)) == [
        {"type": "text-start", "id": "3"},
        {"type": "text-delta", "id": "3", "delta": "a"},
        {"type": "reasoning-start", "id": "4"},
        {"type": "reasoning-delta", "id": "4", "delta": "b"},
        {"type": "text-end", "id": "3"},
    ]


def test_half_of_a_character_waits_for_its_other_half_and_is_replaced_where_that_never_comes() -> None:
    wire = UiFormat("ui_1")
    halves = start(0, "text", text="\ud83d"), Delta(0, "text", "\ud83d", 0, b""), Delta(1, "text", "\ud83d")
    assert "delta" not in str(told(*halves, wire=wire))
    assert wire.encode([Delta(0, "text", "\ude00")]) == [framed({"type": "text-delta", "id": "0", "delta": "😀"})]
    assert wire.end(None)[1] == framed({"type": "text-delta", "id": "1", "delta": "\ufffd"})


def test_what_stands_on_the_start_and_comes_again_as_a_delta_is_as_the_sdk_accumulates_it() -> None:
    """A signature and a compaction come whole, and replace; a citation is one more."""
    one, two = ({"type": "char_location", "document_index": 0, "cited_text": words} for words in ("one", "two"))
    events = (
        start(0, "thinking", thinking="", signature="old"),
        of("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "new"}),
        stop(0),
        start(1, "compaction", content="old", encrypted_content="old"),
        of(
            "content_block_delta",
            index=1,
            delta={"type": "compaction_delta", "content": "new", "encrypted_content": None},
        ),
        stop(1),
        start(2, "text", text="", citations=[one]),
        of("content_block_delta", index=2, delta={"type": "citations_delta", "citation": two}),
        stop(2),
    )
    found = told(*events)
    assert next(one for one in found if one["type"] == "reasoning-end")["providerMetadata"]["anthropic"] == {
        "signature": "new"
    }
    assert next(one for one in found if one["type"] == RAW_BLOCK)["data"] == {
        "type": "compaction", "content": "new", "encrypted_content": None,
    }  # fmt: skip
    assert next(one for one in found if one["type"] == "text-end")["providerMetadata"]["anthropic"] == {
        "citations": [one, two]
    }


def test_thinking_keeps_its_signature_for_the_next_question() -> None:
    signature = of("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "sig"})
    events = start(0, "thinking", thinking=""), Delta(0, "thinking", "hm"), signature, stop(0)

    assert told(*events)[-1] == {
        "type": "reasoning-end",
        "id": "0",
        "providerMetadata": {"anthropic": {"signature": "sig"}},
    }


def test_redacted_thinking_is_empty_reasoning_with_its_data() -> None:
    chunks = told(start(0, "redacted_thinking", data="xyz"), stop(0))

    assert [chunk["type"] for chunk in chunks] == ["reasoning-start", "reasoning-end"]
    assert chunks[1]["providerMetadata"] == {"anthropic": {"redactedData": "xyz"}}


def test_a_tool_call_streams_its_input_and_then_has_it() -> None:
    chunks = told(start(1, "tool_use", id="t", name="look", input={}), Delta(1, "input_json", '{"a":1}'), stop(1))

    assert chunks == [
        {"type": "tool-input-start", "toolCallId": "t", "toolName": "look"},
        {"type": "tool-input-delta", "toolCallId": "t", "inputTextDelta": '{"a":1}'},
        {"type": "tool-input-available", "toolCallId": "t", "toolName": "look", "input": {"a": 1}},
    ]


def test_an_input_that_is_cut_is_an_error_of_the_tool_not_of_the_chat() -> None:
    chunks = told(start(1, "tool_use", id="t", name="look", input={}), Delta(1, "input_json", '{"a":'), stop(1))

    assert chunks[-1]["type"] == "tool-input-error"
    assert chunks[-1]["input"] == '{"a":'


@pytest.mark.parametrize("content", [[{"type": "web_search_result", "url": "https://a.example", "title": "A"}], []])
def test_a_tool_on_claudes_side_shows_its_call_its_result_and_its_sources(content: list[Any]) -> None:
    chunks = told(
        start(0, "server_tool_use", id="s", name="web_search", input={"query": "x"}, caller={"type": "direct"}),
        stop(0),
        start(1, "web_search_tool_result", tool_use_id="s", content=content),
        stop(1),
    )

    assert chunks[1]["input"] == {"query": "x"}
    assert chunks[1]["providerExecuted"] is True
    assert chunks[1]["providerMetadata"]["anthropic"] == {"type": "server_tool_use", "caller": {"type": "direct"}}
    assert chunks[2]["type"] == "tool-output-available"
    assert chunks[2]["output"] == content
    assert chunks[3:] == [
        {"type": "source-url", "sourceId": "https://a.example", "url": "https://a.example", "title": "A"}
    ] * len(content)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}}, "max_uses_exceeded"),
        ({"content": [{"type": "text", "text": "no"}], "is_error": True}, "no"),
        ({"content": "broken", "is_error": True}, "broken"),
    ],
)
def test_a_failed_tool_on_claudes_side_is_an_error_of_the_tool(result: dict[str, Any], text: str) -> None:
    call = start(0, "server_tool_use", id="s", name="web_search", input={})
    _, _, failed = told(call, stop(0), start(1, "web_search_tool_result", tool_use_id="s", **result))

    assert failed["type"] == "tool-output-error"
    assert failed["errorText"] == text
    assert failed["providerMetadata"]["anthropic"]["content"] == result["content"]


def test_a_result_for_a_call_of_an_earlier_answer_says_so() -> None:
    (chunk,) = told(start(0, "tool_search_tool_result", tool_use_id="earlier", content={"type": "x"}), stop(0))

    assert chunk["providerMetadata"]["anthropic"] == {"type": "tool_search_tool_result", "index": 0, "deferred": True}


def test_a_result_whose_call_the_page_never_saw_is_kept_as_data() -> None:
    block: dict[str, Any] = {"type": "web_search_tool_result", "tool_use_id": "unknown", "content": []}

    assert told(start(0, **block), stop(0)) == [{"type": RAW_BLOCK, "data": block}]


def test_citations_are_sources_beside_their_text_and_kept_for_the_next_question() -> None:
    web = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": "so",
           "encrypted_index": "e"}  # fmt: skip
    page = {"type": "page_location", "document_index": 0, "document_title": None, "cited_text": "p"}
    quoted = {"type": "search_result_location", "source": "notes", "title": None, "cited_text": "n"}
    linked = quoted | {"source": "https://b.example"}
    cites = [
        of("content_block_delta", index=0, delta={"type": "citations_delta", "citation": citation})
        for citation in (web, web, page, quoted, linked, {"type": "brand_new"})
    ]
    chunks = told(start(0, "text", text=""), *cites, stop(0))

    assert [chunk.get("sourceId") for chunk in chunks[1:-1]] == [
        "https://a.example",
        "document-0",
        "notes",
        "https://b.example",
    ]
    assert chunks[2] == {
        "type": "source-document",
        "sourceId": "document-0",
        "mediaType": "application/pdf",
        "title": "Document 1",
    }
    end = chunks[-1]
    assert len(end["providerMetadata"]["anthropic"]["citations"]) == 6
    assert end["citations"][0] == {
        "source": {
            "type": "source",
            "sourceType": "url",
            "id": "https://a.example",
            "url": "https://a.example",
            "title": "A",
        },
        "citedText": "so",
    }
    assert len(end["citations"]) == 5


def test_a_citation_without_its_words_is_told_without_them() -> None:
    cited = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": None}
    cite = of("content_block_delta", index=0, delta={"type": "citations_delta", "citation": cited})
    (told_of,) = told(start(0, "text", text=""), cite, stop(0))[-1]["citations"]
    assert set(told_of) == {"source"}


@pytest.mark.parametrize(
    ("block", "chunk", "nothing"),
    [
        ("text", "text", Delta(0, "text", "")),
        ("text", "text", Delta(0, "thinking", "not said aloud")),
        ("thinking", "reasoning", Delta(0, "thinking", "")),
        ("thinking", "reasoning", Delta(0, "text", "said aloud")),
    ],
)
def test_a_block_grows_by_words_of_its_kind_alone(block: str, chunk: str, nothing: Delta) -> None:
    chunks = told(start(0, block, **{block: ""}), nothing, stop(0))
    assert [chunk["type"] for chunk in chunks] == [f"{chunk}-start", f"{chunk}-end"]


def test_a_delta_of_tomorrow_leaves_a_thought_and_its_signature_as_they_are() -> None:
    signed, unknown = (
        of("content_block_delta", index=0, delta=delta)
        for delta in ({"type": "signature_delta", "signature": "sig"}, {"type": "brand_new", "signature": 7})
    )
    chunks = told(start(0, "thinking", thinking=""), signed, unknown, stop(0))
    assert chunks[-1]["providerMetadata"]["anthropic"] == {"signature": "sig"}


def test_a_fetched_page_is_a_source() -> None:
    call = start(0, "server_tool_use", id="s", name="web_fetch", input={})
    found = {"type": "web_fetch_result", "url": "https://a.example", "content": {"title": "A"}}
    chunks = told(call, stop(0), start(1, "web_fetch_tool_result", tool_use_id="s", content=found), stop(1))

    assert chunks[-1] == {
        "type": "source-url",
        "sourceId": "https://a.example",
        "url": "https://a.example",
        "title": "A",
    }


@pytest.mark.parametrize(
    ("source", "url", "media_type"),
    [
        ({"type": "base64", "media_type": "image/png", "data": "QUJD"}, "data:image/png;base64,QUJD", "image/png"),
        ({"type": "url", "url": "https://a.example/x"}, "https://a.example/x", "image/*"),
    ],
)
def test_a_picture_is_a_file(source: dict[str, Any], url: str, media_type: str) -> None:
    assert told(start(0, "image", source=source), stop(0)) == [{"type": "file", "url": url, "mediaType": media_type}]


def test_a_block_without_a_place_is_data_with_all_that_came() -> None:
    chunks = told(
        start(0, "compaction", content=None),
        of("content_block_delta", index=0, delta={"type": "of_tomorrow_delta", "content": "a"}),
        of("content_block_delta", index=0, delta={"type": "of_tomorrow_delta", "content": "b"}),
        Delta(0, "text", "t"),
        stop(0),
    )

    assert chunks == [{"type": RAW_BLOCK, "data": {"type": "compaction", "content": "ab", "text": "t"}}]


def test_usage_and_cost_are_metadata_at_the_end() -> None:
    wire = UiFormat("ui_1", cost_of=lambda model, usage: 0.5 * usage["output_tokens"] if model == "m" else None)
    delta = of("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4})
    first, _, last = told(begin(), delta, wire=wire)

    assert "costUsd" not in first["messageMetadata"]
    assert last["messageMetadata"] == {
        "model": "m",
        "usage": {"output_tokens": 4},
        "stopReason": "end_turn",
        "costUsd": 2.0,
    }


def test_deltas_with_fields_unknown_here_are_told_too() -> None:
    kinds: list[DeltaKind] = ["text", "thinking", "input_json"]
    blocks = start(0, "text", text=""), start(1, "thinking", thinking=""), start(2, "tool_use", id="t", name="n")
    extended = [Delta(index, kind, '{"a":1}', raw=b"{}") for index, kind in enumerate(kinds)]

    assert [chunk.get("delta", chunk.get("inputTextDelta")) for chunk in told(*blocks, *extended)[3:]] == [
        '{"a":1}'
    ] * 3


def test_a_refusal_says_why() -> None:
    delta = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "cyber"}}
    chunks = told(begin(), of("message_delta", delta=delta, usage={}))

    assert chunks[-1]["messageMetadata"]["stopDetails"] == {"type": "refusal", "category": "cyber"}


@pytest.mark.parametrize("reason", [*get_args(StopReason), *get_args(BetaStopReason), "brand_new", None])
def test_every_stop_reason_has_a_finish_reason_that_the_client_takes(reason: str | None) -> None:
    wire = UiFormat("ui_1")
    wire.encode([begin(), of("message_delta", delta={"stop_reason": reason}, usage={})])

    assert parsed(wire.end(None))[-1]["finishReason"] == FINISH_REASONS.get(reason or "", "other")
    assert FINISH_REASONS.keys() <= {*get_args(StopReason), *get_args(BetaStopReason)}


@pytest.mark.parametrize("error", [Stopped("stopped"), TakenOver("taken over")])
def test_a_stream_that_someone_ended_is_interrupted_not_failed(error: SluicewayError) -> None:
    chunks = parsed(UiFormat("ui_1").end(error))

    assert chunks == [{"type": "abort", "reason": error.type}, {"type": "finish", "finishReason": "interrupted"}]


@pytest.mark.parametrize("error", [UpstreamCut("it was cut"), ShuttingDown("down")])
def test_a_stream_that_failed_ends_with_its_error(error: SluicewayError) -> None:
    assert UiFormat("ui_1").end(error) == [
        b'data: {"type":"error","errorText":"%b"}\n\n' % error.message.encode(),
        b"data: [DONE]\n\n",
    ]


def block_types() -> list[str]:
    """Every content block in the SDK's types."""
    blocks = [*get_args(get_args(ContentBlock)[0]), *get_args(get_args(BetaContentBlock)[0])]
    return sorted({get_args(block.model_fields["type"].annotation)[0] for block in blocks})


@pytest.mark.parametrize("type", block_types())
@pytest.mark.parametrize("call_id", ["earlier", "unknown"])
def test_every_block_of_the_sdk_has_a_form_that_the_client_takes(type: str, call_id: str) -> None:
    content = {"id": "c", "name": "n", "input": {}, "tool_use_id": call_id, "content": [], "text": "x"}
    chunks = told(begin(), start(0, type, **content), Delta(0, "text", "y"), stop(0))

    assert len(chunks) > 2


def test_the_sdk_has_blocks_to_test_with() -> None:
    assert len(block_types()) >= 15


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from([*block_types(), "image", "document", "brand_new_tool_use", "brand_new_tool_result", "x"])
contents = st.fixed_dictionaries(
    {"type": kinds},
    optional={
        name: st.sampled_from(["earlier", "c"]) | values
        for name in ("id", "name", "input", "tool_use_id", "content", "text", "thinking", "data", "signature", "source",
                     "is_error", "title", "url")
    },
)  # fmt: skip
anything = st.one_of(
    st.builds(lambda index, content: of("content_block_start", index=index, content_block=content),
              st.integers(0, 2), contents | values),
    st.builds(Delta, st.integers(0, 2), st.sampled_from(["text", "thinking", "input_json"]), st.text(max_size=5)),
    st.builds(lambda index, delta: of("content_block_delta", index=index, delta=delta), st.integers(0, 2),
              values | st.fixed_dictionaries({"type": st.sampled_from(
                  ["citations_delta", "signature_delta", "text_delta", "brand_new"])}, optional=dict.fromkeys(("citation", "signature", "text", "content"), values))),
    st.builds(lambda index: of("content_block_stop", index=index), st.integers(0, 2)),
    st.builds(lambda delta, usage: of("message_delta", delta=delta, usage=usage), values, values),
    st.builds(lambda message: of("message_start", message=message), values),
    st.builds(lambda name: of(name), st.text(max_size=5)),
)  # fmt: skip


@given(st.lists(anything, max_size=12))
def test_whatever_comes_the_chunks_are_such_as_the_client_takes(events: list[ClaudeEvent]) -> None:
    wire = UiFormat("ui_1", {"earlier"})

    parsed([*wire.encode(events), *wire.end(None)])


deltas = st.lists(st.tuples(st.sampled_from(["text", "thinking", "input_json"]), st.text(max_size=6)), max_size=20)


@given(deltas)
def test_no_character_is_lost(pieces: list[tuple[DeltaKind, str]]) -> None:
    opening = [start(0, "text", text=""), start(1, "thinking", thinking=""), start(2, "tool_use", id="t", name="n")]
    index = {"text": 0, "thinking": 1, "input_json": 2}
    chunks = told(*opening, *(Delta(index[kind], kind, text) for kind, text in pieces))

    for kind, type in (("text", "text-delta"), ("thinking", "reasoning-delta"), ("input_json", "tool-input-delta")):
        sent = "".join(text for made, text in pieces if made == kind)
        assert "".join(str(c.get("delta", c.get("inputTextDelta"))) for c in chunks if c["type"] == type) == sent


def test_blocks_whose_ends_never_came_end_with_a_whole_answer() -> None:
    wire = UiFormat("ui_1")
    wire.encode(
        [start(0, "text"), Delta(0, "text", "a"), start(1, "tool_use", id="t", name="n"), Delta(1, "input_json", "{}")]
    )
    told_last = [json.loads(frame[6:]) for frame in wire.end(None)[:-1]]
    assert told_last[:2] == [
        {"type": "text-end", "id": "0"},
        {"type": "tool-input-available", "toolCallId": "t", "toolName": "n", "input": {}},
    ]


@pytest.mark.parametrize(("kind", "media_type"), [("document", "application/pdf"), ("image", "image/*")])
def test_a_file_that_lies_elsewhere_is_told_by_its_address(kind: str, media_type: str) -> None:
    def told(source: dict[str, Any]) -> bytes:
        data = {"type": "content_block_start", "index": 0, "content_block": {"type": kind, "source": source}}
        return b"".join(UiFormat("m").encode([Event("content_block_start", json.dumps(data).encode(), data)]))

    chunk = {"type": "file", "url": "https://x/y", "mediaType": media_type}
    assert json.dumps(chunk, separators=(",", ":")).encode() in told({"type": "url", "url": "https://x/y"})
    assert b'"file"' not in told({"type": "text"})
