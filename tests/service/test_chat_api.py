"""`/api/chat` on the wire: whose chat it is, what comes back, what is refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from app.access.callers import Caller
from app.money.prices import SHIPPED, load_prices
from app.streams.lifecycle import ReaderState
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.routes.chat_api import cost_of
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import AT_ONCE_S, Reader, eventually, steady

ALICE: dict[str, Any] = {"Authorization": "Bearer alice"}
BOB = {"x-api-key": "bob"}
JSON = {"Content-Type": "application/json"}


def body(directive: str, chat: str = "c1", **more: Any) -> dict[str, Any]:
    part = {"type": "text", "text": f"Go. {{{{{directive}}}}}"}
    message = {"id": "u1", "role": "user", "parts": [part]}
    return {"id": chat, "messages": [message], "trigger": "submit-message"} | more


def chunks_of(raw: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should; comments and ids are passed over, as the client does."""
    assert raw.endswith(b"data: [DONE]\n\n")
    lines = [line for line in raw.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines[:-1]]


def text_of(raw: bytes) -> str:
    return "".join(chunk["delta"] for chunk in chunks_of(raw) if chunk["type"] == "text-delta")


RESUMABLE: dict[str, Any] = {"resumable": True}


async def asking(service: Running, directive: str, *, asked: dict[str, Any] = {}, **headers: str) -> Reader:  # noqa: B006
    """A page that has asked and has the first words."""
    reader = await Reader.connect(service.url)
    raw = json.dumps(body(directive, **asked)).encode()
    await reader.send(reader.request(raw, path="/api/chat", headers=JSON | headers))
    assert await reader.head() == 200
    await reader.until(b"text-delta")
    return reader


async def test_an_answer_has_the_headers_and_the_frames_of_the_protocol(
    service: Running, client: aiohttp.ClientSession
) -> None:
    async with client.post(f"{service.url}/api/chat", json=body("tokens=3 text=numbered")) as response:
        raw = await response.read()

    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["X-Vercel-AI-UI-Message-Stream"] == "v1"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert text_of(raw) == numbered_text(3)
    start, *_, finish = chunks_of(raw)
    assert (start["type"], finish) == ("start", {"type": "finish", "finishReason": "stop"})
    assert start["messageId"].startswith("msg_")


async def test_a_chat_is_replayed_from_its_start_while_it_runs_and_for_a_while_after(
    serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(replay_s=2.0)
    first = await asking(service, "tokens=60 rate=100 text=numbered", asked=RESUMABLE)
    first.leave()
    async with client.get(f"{service.url}/api/chat/c1/stream") as response:
        live = await response.read()
    async with client.get(f"{service.url}/api/chat/c1/stream") as response:
        ended = await response.read()

    assert text_of(live) == numbered_text(60)
    assert ended == live
    await eventually(lambda: service.streams.named(Caller(), "c1") is None)
    async with client.get(f"{service.url}/api/chat/c1/stream") as response:
        assert (response.status, await response.read()) == (204, b"")


async def leave(reader: Reader) -> None:
    reader.leave()


async def half_close(reader: Reader) -> None:
    """Nobody can tell it from leaving: a FIN is all there is to see of either."""
    reader.half_close()


async def reset(reader: Reader) -> None:
    reader.reset()


@pytest.mark.parametrize("way", [leave, half_close, reset])
async def test_a_lost_page_stops_claude_unless_it_asked_to_come_back(
    way: Callable[[Reader], Awaitable[None]], service: Running, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    """The AI SDK's `stop()` and a reload are the same lost connection."""
    reader = await asking(service, "tokens=5000 rate=100")
    async with client.get(f"{service.url}/api/chat/c1/stream") as response:
        assert response.status == 204
    await way(reader)
    book = await simulator.book()
    await book.ended.wait()

    assert book.gone_at is not None
    assert book.gone_at - reader.left_at <= AT_ONCE_S
    reader.leave()
    await eventually(lambda: service.streams.named(Caller(), "c1") is None)


async def test_a_page_that_is_lost_before_the_first_word_comes_back_too(
    service: Running, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    """Its chat's id is its own, so that it need not have been told anything."""
    reader = await Reader.connect(service.url)
    raw = json.dumps(body("tokens=5 text=numbered first_event_s=0.5", **RESUMABLE)).encode()
    await reader.send(reader.request(raw, path="/api/chat", headers=JSON))
    await simulator.book()
    reader.leave()
    await eventually(
        lambda: any(session.lifecycle.reader is ReaderState.HELD for session in service.streams.live.values())
    )
    async with client.get(f"{service.url}/api/chat/c1/stream") as response:
        assert text_of(await response.read()) == numbered_text(5)
    assert len(simulator.books) == 1


async def test_a_chat_that_nobody_comes_back_to_is_ended(
    serve: Serve, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    service = await serve(grace_s=0.2)
    reader = await asking(service, "tokens=50000 rate=200", asked=RESUMABLE)
    reader.leave()
    book = await simulator.book()
    await book.ended.wait()

    assert book.gone_at is not None
    assert 0.2 <= book.gone_at - reader.left_at <= 0.2 + AT_ONCE_S
    async with client.get(f"{service.url}/api/chat/c1/stream") as response:
        assert response.status == 204


async def test_an_answer_larger_than_what_is_kept_is_not_half_resumed(
    serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(replay_bytes=1024)
    async with client.post(f"{service.url}/api/chat", json=body("tokens=2000 text=numbered", **RESUMABLE)) as response:
        assert text_of(await response.read()) == numbered_text(2000)
    async with client.get(f"{service.url}/api/chat/c1/stream") as response:
        assert response.status == 204


async def test_another_callers_chat_of_the_same_id_is_another_chat(
    serve: Serve, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    service = await serve(api_keys=("alice", "bob"))
    alice = await asking(service, "tokens=5000 rate=100", **ALICE)
    async with client.get(f"{service.url}/api/chat/c1/stream", headers=BOB) as response:
        assert response.status == 204
    async with client.post(f"{service.url}/api/chat/c1/stop", headers=BOB) as response:
        assert response.status == 404
    async with client.post(f"{service.url}/api/chat", json=body("tokens=2"), headers=BOB) as response:
        assert response.status == 200
        await response.read()
    assert not (await simulator.book()).ended.is_set()
    async with client.post(f"{service.url}/api/chat/c1/stop", headers=ALICE) as response:
        assert await response.json() == {"stopped": True}
    rest = await alice.rest()
    alice.leave()

    assert rest.endswith(
        b'data: {"type":"finish","finishReason":"interrupted"}\n\nid: %b\ndata: [DONE]\n\n' % _last(rest)
    )
    book = await simulator.book()
    await book.ended.wait()
    assert book.gone_at is not None


def _last(raw: bytes) -> bytes:
    return raw.rpartition(b"id: ")[2].partition(b"\n")[0]


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("GET", "/c1/stream"), ("POST", "/c1/stop")])
async def test_a_stranger_gets_nowhere(method: str, path: str, serve: Serve, client: aiohttp.ClientSession) -> None:
    service = await serve(api_keys=("alice",))
    async with client.request(method, f"{service.url}/api/chat{path}", json=body("tokens=2")) as response:
        assert response.status == 401


async def test_a_newer_question_is_counted_as_what_took_the_older_one_over(
    service: Running, client: aiohttp.ClientSession
) -> None:
    first = await asking(service, "tokens=5000 rate=100")
    async with client.post(f"{service.url}/api/chat", json=body("tokens=2")) as response:
        await response.read()
    rest = await first.rest()
    first.leave()
    await eventually(lambda: not service.streams.live)
    async with client.get(f"{service.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()

    assert b'{"type":"abort","reason":"taken_over"}' in rest
    assert [line.rpartition(" ")[2] for line in lines if "streams_total" in line and 'outcome="taken_over"' in line and 'phase="text"' in line and "opus-4-8" in line] == ["1.0"]  # fmt: skip


async def test_stopping_a_chat_that_has_ended_changes_nothing(service: Running, client: aiohttp.ClientSession) -> None:
    async with client.post(f"{service.url}/api/chat", json=body("tokens=2", **RESUMABLE)) as response:
        await response.read()
    await eventually(lambda: not service.streams.live)
    async with client.post(f"{service.url}/api/chat/c1/stop") as response:
        assert await response.json() == {"stopped": False}
    async with client.post(f"{service.url}/api/chat/never-asked/stop") as response:
        assert (response.status, (await response.json())["type"]) == (404, "not_found_error")


async def test_a_chat_that_no_one_reads_holds_claude_still(service: Running, simulator: Simulator) -> None:
    reader = await asking(service, "tokens=50000 text=numbered", asked=RESUMABLE)
    reader.leave()
    book = await simulator.book()
    await book.is_blocked.wait()
    made = await steady(lambda: book.tokens)

    assert not book.ended.is_set()
    assert made < 20_000


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "parts": []}]}, "messages[0].parts"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages[0].parts"),
        ({"resumabel": True}, "resumabel"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"policy": "never"}, "policy"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(
    asked: dict[str, Any], field: str, service: Running, client: aiohttp.ClientSession
) -> None:
    async with client.post(f"{service.url}/api/chat", json=body("tokens=2", **asked)) as response:
        told = await response.json()

    assert response.status == 400
    assert (told["type"], told["field"]) == ("invalid_request_error", field)


async def test_a_system_prompt_is_given_once(service: Running, client: aiohttp.ClientSession) -> None:
    system = {"id": "s", "role": "system", "parts": [{"type": "text", "text": "Be kind."}]}
    asked = body("tokens=2")
    asked["messages"].insert(0, system)
    async with client.post(f"{service.url}/api/chat", json=asked) as response:
        assert response.status == 200
    async with client.post(f"{service.url}/api/chat", json=asked | {"system": "Be short."}) as response:
        assert (response.status, (await response.json())["field"]) == (400, "system")


async def test_silence_is_filled_with_comments(serve: Serve, client: aiohttp.ClientSession) -> None:
    service = await serve(commit_s=0.2, heartbeat_s=0.2)
    async with client.post(f"{service.url}/api/chat", json=body("tokens=2 ttft_s=2")) as response:
        raw = await response.read()

    assert 3 <= raw.count(b": keep-alive\n") <= 15  # ten, on a machine that has time


def test_an_answer_costs_what_the_price_table_says() -> None:
    cost_usd = cost_of(load_prices(SHIPPED))
    usage = {"input_tokens": 1_000_000, "output_tokens": 100_000}

    assert cost_usd("claude-opus-4-8", usage) == pytest.approx(5 + 2.5)
    assert cost_usd("claude-unheard-of", usage) is None
