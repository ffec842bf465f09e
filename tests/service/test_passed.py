"""The Messages API's other paths, through the service: the SDKs' usual calls, bodies of any size, and who leaves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import anthropic
import pytest

from app.web.runner import Running
from tests.support.anthropic_sdk import KEY, outcome, plain, sdk
from tests.support.node import node
from tests.support.other_paths import KEY as SERVICES_KEY
from tests.support.other_paths import PIECE, OtherPaths, in_front_of, other_paths
from tests.support.readers import Reader, eventually, steady

MEGABYTE = 1_048_576


@pytest.fixture
async def claude() -> AsyncIterator[OtherPaths]:
    async with other_paths() as running:
        yield running


@pytest.fixture
async def through(claude: OtherPaths) -> AsyncIterator[Running]:
    async with in_front_of(claude) as service:
        yield service


# --- the SDKs ------------------------------------------------------------------------------------------------------


async def upload(client: anthropic.AsyncAnthropic) -> Any:
    return plain(await client.files.upload(file=("a.pdf", b"%PDF-1" * 1000, "application/pdf")))


async def upload_beta(client: anthropic.AsyncAnthropic) -> Any:
    return plain(await client.beta.files.upload(file=("ä ö.pdf", io.BytesIO(b"%PDF-1" * 1000), "application/pdf")))


async def files(client: anthropic.AsyncAnthropic) -> Any:
    return [plain(file) async for file in client.files.list(limit=5)]


async def metadata(client: anthropic.AsyncAnthropic) -> Any:
    return plain(await client.files.retrieve_metadata("file_1"))


async def download(client: anthropic.AsyncAnthropic) -> Any:
    content = await client.beta.files.download("300000")
    return hashlib.sha256(await content.read()).hexdigest()


async def delete(client: anthropic.AsyncAnthropic) -> Any:
    return plain(await client.files.delete("file_1"))


async def batch(client: anthropic.AsyncAnthropic) -> Any:
    params: Any = {"model": "claude-x", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    made = plain(await client.messages.batches.create(requests=[{"custom_id": "c1", "params": params}]))
    return made | {"results_url": bool(made["results_url"])}


async def results(client: anthropic.AsyncAnthropic) -> Any:
    return [plain(result) async for result in await client.messages.batches.results("batch_1")]


async def cancel(client: anthropic.AsyncAnthropic) -> Any:
    return (await client.messages.batches.cancel("batch_1")).id


async def skills(client: anthropic.AsyncAnthropic) -> Any:
    return [plain(skill) async for skill in client.beta.skills.list()]


async def skill(client: anthropic.AsyncAnthropic) -> Any:
    return plain(await client.beta.skills.create(files=[("s/SKILL.md", b"# S", "text/markdown")]))


async def models(client: anthropic.AsyncAnthropic) -> Any:
    return [plain(model) async for model in client.models.list(limit=7, after_id="a b/ü")]


async def unknown(client: anthropic.AsyncAnthropic) -> Any:
    return await client.models.retrieve("no-such")


Call = Callable[[anthropic.AsyncAnthropic], Awaitable[Any]]
CALLS: list[Call] = [upload, upload_beta, files, metadata, download, delete, batch, results, cancel, skills, skill, models, unknown]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=[call.__name__ for call in CALLS])
async def test_the_python_sdk_gets_the_same_and_asks_the_same(call: Call, claude: OtherPaths, through: Running) -> None:
    seen = []
    for url in (claude.url, through.url):
        claude.asked.clear()
        async with sdk(url) as client:
            told = await outcome(call(client))
        seen.append((told, [(asked.method, asked.raw_path, asked.size_bytes) for asked in claude.asked]))
        headers = dict(claude.asked[-1].headers)
    (straight, straight_asked), (passed, passed_asked) = seen

    if call is unknown:  # the service's own key, should Claude repeat it, does not pass
        assert SERVICES_KEY in str(straight)
        assert SERVICES_KEY not in str(passed)
        assert passed[:3] == straight[:3]
    else:
        assert passed == straight
    assert [asked[:2] for asked in passed_asked] == [asked[:2] for asked in straight_asked]
    if "upload" not in call.__name__ and call is not skill:  # whose multipart boundary is drawn anew
        assert passed_asked == straight_asked
    assert headers["authorization"] == f"Bearer {SERVICES_KEY}"
    assert KEY not in str(headers)


async def test_the_typescript_sdk_gets_the_same(claude: OtherPaths, through: Running) -> None:
    straight = await node("ts_files.mjs", {"base_url": claude.url})
    asked = [(one.method, one.raw_path) for one in claude.asked]
    claude.asked.clear()

    assert await node("ts_files.mjs", {"base_url": through.url}) == straight
    assert [(one.method, one.raw_path) for one in claude.asked] == asked
    assert len(asked) >= 9


# --- headers -------------------------------------------------------------------------------------------------------

SENT = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "files-api-2025-04-14",
    "anthropic-workspace-id": "wrkspc_1",
    "accept": "application/binary",
    "user-agent": "curl/9",
    "range": "bytes=0-99",
    "if-none-match": '"x"',
    "idempotency-key": "k1",
    "x-claude-code-session-id": "s1",
    "x-team": "blue",
}
HELD_BACK = {"x-api-key": KEY, "cookie": "a=b", "x-forwarded-for": "10.0.0.1", "connection": "keep-alive, x-hop", "x-hop": "1", "te": "trailers"}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/files/100/content?chunked&a=b%20c&a=d", None),
        ("POST", "/v1/messages/batches", b'{"requests": [ ]}'),
        ("POST", "/v1/messages?beta=true", b'{ "b":1,"a" : [1.50], "stream": 1, "model":"m" }'),
        ("POST", "/v1/messages?beta=true", b'{ "stream" :true, "z": 1,"model":"m", "max_tokens": 5 }'),
        ("POST", "/v1/messages/count_tokens?a=b%20c&a=d", b'{ "model" : "m"}'),
    ],
)
async def test_what_goes_up_is_what_the_client_sent(
    method: str, path: str, body: bytes | None, claude: OtherPaths, client: aiohttp.ClientSession
) -> None:
    async with in_front_of(claude, forward_headers=("X-Team",)) as service:
        headers = SENT | HELD_BACK | ({"content-type": "application/json"} if body else {})
        async with client.request(method, f"{service.url}{path}", data=body, headers=headers) as response:
            await response.read()

    (asked,) = claude.asked
    up = dict(asked.headers)
    of_a_body = {"content-type", "content-length"} if body else set()
    unread = set(SENT) if "batches" in path or "files" in path else set(SENT) - {"range", "if-none-match"}
    assert up.keys() == unread | of_a_body | {"host", "authorization", "accept-encoding"}
    assert {name: up[name] for name in unread} == {name: SENT[name] for name in unread}
    assert up["accept-encoding"] == "identity"
    assert (asked.method, asked.raw_path) == (method, path)
    assert asked.digest == hashlib.sha256(body or b"").hexdigest()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/files", b"{}"),
        ("/v1/messages", b'{"model":"m","max_tokens":5}'),
        ("/v1/messages", b'{"model":"m","max_tokens":5,"stream":true}'),
        ("/api/stream", b'{"prompt":"x"}'),
    ],
    ids=["passed", "whole", "stream", "plain"],
)
async def test_a_name_that_is_not_ascii_goes_up(path: str, body: bytes, claude: OtherPaths) -> None:
    async with in_front_of(claude) as service:
        reader = await Reader.connect(service.url)
        raw = reader.request(body, path=path).replace(b"\r\n\r\n", "\r\nx-app: Café\r\n\r\n".encode(), 1)
        await reader.send(raw)
        await reader.head()
        reader.leave()
    assert dict(claude.asked[0].headers)["x-app"] == "Café"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages"])
async def test_of_a_client_that_says_nothing_of_itself_nothing_is_said(
    path: str, claude: OtherPaths, through: Running
) -> None:
    reader = await Reader.connect(through.url)
    raw = (
        reader.request(b'{"model": "m"}', path=path)
        if "messages" in path
        else f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    await reader.send(raw)
    await reader.head()
    reader.leave()

    names = {name for name, _ in claude.asked[0].headers}
    assert names == {"host", "authorization", "accept-encoding"} | (
        {"content-type", "content-length"} if "messages" in path else set()
    )


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/files/9/content"), ("POST", "/v1/messages")]
)
async def test_claudes_headers_come_down(
    method: str, path: str, claude: OtherPaths, through: Running, client: aiohttp.ClientSession
) -> None:
    claude.extra_headers = {"deprecation": "@1", "sunset": "x", "warning": "299", "server-timing": "a", "x-brand-new": "b", "anthropic-organization-id": "o", "set-cookie": "c=d", "strict-transport-security": "max-age=1", "access-control-allow-origin": "*"}  # fmt: skip
    async with client.request(method, f"{through.url}{path}", json={} if method == "POST" else None) as response:
        down = response.headers
    assert {
        "deprecation",
        "sunset",
        "warning",
        "server-timing",
        "x-brand-new",
        "anthropic-organization-id",
        "request-id",
    } <= {name.lower() for name in down}
    assert not {"set-cookie", "strict-transport-security", "access-control-allow-origin"} & {
        name.lower() for name in down
    }


# --- what is served ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/organizations/me",
        "/v1/nothing",
        "/v1/filesystem",
        "/v1/messages/batch",
        "/v1",
        "/v1/",
    ],
)
async def test_what_is_not_served_says_so_in_its_own_words(
    path: str, claude: OtherPaths, through: Running, client: aiohttp.ClientSession
) -> None:
    async with client.get(f"{through.url}{path}") as response:
        told = await response.json()
    assert response.status == 404
    if path.strip("/") != "v1":
        assert told["type"] == "error"
        assert told["error"]["type"] == "not_served"
        assert "pass_through" in told["error"]["message"]
    assert not claude.asked


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/../organizations/me",
        "/v1/files/%2e%2e/organizations/me",
        "/v1/files/..;/organizations/me",
        "/v1/files/%2e.%3bx/organizations/me",
        "/v1/files/..a",
        "/v1/files/.;x/me",
        "/v1/files/;x/me",
        "/v1/files/.%2E/x",
        "/v1/files/a%2Fb",
        "/v1/files/a%2fb",
        "/v1/files/a%5Cb",
        "/v1/files/a\\b",
        "/v1/files/%00",
        "/v1/files/a%0d%0aHost:%20x",
        "/v1/files/%ff",
        "/v1/files/%252e%252e/x",
        "/v1/files/.",
    ],
)
async def test_a_path_that_could_be_read_as_another_is_refused(path: str, claude: OtherPaths, through: Running) -> None:
    reader = await Reader.connect(through.url)
    await reader.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert await reader.head() in (400, 404)
    reader.leave()
    assert not claude.asked


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "MERGE"])
async def test_a_method_that_could_show_the_services_key_does_not_pass(
    method: str, claude: OtherPaths, through: Running, client: aiohttp.ClientSession
) -> None:
    for path in ("/v1/models", "/v1/files/1000/content"):
        async with client.request(method, f"{through.url}{path}") as response:
            told = await response.json()
        assert (response.status, told["type"]) == (405, "error")
        assert response.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    assert not claude.asked


async def test_a_tunnel_is_no_way_to_claude(claude: OtherPaths, through: Running) -> None:
    for target in ("/v1/models", "127.0.0.1:80"):
        reader = await Reader.connect(through.url)
        await reader.send(f"CONNECT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert await reader.head() in (400, 404, 405)
        reader.leave()
    assert not claude.asked


async def test_another_path_is_served_where_the_setting_names_it(
    claude: OtherPaths, client: aiohttp.ClientSession
) -> None:
    async with in_front_of(claude, pass_through=("/v1/agents",)) as service:
        for path, type in (("/v1/agents/a%20b/x?y=1", "not_found_error"), ("/v1/models", "not_served")):
            async with client.get(f"{service.url}{path}") as response:
                assert (response.status, (await response.json())["error"]["type"]) == (404, type)
    assert [asked.raw_path for asked in claude.asked] == ["/v1/agents/a%20b/x?y=1"]


async def test_what_passes_needs_a_key(claude: OtherPaths, client: aiohttp.ClientSession) -> None:
    async with in_front_of(claude, api_keys=("one",)) as service:
        for headers, status in (({}, 401), ({"x-api-key": "one"}, 200)):
            async with client.post(f"{service.url}/v1/files", data=b"x" * 100_000, headers=headers) as response:
                assert response.status == status
    assert len(claude.asked) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/files/1000/content",
        "/v1/files/1000/content?chunked",
        "/v1/nothing",
        "/config.json",
        "/client.js",
    ],
)
async def test_head_answers_as_get_does_without_a_body(
    path: str, through: Running, client: aiohttp.ClientSession
) -> None:
    told = []
    for method in ("GET", "HEAD", "HEAD"):
        async with client.request(method, f"{through.url}{path}", headers={"Accept-Encoding": "identity"}) as response:
            body = await response.read()
            kept = {
                name: value
                for name, value in response.headers.items()
                if name.lower() not in ("date", "request-id", "x-request-id", "transfer-encoding")
            }
            told.append((response.status, kept))
            assert bool(body) is (method == "GET")
    assert told[1] == told[2] == told[0]


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models", "/v1/models//", "///v1///models"])
async def test_a_doubled_slash_is_one(path: str, claude: OtherPaths, through: Running) -> None:
    reader = await Reader.connect(through.url)
    await reader.send(f"GET {path}?a=//b HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert await reader.head() == 200
    assert "location" not in reader.headers
    reader.leave()
    assert claude.asked[0].raw_path == "/v1/models?a=//b"


async def test_a_doubled_slash_is_one_for_every_path(service: Running, client: aiohttp.ClientSession) -> None:
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "{{tokens=2}}"}]}
    async with client.post(f"{service.url}//v1//messages", json=body) as response:
        assert b"message_stop" in await response.read()
    async with client.post(f"{service.url}//api/stream", json={"prompt": "{{tokens=2}}"}) as response:
        assert b'"done":true' in await response.read()
    reader = await Reader.connect(service.url)
    await reader.send(reader.request(b"", method="GET", path="//elsewhere.example/.."))
    assert (await reader.head(), reader.headers.get("location")) == (404, None)
    reader.leave()
    async with client.get(f"{service.url}//v1//messages") as response:
        assert (response.status, (await response.json())["type"]) == (405, "error")


async def test_an_answer_that_streams_though_stream_was_not_true_is_booked(
    claude: OtherPaths, through: Running, client: aiohttp.ClientSession
) -> None:
    usage = {"input_tokens": 3, "output_tokens": 7}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "claude-opus-4-8", "usage": {"input_tokens": 3}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    claude.streams = b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode()) for event in events
    )
    async with client.post(
        f"{through.url}/v1/messages", json={"model": "claude-opus-4-8", "max_tokens": 9, "stream": 1}
    ) as response:
        assert response.content_type == "text/event-stream"
        assert await response.read() == claude.streams
    async with client.get(f"{through.admin_url}/metrics") as response:
        assert 'sluiceway_output_tokens_total{basis="exact",model="claude-opus-4-8"} 7.0' in await response.text()


# --- bodies of any size --------------------------------------------------------------------------------------------


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PIECE


@pytest.mark.parametrize("known", [True, False])
async def test_a_body_comes_up_whole_with_its_length_if_it_had_one(
    known: bool, claude: OtherPaths, through: Running, client: aiohttp.ClientSession
) -> None:
    size = 128 * len(PIECE)
    headers = {"Content-Length": str(size)} if known else {}
    async with client.post(f"{through.url}/v1/files", data=pieces(128), headers=headers) as response:
        assert response.status == 200
    (asked,) = claude.asked
    assert (asked.size_bytes, asked.digest) == (size, hashlib.sha256(PIECE * 128).hexdigest())
    assert asked.header("content-length") == (str(size) if known else None)
    assert asked.header("transfer-encoding") == (None if known else "chunked")


@pytest.mark.parametrize("known", [True, False])
async def test_a_body_above_its_bound_is_refused(
    known: bool, claude: OtherPaths, client: aiohttp.ClientSession
) -> None:
    async with in_front_of(claude, max_passed_bytes=MEGABYTE) as service:
        headers = {"Content-Length": str(32 * len(PIECE))} if known else {}
        async with client.post(f"{service.url}/v1/files", data=pieces(32), headers=headers) as response:
            assert response.status == 413
            assert "max_passed_bytes" in (await response.json())["error"]["message"]
        if known:
            assert not claude.asked
        else:
            await claude.asked[0].gone.wait()


async def test_a_claude_that_does_not_read_holds_the_client(claude: OtherPaths, through: Running) -> None:
    claude.may_read.clear()
    reader = await Reader.connect(through.url)
    total = 64 * MEGABYTE
    await reader.send(reader.request(b"", path="/v1/files").replace(b"Length: 0", b"Length: %d" % total))
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < total:
            await reader.send(PIECE)
            sent += len(PIECE)

    sending = asyncio.create_task(send())
    await eventually(lambda: bool(claude.asked))
    # The kernel's buffers of two connections on loopback, and ours; not the whole.
    assert await steady(lambda: sent) < 24 * MEGABYTE
    claude.may_read.set()
    await sending
    assert await reader.head() == 200
    assert claude.asked[0].size_bytes == total
    reader.leave()


async def test_a_client_that_does_not_read_holds_claude(claude: OtherPaths, through: Running) -> None:
    reader = await Reader.connect(through.url, rcvbuf_bytes=65_536)
    await reader.send(reader.request(b"", method="GET", path=f"/v1/files/{256 * MEGABYTE}/content", headers={}))
    assert await reader.head() == 200
    assert await steady(lambda: claude.asked[0].sent_bytes) < 16 * MEGABYTE
    reader.leave()
    await claude.asked[0].gone.wait()


async def test_a_client_that_leaves_in_the_middle_of_its_body_ends_the_request(
    claude: OtherPaths, through: Running
) -> None:
    reader = await Reader.connect(through.url)
    await reader.send(reader.request(b"", path="/v1/files").replace(b"Length: 0", b"Length: 9000000") + PIECE)
    await eventually(lambda: bool(claude.asked) and claude.asked[0].size_bytes == len(PIECE))
    reader.leave()
    await claude.asked[0].gone.wait()


async def test_an_answer_that_breaks_off_does_not_end_as_a_whole_one(
    through: Running, client: aiohttp.ClientSession
) -> None:
    for query in ("", "?chunked"):
        async with client.get(f"{through.url}/v1/files/-{8 * MEGABYTE}/content{query}") as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientError):
                await response.read()


async def test_a_body_that_stops_is_not_waited_for(claude: OtherPaths) -> None:
    async with in_front_of(claude, stall_timeout_s=1.0) as service:
        reader = await Reader.connect(service.url)
        await reader.send(reader.request(b"", path="/v1/files").replace(b"Length: 0", b"Length: 9000000") + PIECE)
        assert await reader.head() == 408
        await claude.asked[0].gone.wait()
        reader.leave()


async def test_nothing_new_passes_while_the_service_drains(
    claude: OtherPaths, through: Running, client: aiohttp.ClientSession
) -> None:
    through.streams.accepting = False
    async with client.get(f"{through.url}/v1/models") as response:
        assert response.status == 503
    assert not claude.asked


async def test_an_unreachable_claude_is_an_error_and_told_once_a_while_with_what_kept_it_away(
    claude: OtherPaths, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    claude.url = "http://127.0.0.1:9"
    async with in_front_of(claude) as service:
        for number in range(3):
            async with client.get(f"{service.url}/v1/files/secret-{number}") as response:
                assert response.status == 502
                assert (await response.json())["error"]["details"] == {"error_code": "upstream_unreachable"}
    told = [line for line in caplog.messages if "a request that passes" in line]
    assert told == ["a request that passes failed: 502 upstream_unreachable: Claude could not be reached: refused"]


@pytest.mark.parametrize("drain_s", [0.2, 30.0])
async def test_a_drain_waits_for_what_passes_and_ends_it_at_last(drain_s: float, claude: OtherPaths) -> None:
    async with in_front_of(claude, drain_s=drain_s) as service:
        reader = await Reader.connect(service.url, rcvbuf_bytes=65_536)
        await reader.send(reader.request(b"", method="GET", path=f"/v1/files/{8 * MEGABYTE}/content", headers={}))
        assert await reader.head() == 200
        draining = asyncio.create_task(service.drain())
        if drain_s > 1:
            assert len(await reader.rest()) == 8 * MEGABYTE
            await draining
        else:
            await draining
            await claude.asked[0].gone.wait()
            with contextlib.suppress(ConnectionError):
                await reader.rest()
            assert not reader.ended
        reader.leave()


# --- our own protocols ---------------------------------------------------------------------------------------------

PARTS = [{"type": "text", "text": "x"}]
ASKED: dict[str, dict[str, Any]] = {
    "/api/stream": {"prompt": "x"},
    "/api/chat": {"id": "c", "messages": [{"id": "u", "role": "user", "parts": PARTS}], "trigger": "submit-message"},
}


@pytest.mark.parametrize("path", ASKED)
async def test_fields_and_betas_that_are_claudes_go_up_and_the_pages_own_stay(
    path: str, claude: OtherPaths, client: aiohttp.ClientSession
) -> None:
    more = {"top_k": 5, "mcp_servers": [{"url": "x"}], "context_management": {"a": 1.50}, "betas": ["one", "two"]}
    pages = {"user_id": 7, "webSearch": True}
    async with in_front_of(claude, ignore_fields=("user_id", "webSearch")) as service:
        headers = {
            "anthropic-beta": "zero",
            "anthropic-workspace-id": "w",
            "User-Agent": "Mozilla/5.0",
            "Cookie": "a=b",
        }
        async with client.post(f"{service.url}{path}", json=ASKED[path] | more | pages, headers=headers) as response:
            assert response.status == 400, "as Claude says"
            assert (await response.json())["error"] == "Not here."

    (asked,) = claude.asked
    up = json.loads(asked.body)
    assert {name: up.get(name) for name in (*more, *pages, "id", "trigger", "stream")} == more | {
        "betas": None, "user_id": None, "webSearch": None, "id": None, "trigger": None, "stream": True,
    }  # fmt: skip
    sent = dict(asked.headers)
    assert sent["anthropic-beta"] == "zero, one, two"
    assert sent["anthropic-workspace-id"] == "w"
    assert sent["user-agent"].startswith("sluiceway/")
    assert sent["anthropic-version"]
    assert sent["content-type"] == "application/json"
    assert "cookie" not in sent
    assert not [name for name in sent if name.startswith("x-stainless-")]


@pytest.mark.parametrize("path", ASKED)
async def test_a_slip_in_a_field_of_ours_is_named_here(
    path: str, claude: OtherPaths, through: Running, client: aiohttp.ClientSession
) -> None:
    async with client.post(f"{through.url}{path}", json=ASKED[path] | {"resumabel": True}) as response:
        told = await response.json()
    assert (response.status, told["field"]) == (400, "resumabel")
    assert "did you mean resumable" in told["error"]
    assert not claude.asked
