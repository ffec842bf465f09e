"""client.js's parser of server-sent events, in a real browser, against the specification read a second time."""

from __future__ import annotations

import base64
import random
import re

import pytest
from playwright.async_api import Page

from tests.support.scripted import run

pytestmark = pytest.mark.browser


PUSH = """
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
return arg.map(({ stream, cuts }) => {
  const parser = new client.SseParser(), whole = bytes(stream), events = [];
  for (let from = 0, i = 0; i <= cuts.length; from = cuts[i], i += 1) {
    events.push(...parser.push(whole.subarray(from, cuts[i] ?? whole.length)));
  }
  return [events, parser.lastEventId, parser.retryMs];
});
"""

Parsed = tuple[list[dict[str, str]], str, int | None]


def expected(stream: bytes) -> Parsed:
    """WHATWG HTML 9.2.6, read a second time: the whole stream at once, in the words of the specification."""
    text = stream.decode().removeprefix("\ufeff")
    events: list[dict[str, str]] = []
    data, event, last_id, id_buffer = "", "", "", ""
    retry: int | None = None
    for line in re.split("\r\n|\n|\r", text)[:-1]:
        if line == "":
            last_id = id_buffer
            if data:
                events.append({"id": last_id, "event": event or "message", "data": data.removesuffix("\n")})
            data, event = "", ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data += value + "\n"
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            id_buffer = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return events, last_id, retry


async def parse(page: Page, cases: list[tuple[bytes, list[int]]]) -> list[Parsed]:
    arg = [{"stream": base64.b64encode(stream).decode(), "cuts": cuts} for stream, cuts in cases]
    return [(events, last_id, retry) for events, last_id, retry in await run(page, PUSH, arg)]


PIECES = ["data", "data:", "data: ", "data:  ", ":", ": keep-alive", "id", "id: 7", "id: \0", "event: x", "retry: 20"]
PIECES += [
    "retry: 2s",
    "datax: no",
    "\ufeff",
    "é",
    "𝒳",
    "👩‍👩‍👧",
    "{}",
    "日本",
    "a",
    " ",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r",
    "\r\n\r\n",
]


async def test_the_parser_agrees_with_the_specification_under_any_chunking(page: Page) -> None:
    dice = random.Random(9_2_6)
    cases: list[tuple[bytes, list[int]]] = []
    for _ in range(600):
        stream = "".join(dice.choices(PIECES, k=dice.randrange(40))).encode()
        cuts = sorted(dice.choices(range(len(stream) + 1), k=dice.randrange(12)))
        cases += [(stream, cuts), (stream, list(range(1, len(stream))))]
    for (stream, cuts), got in zip(cases, await parse(page, cases), strict=True):
        assert got == expected(stream), (stream, cuts)


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n", None),
        (b"data\n\ndata\ndata\n\ndata:", ["", "\n"]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
        (b"data:test\n\ndata: test\n\n", ["test", "test"]),
        ("data: 𝒳é👩‍👩‍👧\n\n".encode(), ["𝒳é👩‍👩‍👧"]),
        (b"data: not ended\n", []),
    ],
)
async def test_the_parser_reads_what_the_specification_shows(page: Page, stream: bytes, data: list[str] | None) -> None:
    wanted = ["first event", "second event", " third event"] if data is None else data
    every_cut: list[list[int]] = [[], *[[n] for n in range(len(stream))], list(range(1, len(stream)))]
    for events, _, _ in await parse(page, [(stream, cuts) for cuts in every_cut]):
        assert [event["data"] for event in events] == wanted


async def test_the_parser_takes_linear_time_for_a_huge_event_in_small_pieces(page: Page) -> None:
    """One event may take far longer than sixteen of a sixteenth, measured in turn, only if the parser looks back."""
    small, large = await run(
        page,
        """
        const time = (size) => {
          const bytes = new TextEncoder().encode("data: " + "x".repeat(size) + "\\n\\n");
          const parser = new client.SseParser(), start = performance.now();
          let events = 0;
          for (let from = 0; from < bytes.length; from += 256) {
            events += parser.push(bytes.subarray(from, from + 256)).length;
          }
          if (events !== 1) throw new Error("lost the event");
          return performance.now() - start;
        };
        time(1 << 20);
        const sixteen = () => [...Array(16)].reduce((sum) => sum + time(1 << 20), 0);
        const [small, large] = [[], []];
        for (let n = 0; n < 2; n += 1) small.push(sixteen()), large.push(time(16 << 20));
        return [Math.min(...small), Math.min(...large)];
        """,
    )
    assert large < 5 * max(small, 32)


async def test_the_parser_takes_linear_time_for_many_lines_in_one_chunk(page: Page) -> None:
    small, large = await run(
        page,
        """
        const time = (lines) => {
          const bytes = new TextEncoder().encode("data: x\\n\\n".repeat(lines));
          const start = performance.now();
          if (new client.SseParser().push(bytes).length !== lines) throw new Error("lost an event");
          return performance.now() - start;
        };
        time(20000);
        const sixteen = () => [...Array(16)].reduce((sum) => sum + time(20000), 0);
        const [small, large] = [[], []];
        for (let n = 0; n < 2; n += 1) small.push(sixteen()), large.push(time(320000));
        return [Math.min(...small), Math.min(...large)];
        """,
    )
    assert large < 5 * max(small, 32)
