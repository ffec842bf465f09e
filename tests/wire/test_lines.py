"""No text that a model can write splits a frame of ours, whatever a reader takes for a line's end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.events import Delta, DeltaKind, Event
from app.errors import UpstreamCut
from app.wire import WireFormat
from app.wire.lines import one_line
from app.wire.messages import MessagesFormat
from app.wire.plain import PlainFormat
from app.wire.ui_messages import preface
from app.wire.ui_stream import UiFormat

ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
texts = st.text(st.sampled_from(f'{ENDS}aé😀\\"\n\r'), min_size=1)
FORMATS = [lambda: PlainFormat(thinking=True), lambda: UiFormat("m"), MessagesFormat]


@given(texts)
def test_json_stays_the_same_and_is_one_line(text: str) -> None:
    encoded = one_line(json.dumps({text: text}, ensure_ascii=False).encode())
    assert json.loads(encoded) == {text: text}
    assert len(encoded.decode().splitlines()) == 1


@pytest.mark.parametrize("made", FORMATS)
@pytest.mark.parametrize("kind", ["text", "thinking", "input_json"])
@given(text=texts)
def test_no_frame_has_more_lines_for_some_readers_than_for_others(
    made: type[WireFormat], kind: DeltaKind, text: str
) -> None:
    wire = made()
    block = {"type": "tool_use", "id": text, "name": text}
    start = Event("content_block_start", b"", {"index": 0, "content_block": block})
    for frame in [*wire.encode([start, Delta(0, kind, text)]), *wire.end(UpstreamCut(text))]:
        assert frame.decode().splitlines() == frame.decode().removesuffix("\n").split("\n")


def test_a_rebuilt_message_has_none_either() -> None:
    message = {"id": "m", "parts": [{"type": "text", "text": ENDS}]}
    for frame in preface(message):
        assert frame.decode().splitlines() == frame.decode().removesuffix("\n").split("\n")


def test_what_passes_as_it_came_keeps_its_bytes() -> None:
    raw = '{"type":"of_tomorrow","text":"a\u2028b\x85"}'.encode()
    assert MessagesFormat().encode([Event("of_tomorrow", raw, json.loads(raw))]) == [
        b"event: of_tomorrow\ndata: %b\n\n" % raw
    ]
    odd = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xe2\x80\xa8"},"new":1}'
    assert odd in MessagesFormat().encode([Delta(0, "text", "\u2028", raw=odd)])[0]
