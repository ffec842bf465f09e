"""The simulated Claude over real sockets: what it says, refuses and keeps in its books."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import pytest
from click.testing import CliRunner

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.command import command
from app.tools.simulator.scenario import ERROR_TYPES, Scenario
from app.tools.simulator.server import Simulator
from tests.support.answers import ANSWERS, NAMES, events_in
from tests.support.peer import Peer, body_of, events_of, simulated, streamed, text_of

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[3]


# --- what is said --------------------------------------------------------------------------------------------------


async def test_the_official_client_reads_thinking_text_and_a_tool_call() -> None:
    async with Simulator() as simulator, anthropic.AsyncAnthropic(base_url=simulator.url, api_key="k") as client:
        asked = "{{tokens=30 thinking=5 tool=4 text=numbered pings_s=1 chunking=random tokens_per_delta=1-3}}"
        tools: list[Any] = [{"name": "wetter", "input_schema": {"type": "object"}}]
        async with client.messages.stream(
            model="claude-opus-5-5", max_tokens=100, tools=tools, messages=[{"role": "user", "content": asked}]
        ) as stream:
            message = await stream.get_final_message()
            assert stream.request_id == "req_sim_000001"

    thinking, text, tool = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "".join(f" thinking{number:04d}" for number in range(1, 6))
    assert text.type == "text"
    assert text.text == numbered_text(30)
    assert tool.type == "tool_use"
    assert (tool.name, tool.input) == ("wetter", {"query": " tool0001 tool0002 tool0003 tool0004"})
    assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 39)
    book = simulator.books[0]
    assert (book.tokens, book.thinking_tokens, book.would_have, book.finished, book.live) == (39, 5, 39, True, False)


async def test_the_official_client_reads_a_message_without_stream_and_counts_tokens_and_lists_models() -> None:
    async with Simulator() as simulator, anthropic.AsyncAnthropic(base_url=simulator.url, api_key="k") as client:
        messages: list[Any] = [
            {"role": "user", "content": "{{tokens=5 text=numbered thinking=2 hidden newline=cr comment}}"}
        ]
        message = await client.messages.create(model="claude-opus-5-5", max_tokens=100, messages=messages)
        counted = await client.messages.count_tokens(model="claude-opus-5-5", messages=messages)
        models = [model.id async for model in client.models.list()]
        model = await client.models.retrieve(models[0])
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("claude-0")

    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.input_tokens == counted.input_tokens > 10
    assert message.usage.output_tokens == simulator.books[0].tokens == 7
    assert model.id == models[0] == "claude-fable-5-2"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("chunking", ["events", "random", "bytes"])
async def test_every_chunking_and_line_ending_carries_the_same_text(chunking: str, newline: str) -> None:
    knob = {"\n": "lf", "\r\n": "crlf", "\r": "cr"}[newline]
    async with simulated() as (simulator, session):
        directive = f"tokens=40 chunking={chunking} newline={knob}"
        async with session.post("/v1/messages", json=body_of(directive)) as response:
            wire = await response.read()
        expected = await streamed(session, "tokens=40")

    lines = wire.replace(newline.encode(), b"\n")
    assert text_of(events_of(lines)) == text_of(expected)
    assert wire.count(newline.encode()) == lines.count(b"\n")
    assert simulator.books[0].bytes == len(wire)


async def test_comments_ids_and_a_retry_line_are_added_when_asked() -> None:
    async with (
        simulated() as (_, session),
        session.post("/v1/messages", json=body_of("tokens=2 comment")) as response,
    ):
        wire = await response.read()

    assert wire.startswith(b"retry: 3000\n: simulated\n")
    assert wire.count(b"\nid: ") == wire.count(b"\ndata:") == wire.count(b"event: ")


@pytest.mark.parametrize("name", NAMES)
async def test_an_answer_is_replayed_to_the_same_events_however_it_is_cut(name: str) -> None:
    recorded = events_in(name)
    async with simulated(transcripts=ANSWERS) as (simulator, session):
        for seed in range(2):
            assert await streamed(session, f"transcript={name} chunking=random seed={seed}") == recorded

    deltas = sum(event["type"] == "content_block_delta" for event in recorded)
    for book in simulator.books:
        assert (book.tokens, book.would_have, book.finished) == (deltas, deltas, True)
        assert book.usage["output_tokens"] == recorded[-2]["usage"]["output_tokens"]


async def test_an_answer_that_is_hurried_comes_whole_at_once_whatever_its_rate() -> None:
    async with simulated() as (simulator, session):
        asked = body_of("tokens=5000 rate=50 text=numbered")
        async with session.post("/v1/messages", json=asked) as response:
            begun = await response.content.readuntil(b"token0003")
            book = simulator.books[0]
            assert book.tokens < 5000
            book.hurried = True
            rest = await response.content.read()

    assert text_of(events_of(begun + rest)) == numbered_text(5000)
    assert book.finished


async def test_a_replayed_answer_can_be_cut_after_so_many_deltas() -> None:
    async with simulated(transcripts=ANSWERS) as (simulator, session):
        events = await streamed(session, "transcript=long fault=overloaded after=3")

    assert [event["type"] for event in events[-2:]] == ["content_block_delta", "error"]
    assert simulator.books[0].tokens == 3


async def test_a_recording_that_is_not_there_answers_400() -> None:
    async with (
        simulated() as (_, session),
        session.post("/v1/messages", json=body_of("transcript=text")) as response,
    ):
        assert response.status == 400
        assert "transcript" in (await response.json())["error"]["message"]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (body_of("speed=3"), 400, "speed"),
        (body_of("", max_tokens=0), 400, "max_tokens"),
        (body_of("", messages=[]), 400, "messages"),
        (body_of("", model=5), 400, "model"),
        ({"model": "m", "max_tokens": 1}, 400, "messages"),
        ([], 400, "object"),
    ],
)
async def test_an_impossible_request_answers_400_and_is_in_no_book(body: object, status: int, named: str) -> None:
    async with simulated() as (simulator, session), session.post("/v1/messages", json=body) as response:
        answer = await response.json()

    assert (response.status, answer["type"], answer["error"]["type"]) == (status, "error", "invalid_request_error")
    assert named in answer["error"]["message"]
    assert answer["request_id"] == response.headers["request-id"]
    assert simulator.books == []


async def test_a_request_without_key_answers_401_and_either_header_will_do() -> None:
    async with Simulator() as simulator, aiohttp.ClientSession(simulator.url) as session:
        statuses = []
        for headers in ({}, {"x-api-key": "k"}, {"authorization": "Bearer k"}, {"authorization": "Basic k"}):
            async with session.post("/v1/messages", json=body_of("tokens=1"), headers=headers) as response:
                statuses.append(response.status)
                await response.read()

    assert statuses == [401, 200, 200, 401]


@pytest.mark.parametrize("status", sorted(ERROR_TYPES))
@pytest.mark.parametrize("stream", [True, False])
async def test_an_http_fault_answers_in_the_shape_of_the_messages_api(status: int, stream: bool) -> None:
    async with simulated() as (simulator, session):
        asked = body_of(f"fault=http_{status} retry_after_s=7", stream=stream)
        async with session.post("/v1/messages", json=asked) as response:
            answer = await response.json()

    assert response.status == simulator.books[0].status == status
    assert answer["error"]["type"] == ERROR_TYPES[status]
    assert answer["request_id"] == response.headers["request-id"] == simulator.books[0].id
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert (simulator.books[0].tokens, simulator.books[0].finished) == (0, False)


async def test_only_the_first_attempts_fail_when_so_many_are_asked_for() -> None:
    async with simulated() as (simulator, session):
        statuses = []
        for directive in ["fault=http_529 fault_times=2 tokens=1"] * 4 + ["fault=http_529 fault_times=2 tokens=2"]:
            async with session.post("/v1/messages", json=body_of(directive)) as response:
                statuses.append(response.status)

    assert statuses == [529, 529, 200, 200, 529]
    assert [book.attempt for book in simulator.books] == [1, 2, 3, 4, 1]
    assert [book.fault for book in simulator.books] == ["http_529", "http_529", "none", "none", "http_529"]


@pytest.mark.parametrize(
    "raw",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
     b"POST /v1/messages HTTP/1.1\r\ncontent-length: many\r\n\r\n"],
)  # fmt: skip
async def test_what_is_no_http_answers_400_and_closes(raw: bytes) -> None:
    async with Simulator() as simulator:
        peer = await Peer.connect(simulator)
        await peer.send(raw)
        assert (await peer.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        peer.close()


@pytest.mark.parametrize("framing", ["content-length: 40000000", "transfer-encoding: chunked"])
async def test_a_body_beyond_the_limit_answers_413(framing: str) -> None:
    async with Simulator() as simulator:
        peer = await Peer.connect(simulator)
        await peer.send(f"POST /v1/messages HTTP/1.1\r\n{framing}\r\n\r\n2625a00\r\n".encode())
        assert (await peer.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        peer.close()


# --- connections and the rest --------------------------------------------------------------------------------------


async def test_a_connection_serves_one_request_after_another() -> None:
    async with Simulator() as simulator:
        peer = await Peer.connect(simulator)
        for number in range(3):
            await peer.ask(f"tokens={number + 1} text=numbered")
            assert f"token{number + 1:04d}".encode() in await peer.read_until(b"0\r\n\r\n")
        await peer.send(b"GET /books HTTP/1.1\r\nconnection: close\r\n\r\n")
        books = json.loads((await peer.read_to_end()).partition(b"\r\n\r\n")[2])
        peer.close()

    assert [book["tokens"] for book in books] == [1, 2, 3]
    assert all(book["finished"] and not book["live"] and book["gone_at"] is None for book in books)


async def test_http_1_0_gets_a_body_without_chunks_that_ends_with_the_connection() -> None:
    async with Simulator() as simulator:
        peer = await Peer.connect(simulator)
        await peer.ask("tokens=3 text=numbered", version="1.0")
        head, _, body = (await peer.read_to_end()).partition(b"\r\n\r\n")
        peer.close()

    assert b"transfer-encoding" not in head
    assert body.startswith(b"event: message_start\n")
    assert body.endswith(b'data: {"type":"message_stop"}\n\n')


async def test_a_chunked_request_that_waits_for_100_continue_is_served() -> None:
    async with Simulator() as simulator:
        peer = await Peer.connect(simulator)
        await peer.send(
            b"POST /scenario HTTP/1.1\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        await peer.read_until(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.send(b'8\r\n{"tokens\r\n4;x=y\r\n":7}\r\n0\r\ntrailer: x\r\n\r\n')
        assert (await peer.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        peer.close()
        assert simulator.defaults.tokens == 7


async def test_scenario_turns_the_defaults_and_reset_forgets_everything() -> None:
    async with simulated(Scenario(tokens=3)) as (simulator, session):
        async with session.post(
            "/scenario", json={"tokens": 5, "text": "numbered", "tokens_per_delta": "2"}
        ) as response:
            assert (await response.json())["tokens"] == "5"
        async with session.post("/scenario", json={"speed": 5}) as response:
            assert (response.status, "speed" in await response.text()) == (400, True)
        assert text_of(await streamed(session, "")) == numbered_text(5)
        async with session.get("/books") as response:
            (book,) = await response.json()
        async with session.post("/reset") as response:
            assert response.status == 200
        async with session.get("/books") as response:
            assert await response.json() == []
        assert simulator.defaults == Scenario(tokens=3)
        async with session.get("/nowhere") as response:
            assert response.status == 404

    assert book["usage"]["output_tokens"] == book["tokens"] == book["would_have"] == 5
    assert set(book) >= {"id", "model", "stream", "started_at", "thinking_tokens", "gone_at", "gone_reason", "paused_s",
                         "bytes", "attempt", "live", "finished"}  # fmt: skip


async def test_it_listens_on_ipv6_too() -> None:
    async with (
        Simulator(host="::1", sndbuf_bytes=None) as simulator,
        aiohttp.ClientSession() as session,
        session.get(f"{simulator.url}/books") as response,
    ):
        assert await response.json() == []


async def test_the_command_says_where_it_listens_and_leaves_at_sigterm() -> None:
    script = "from app.tools.simulator.command import command; command()()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, "--tokens", "4", "--rate", "0", "--text", "numbered", "--ttft-s", "0",
        stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    assert process.stdout is not None
    said_where = (await process.stdout.readline()).decode().strip()
    assert said_where.startswith("simulated Claude on http://127.0.0.1:")
    async with aiohttp.ClientSession(said_where.split()[-1], headers={"x-api-key": "k"}) as session:
        assert text_of(await streamed(session, "")) == numbered_text(4)
    process.terminate()
    assert await process.wait() == 0


def test_the_command_has_an_option_for_every_knob_and_refuses_impossible_ones() -> None:
    options = {option for parameter in command().params for option in parameter.opts}
    assert {f"--{name.replace('_', '-')}" for name in Scenario().knobs()} <= options

    result = CliRunner().invoke(command(), ["--rate", "fast"])
    assert (result.exit_code, "rate" in result.output) == (2, True)
