"""UI messages in, Messages API input out; and a message built again from chunks."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire.ui_messages import continued, preface, to_claude, tool_calls
from app.wire.ui_stream import RAW_BLOCK

PNG = base64.b64encode(b"\x89PNG").decode()


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "u", "role": "user", "parts": list(parts)}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "role": "assistant", "parts": list(parts)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def file(media_type: str, url: str, **more: Any) -> dict[str, Any]:
    return {"type": "file", "mediaType": media_type, "url": url} | more


def kept(**anthropic: Any) -> dict[str, Any]:
    return {"anthropic": anthropic}


STEP = {"type": "step-start"}
HELLO = user(text("hello"))


def turns(*messages: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(turn["role"], turn["content"]) for turn in to_claude(list(messages))[1]]


def test_a_conversation_keeps_its_turns() -> None:
    assert turns(HELLO, assistant(STEP, text("hi", state="done")), user(text("and?"))) == [
        ("user", [text("hello")]),
        ("assistant", [text("hi")]),
        ("user", [text("and?")]),
    ]


def test_system_messages_are_the_system_prompt() -> None:
    system = {"id": "s", "role": "system", "parts": [text("be kind"), text("and short")]}

    assert to_claude([system, HELLO]) == ("be kind\n\nand short", [{"role": "user", "content": [text("hello")]}])


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            file("image/png", f"data:image/png;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            file("image/webp", "https://a.example/x.webp"),
            {"type": "image", "source": {"type": "url", "url": "https://a.example/x.webp"}},
        ),
        (
            file("application/pdf", "https://a.example/x.pdf", filename="x.pdf"),
            {
                "type": "document",
                "source": {"type": "url", "url": "https://a.example/x.pdf"},
                "title": "x.pdf",
            },
        ),
        (
            file("application/pdf", f"data:application/pdf;base64,{PNG}"),
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
        ),
        (
            file("text/markdown", "data:text/markdown;charset=utf-8,%23%20h%C3%A9"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "# hé"}},
        ),
    ],
)
def test_pictures_and_documents_go_as_claude_reads_them(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert turns(user(part)) == [("user", [block])]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hello", "messages"),
        ([1], "messages[0]"),
        ([{"role": "user", "parts": []}], "messages[0].parts"),
        ([{"role": "user", "content": "old"}], "messages[0].parts"),
        ([{"role": "user", "parts": [{"text": "x"}]}], "messages[0].parts[0]"),
        ([{"role": "robot", "parts": [text("x")]}], "messages[0].role"),
        ([user({"type": "tool-x"})], "messages[0].parts"),
        ([user(text(" "), {"type": "data-x", "data": 1}), assistant(STEP)], "messages[1].parts"),
        ([user(file("video/mp4", "https://a.example/x"))], "messages[0].parts[0]"),
        ([user(file("text/csv", "https://a.example/x"))], "messages[0].parts[0]"),
        ([user(file("image/png", "data:image/png;base64,!"))], "messages[0].parts[0].url"),
        ([user(file("image/png", "file:///etc/passwd"))], "messages[0].parts[0].url"),
        ([assistant({"type": "tool-x", "state": "output-available"})], "messages[0]"),
    ],
)
def test_what_cannot_be_read_is_named(messages: Any, field: str) -> None:
    with pytest.raises(BadRequest) as raised:
        to_claude(messages)

    assert raised.value.field == field


UNREADABLE = [
    file("application/zip", "data:application/zip;base64,UEsDBAA="),
    file("image/png", "data:image/png;base64,!"),
    file("text/csv", "blob:https://a.example/1"),
]


@pytest.mark.parametrize("part", UNREADABLE)
def test_a_file_that_cannot_be_read_ends_its_own_question_not_the_chat(part: dict[str, Any]) -> None:
    asked = user(text("what is in it?"), part | {"filename": "a.b"})
    with pytest.raises(BadRequest):
        to_claude([asked])

    note = text(f"[a.b, {part['mediaType']}: not readable, and left out]")
    assert turns(asked, user(text("and now?"))) == [("user", [text("what is in it?"), note, text("and now?")])]


@pytest.mark.parametrize(
    "nothing",
    [assistant(), assistant(STEP), assistant(STEP, STEP), assistant(STEP, text("")), user(), user(text("")),
     user({"type": "data-mine", "data": {}}), user({"type": "of-tomorrow", "x": 1}), user({"type": "tool-x"}),
     assistant({"type": "of-tomorrow"}, {"type": "custom", "kind": "a.b"}), assistant({"type": "data-mine", "data": 1}),
     assistant({"type": "reasoning-file", "mediaType": "image/png", "url": "x"}),
     assistant({"type": "tool-x", "toolCallId": "t", "state": "input-streaming"}), assistant({"type": "reasoning", "text": "x"}),
     {"id": "s", "role": "system", "parts": []}, {"id": "s", "role": "system", "parts": [{"type": "text", "text": ""}]}],
)  # fmt: skip
def test_a_message_that_says_nothing_does_not_end_the_chat(nothing: dict[str, Any]) -> None:
    """A stop before the first word leaves the page with an empty answer, and it sends that with every later question."""
    assert turns(HELLO, nothing, user(text("and?"))) == [("user", [text("hello"), text("and?")])]


def test_what_the_user_said_while_the_answer_ran_stands_where_it_was_heard() -> None:
    steering = {"type": "steering-message", "id": "u2", "parts": [text("shorter"), file("text/csv", "data:,a")]}
    done = tool("output-available", output=1)
    csv = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}}

    assert turns(HELLO, assistant(STEP, done, steering, STEP, text("so"))) == [
        ("user", [text("hello")]),
        ("assistant", [CALL]),
        ("user", [{"type": "tool_result", "tool_use_id": "t", "content": "1"}, text("shorter"), csv]),
        ("assistant", [text("so")]),
    ]


def test_what_claude_signed_and_cited_goes_back_as_it_came() -> None:
    citations = [{"type": "web_search_result_location", "url": "https://a.example", "encrypted_index": "e"}]
    message = assistant(
        STEP,
        {"type": "reasoning", "text": "hm", "providerMetadata": kept(signature="sig")},
        {"type": "reasoning", "text": "", "providerMetadata": kept(redactedData="xyz")},
        {"type": "reasoning", "text": "unsigned"},
        text("so", providerMetadata=kept(citations=citations)),
        text("  "),
        {"type": "source-url", "sourceId": "1", "url": "https://a.example"},
        file("image/png", "https://a.example/x.png"),
        {"type": RAW_BLOCK, "data": {"type": "compaction", "content": "c"}},
        {"type": "data-own", "data": 1},
    )

    assert turns(HELLO, message)[1] == (
        "assistant",
        [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "text", "text": "so", "citations": citations},
            {"type": "compaction", "content": "c"},
        ],
    )


def tool(state: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool-look", "toolCallId": "t", "state": state, "input": {"a": 1}} | more


CALL = {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}}


@pytest.mark.parametrize(
    ("part", "result"),
    [
        (tool("output-available", output={"b": "ü"}), {"content": '{"b":"ü"}'}),
        (tool("output-available", output="plain"), {"content": "plain"}),
        (tool("output-available", output=[text("x")]), {"content": [text("x")]}),
        (tool("output-available", output=[1, 2]), {"content": "[1,2]"}),
        (tool("output-available", output=None), {"content": "null"}),
        (tool("output-error", errorText="it broke"), {"content": "it broke", "is_error": True}),
        (tool("output-denied"), {"content": "The user did not allow this.", "is_error": True}),
        (tool("input-available"), {"content": "The tool was not run.", "is_error": True}),
        (tool("approval-requested"), {"content": "The tool was not run.", "is_error": True}),
        (
            tool("approval-responded", approval={"id": "1", "approved": True}),
            {"content": "The tool was not run.", "is_error": True},
        ),
        (
            tool("approval-responded", approval={"id": "1", "approved": False}),
            {"content": "The user did not allow this.", "is_error": True},
        ),
    ],
)
def test_every_call_of_the_pages_tools_has_a_result_from_the_users_side(
    part: dict[str, Any], result: dict[str, Any]
) -> None:
    assert turns(HELLO, assistant(STEP, part, STEP, text("done")), user(text("thanks")))[1:] == [
        ("assistant", [CALL]),
        ("user", [{"type": "tool_result", "tool_use_id": "t"} | result]),
        ("assistant", [text("done")]),
        ("user", [text("thanks")]),
    ]


def test_results_come_before_what_the_user_says_next() -> None:
    after = turns(HELLO, assistant(STEP, text("let me see"), tool("output-available", output=1)), user(text("and?")))

    assert [block["type"] for block in after[2][1]] == ["tool_result", "text"]


def test_a_call_that_was_cut_within_its_input_is_left_out() -> None:
    cut = tool("input-streaming", input={"a": None})
    cut_on_claudes_side = tool("output-error", providerExecuted=True, errorText="cut", input=None)

    assert turns(HELLO, assistant(STEP, text("x"), cut, cut_on_claudes_side)) == [
        ("user", [text("hello")]),
        ("assistant", [text("x")]),
    ]


def server_tool(state: str, **more: Any) -> dict[str, Any]:
    part = {"type": "tool-web_search", "toolCallId": "s", "state": state, "input": {"query": "q"}}
    call = kept(type="server_tool_use", caller={"type": "direct"})
    return part | {"providerExecuted": True, "callProviderMetadata": call} | more


SERVER_CALL = {
    "type": "server_tool_use",
    "caller": {"type": "direct"},
    "id": "s",
    "name": "web_search",
    "input": {"query": "q"},
}


def test_a_tool_on_claudes_side_stays_in_the_answer_with_its_result() -> None:
    part = server_tool("output-available", output=[], resultProviderMetadata=kept(type="web_search_tool_result"))

    assert turns(HELLO, assistant(STEP, part, text("so")))[1] == (
        "assistant",
        [SERVER_CALL, {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, text("so")],
    )


def test_its_error_goes_back_as_it_came() -> None:
    error = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    kept_result = kept(type="web_search_tool_result", content=error)
    part = server_tool("output-error", errorText="unavailable", resultProviderMetadata=kept_result)

    assert turns(HELLO, assistant(part))[1][1][1] == {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": error,
    }


def test_a_result_that_came_with_the_next_answer_goes_into_that_one() -> None:
    result = kept(type="web_search_tool_result", index=0, deferred=True)
    part = server_tool("output-available", output=[], resultProviderMetadata=result)
    again = turns(HELLO, assistant(STEP, tool("output-available", output=1), part, STEP, text("so")))

    assert [(role, [block["type"] for block in blocks]) for role, blocks in again[1:]] == [
        ("assistant", ["tool_use", "server_tool_use"]),
        ("user", ["tool_result"]),
        ("assistant", ["web_search_tool_result", "text"]),
    ]


def test_a_result_that_came_after_other_blocks_goes_after_them() -> None:
    outer = server_tool("output-available", output=[], resultProviderMetadata=kept(type="outer_result", index=5))
    inner = server_tool("output-available", output=[], resultProviderMetadata=kept(type="inner_result"))
    cut = tool("input-streaming")
    message = assistant(STEP, text(" "), outer | {"toolCallId": "o"}, inner, cut, text("so"))

    assert [block["type"] for block in turns(HELLO, message)[1][1]] == [
        "server_tool_use",
        "server_tool_use",
        "inner_result",
        "outer_result",
        "text",
    ]


def test_a_call_that_still_runs_on_claudes_side_goes_back_without_a_result() -> None:
    assert turns(HELLO, assistant(STEP, server_tool("input-available")))[1] == ("assistant", [SERVER_CALL])


def test_a_call_on_claudes_side_that_was_stopped_is_left_out_of_later_questions() -> None:
    stopped = assistant(STEP, text("let me see"), server_tool("input-available"))

    assert turns(HELLO, stopped, user(text("and?")))[1:] == [
        ("assistant", [text("let me see")]),
        ("user", [text("and?")]),
    ]


def test_an_mcp_call_keeps_its_kind_and_server() -> None:
    part = {
        "type": "dynamic-tool",
        "toolName": "find",
        "toolCallId": "m",
        "state": "output-available",
        "input": {},
        "output": [text("x")],
        "providerExecuted": True,
        "callProviderMetadata": kept(type="mcp_tool_use", server_name="docs"),
        "resultProviderMetadata": kept(type="mcp_tool_result", is_error=False),
    }

    assert turns(HELLO, assistant(part))[1][1] == [
        {"type": "mcp_tool_use", "server_name": "docs", "id": "m", "name": "find", "input": {}},
        {"type": "mcp_tool_result", "is_error": False, "tool_use_id": "m", "content": [text("x")]},
    ]


def test_an_answer_continues_the_pages_last_message_if_that_is_the_assistants() -> None:
    message = assistant(STEP, tool("output-available", output=1), server_tool("input-available"))

    assert continued([HELLO]) is None
    assert continued([HELLO, message]) is message
    assert tool_calls(message) == {"t", "s"}


def chunks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(frame.removeprefix(b"data: ")) for frame in preface(message)]


def test_a_part_without_a_word_is_built_again_without_one() -> None:
    hidden = {"type": "reasoning", "text": "", "providerMetadata": kept(redactedData="xyz")}
    assert chunks_of(assistant(hidden))[1:] == [
        {"type": "reasoning-start", "id": "earlier-0"},
        {"type": "reasoning-end", "id": "earlier-0", "providerMetadata": kept(redactedData="xyz")},
    ]


def test_a_message_is_built_again_part_by_part() -> None:
    done = tool("output-available", output=1)
    failed = server_tool("output-error", errorText="e", resultProviderMetadata=kept(type="x"))
    message = assistant(
        STEP,
        {"type": "reasoning", "text": "hm", "providerMetadata": kept(signature="sig")},
        text("so"),
        done,
        failed,
        tool("output-denied"),
        tool("input-available", title="Look"),
        tool("input-streaming"),
        {"type": "dynamic-tool", "toolName": "n", "toolCallId": "d", "state": "input-available", "input": {}},
        {"type": "source-url", "sourceId": "1", "url": "https://a.example"},
        {"type": "unknown"},
    ) | {"metadata": {"model": "m"}}

    assert chunks_of(message) == [
        {"type": "start", "messageId": "a", "messageMetadata": {"model": "m"}},
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "earlier-1"},
        {"type": "reasoning-delta", "id": "earlier-1", "delta": "hm"},
        {"type": "reasoning-end", "id": "earlier-1", "providerMetadata": kept(signature="sig")},
        {"type": "text-start", "id": "earlier-2"},
        {"type": "text-delta", "id": "earlier-2", "delta": "so"},
        {"type": "text-end", "id": "earlier-2"},
        {"type": "tool-input-available", "toolCallId": "t", "toolName": "look", "input": {"a": 1}},
        {"type": "tool-output-available", "toolCallId": "t", "output": 1},
        {
            "type": "tool-input-available",
            "toolCallId": "s",
            "toolName": "web_search",
            "input": {"query": "q"},
            "providerExecuted": True,
            "providerMetadata": failed["callProviderMetadata"],
        },
        {
            "type": "tool-output-error",
            "toolCallId": "s",
            "errorText": "e",
            "providerExecuted": True,
            "providerMetadata": kept(type="x"),
        },
        {"type": "tool-input-available", "toolCallId": "t", "toolName": "look", "input": {"a": 1}},
        {"type": "tool-output-denied", "toolCallId": "t"},
        {"type": "tool-input-available", "toolCallId": "t", "toolName": "look", "input": {"a": 1}, "title": "Look"},
        {"type": "tool-input-available", "toolCallId": "d", "toolName": "n", "input": {}, "dynamic": True},
        {"type": "source-url", "sourceId": "1", "url": "https://a.example"},
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TYPES = ["text", "reasoning", "file", "step-start", "tool-x", "dynamic-tool", RAW_BLOCK, "source-url",
         "steering-message", "data-x", "custom"]  # fmt: skip
STATES = ["input-streaming", "input-available", "approval-requested", "approval-responded", "output-available",
          "output-error", "output-denied"]  # fmt: skip
parts = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(TYPES) | values,
        "toolCallId": st.text(max_size=3) | values,
        "state": st.sampled_from(STATES) | values,
        "url": st.sampled_from(["https://a.example", "data:text/plain,x", "data:;base64,eA=="]) | values,
        "mediaType": st.sampled_from(["image/png", "text/plain"]) | values,
        "providerMetadata": st.fixed_dictionaries({}, optional={"anthropic": values}) | values,
    }
    | dict.fromkeys(
        ("text", "output", "input", "data", "errorText", "providerExecuted", "toolName", "callProviderMetadata",
         "resultProviderMetadata", "citations", "title", "filename"),
        values,
    ),
)  # fmt: skip
messages = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "system"]), "id": values, "parts": st.lists(parts)}
)


@given(st.lists(messages | values, max_size=3))
def test_whatever_a_page_sends_is_read_or_refused(given_messages: list[Any]) -> None:
    try:
        system, out = to_claude(given_messages)
    except BadRequest:
        return
    json.dumps([system, out])
    assert all(turn["role"] != after["role"] for turn, after in pairwise(out))
    assert all(turn["content"] for turn in out)
    last = continued(given_messages)
    if last is not None:
        tool_calls(last)
        preface(last)


@pytest.mark.parametrize("empty", [[], [text("")], [text(" \n")], [{"type": "data-mark", "data": 1}]])
@pytest.mark.parametrize("after", [[], [{"id": "s", "role": "system", "parts": [text("be kind")]}]])
def test_a_newest_message_that_asks_nothing_is_refused_by_name(
    empty: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    """Else the older answer would be the last message, and Claude would go on with it."""
    with pytest.raises(BadRequest) as refused:
        to_claude([HELLO, assistant(STEP, text("hi")), user(*empty), *after])
    assert refused.value.field == "messages[2].parts"
    assert "messages[2] asks nothing" in refused.value.message


def test_an_older_message_that_asked_nothing_is_left_out() -> None:
    assert turns(HELLO, user(), assistant(STEP, text("hi")), user(), user(text("and?"))) == [
        ("user", [text("hello")]),
        ("assistant", [text("hi")]),
        ("user", [text("and?")]),
    ]
