"""Browser tokens of a running service: made with a key, used by a page, and what they find after they expired."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from app.settings import Settings
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.jwts import EC, OTHER_EC, claims, table, token
from tests.support.readers import eventually
from tests.support.ways import CHAT

FILE = '[callers.acme]\nmodels = ["claude-*"]\nmax_tokens = 5000\nstreams = 2\n[callers.other]\n'
LONG = "{{tokens=4000 rate=50}}"


@dataclass
class Clock:
    """The time by which keys and tokens are judged."""

    later_s: float = 0.0
    real: Any = field(default_factory=lambda: time.time)

    def time(self) -> float:
        return float(self.real()) + self.later_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("app.web.entrance.identity.time", clock)
    return clock


async def serving(serve: Serve, folder: Path, more: str = "") -> Running:
    path = folder / "callers.toml"
    path.touch(0o600)
    path.write_text(FILE + more, "utf-8")
    return await serve(callers_file=str(path), api_keys=("acme:key", "other:other"))


# Responses that are read no further; they are closed at a test's end, before the service ends, which would wait for them.
READS: list[aiohttp.ClientResponse] = []


@pytest.fixture(autouse=True)
def closed_reads(serve: Serve, client: aiohttp.ClientSession) -> Iterator[None]:
    yield
    while READS:
        READS.pop().close()


@dataclass
class Page:
    """Asks with one token or key."""

    client: aiohttp.ClientSession
    url: str
    key: str

    async def ask(self, method: str, path: str, **given: Any) -> tuple[int, dict[str, str], Any]:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.client.request(method, self.url + path, headers=headers, **given) as response:
            if response.content_type == "text/event-stream":
                return response.status, dict(response.headers), None
            text = await response.read()
            return response.status, dict(response.headers), await response.json() if text.startswith(b"{") else None

    async def token(self, **wanted: Any) -> Page:
        status, _, told = await self.ask("POST", "/v1/tokens", json=wanted)
        assert status == 200, told
        return Page(self.client, self.url, told["token"])

    async def begin(self) -> str:
        """Begins a stream, and stays its reader until the test's end."""
        body = {"prompt": LONG, "max_tokens": 4000, "resumable": True}
        headers = {"Authorization": f"Bearer {self.key}"}
        response = await self.client.post(f"{self.url}/api/stream", json=body, headers=headers)
        assert response.status == 200
        READS.append(response)
        return response.headers["X-Stream-Id"]

    async def sees(self, stream_id: str) -> tuple[int, int, int]:
        """The status of its gauges, of coming back to it, and of a stop by one who may not."""
        gauges, _, _ = await self.ask("GET", f"/api/stream/{stream_id}/gauges")
        head, _, _ = await self.ask("HEAD", f"/api/stream/{stream_id}")
        shown, _, _ = await self.ask("POST", f"/api/stream/{stream_id}/shown", json={"id": 0})
        return gauges, head, shown


SEEN, HIDDEN = (200, 200, 204), (204, 404, 404)


async def test_a_token_asks_within_its_bounds_and_makes_no_other_nor_passes(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = await serving(serve, tmp_path)
    key = Page(client, service.url, "key")
    page = await key.token(models=["claude-haiku-*"], max_tokens=9, ttl_s=900)
    told = {}
    for name, path, body in (
        ("within", "/api/stream", {"prompt": "Go.", "model": "claude-haiku-4-5"}),
        ("model", "/api/stream", {"prompt": "Go."}),
        ("tokens", "/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": []}),
        ("token", "/v1/tokens", {}),
        ("batch", "/v1/messages/batches", {}),
    ):
        told[name] = (await page.ask("POST", path, json=body))[0]
    assert told == {"within": 200, "model": 403, "tokens": 400, "token": 403, "batch": 403}


async def test_once_a_configured_key_is_taken_out_so_are_its_tokens(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = await serving(serve, tmp_path)
    first, second = [await Page(client, service.url, key).token() for key in ("key", "other")]
    again = service.service.settings.flat() | {"api_keys": ("acme:newer", "other:other")}
    service.service.reread(Settings.model_validate(again))
    statuses = [(await page.ask("POST", "/api/stream", json={"prompt": "Go."}))[0] for page in (first, second)]
    assert statuses == [401, 200]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"max_tokens": 5001}, "max_tokens must be at most 5000"),
        ({"models": ["gpt-*"]}, "models: 'gpt-*' is none of caller acme's, which are claude-*"),
        ({"streams": 3}, "streams must be at most 2"),
        ({"budget_usd": 0}, "$.budget_usd"),
        ({"ttl_s": 901}, "$.ttl_s"),
        ({"ttl_s": 0}, "$.ttl_s"),
        ({"sub": ""}, "$.sub"),
        ({"streams_": 1}, "streams_"),
        ([], "object"),
    ],
)
async def test_a_token_that_is_wider_than_its_caller_is_refused_by_its_field(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path, wanted: object, field: str
) -> None:
    service = await serving(serve, tmp_path)
    status, _, told = await Page(client, service.url, "key").ask("POST", "/v1/tokens", json=wanted)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    assert field in told["error"]["message"]


async def test_without_a_callers_file_nobody_makes_tokens(serve: Serve, client: aiohttp.ClientSession) -> None:
    service = await serve(api_keys=("key",))
    status, _, told = await Page(client, service.url, "key").ask("POST", "/v1/tokens", json={})
    assert (status, "callers_file" in told["error"]["message"]) == (403, True)


async def test_a_stream_is_its_subjects_and_its_callers_key_has_them_all(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = await serving(serve, tmp_path)
    key, other = Page(client, service.url, "key"), Page(client, service.url, "other")
    ann, again, bob, nobody = [await key.token(**who) for who in ({"sub": "ann"}, {"sub": "ann"}, {"sub": "bob"}, {})]
    stream_id = await ann.begin()
    for page, sees in ((ann, SEEN), (again, SEEN), (key, SEEN), (bob, HIDDEN), (nobody, HIDDEN), (other, HIDDEN)):
        assert await page.sees(stream_id) == sees
    of_the_key = await key.begin()
    assert await ann.sees(of_the_key) == HIDDEN
    assert (await bob.ask("POST", f"/api/stream/{stream_id}/stop"))[0] == 404
    assert (await again.ask("POST", f"/api/stream/{stream_id}/stop"))[2] == {"stopped": True}


async def test_two_subjects_may_call_their_chats_the_same(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = await serving(serve, tmp_path)
    key = Page(client, service.url, "key")
    ann, bob = [await key.token(sub=who) for who in ("ann", "bob")]
    chat = CHAT | {"resumable": True, "max_tokens": 4000}
    chat["messages"] = [{"id": "u", "role": "user", "parts": [{"type": "text", "text": LONG}]}]
    assert (await ann.ask("POST", "/api/chat", json=chat))[0] == 200
    assert (await bob.ask("POST", "/api/chat/c/stop"))[0] == 404
    assert (await bob.ask("POST", "/api/chat", json=chat))[0] == 200
    assert len(service.streams.live) == 2
    # There is no place for a third: the one of the same name makes room, and it is not the other subject's.
    assert (await ann.ask("POST", "/api/chat", json=chat))[0] == 200
    assert (await ann.ask("POST", "/api/chat/c/stop"))[2] == {"stopped": True}
    assert (await bob.ask("POST", "/api/chat/c/stop"))[2] == {"stopped": True}


async def test_a_token_that_expired_finds_only_the_running_stream_that_it_began(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path, clock: Clock
) -> None:
    service = await serving(serve, tmp_path)
    key = Page(client, service.url, "key")
    page, twin = [await key.token(sub="ann", max_tokens=most) for most in (4000, 4001)]
    stream_id, of_twin = await page.begin(), await twin.begin()
    clock.later_s = 1000.0
    status, _, told = await page.ask("POST", "/api/stream", json={"prompt": "Go."})
    assert (status, told["error"]) == (401, "this token has expired")
    assert await page.sees(stream_id) == SEEN
    assert await page.sees(of_twin) == HIDDEN
    assert (await page.ask("POST", f"/api/stream/{stream_id}/stop"))[2] == {"stopped": True}
    assert (await page.ask("POST", f"/api/stream/{stream_id}/stop"))[0] == 404  # it has ended
    assert await key.sees(of_twin) == SEEN  # which is no token, and has not expired


@dataclass
class Publisher:
    """A back end that publishes its keys."""

    keys: list[Any] = field(default_factory=lambda: [EC])
    asked: int = 0
    answer: web.Response | None = None

    async def handle(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.answer is not None:
            return self.answer
        return web.json_response(
            {"keys": [key.as_dict(private=False) | {"kid": f"k{n}"} for n, key in enumerate(self.keys)]}
        )


@pytest.fixture
async def publisher(aiohttp_server: Any) -> tuple[Publisher, str]:
    publisher = Publisher()
    app = web.Application()
    app.router.add_get("/jwks", publisher.handle)
    server = await aiohttp_server(app)
    return publisher, table("ES256", f'jwks_url = "http://127.0.0.1:{server.port}/jwks"')


@pytest.mark.real
async def test_a_flood_of_made_up_key_ids_asks_the_issuer_twice_and_a_new_key_is_found(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path, publisher: tuple[Publisher, str], clock: Clock
) -> None:
    issuer, more = publisher
    service = await serving(serve, tmp_path, more)

    async def status(key: Any, kid: str) -> int:
        text = token(claims(clock.time()), "ES256", key=key, kid=kid)
        return (await Page(client, service.url, text).ask("POST", "/api/stream", json={"prompt": "Go."}))[0]

    assert await status(EC, "k0") == 200
    assert {await status(EC, f"made-up-{n}") for n in range(50)} == {401}
    assert issuer.asked == 1
    issuer.keys.append(OTHER_EC)
    clock.later_s = 31.0
    assert await status(OTHER_EC, "k1") == 200
    assert {await status(EC, f"made-up-{n}") for n in range(50)} == {401}
    assert (issuer.asked, await status(EC, "k0")) == (2, 200)


@pytest.mark.real
@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=302, headers={"Location": "/jwks?again"}),
        lambda: web.Response(status=500),
        lambda: web.Response(text="{"),
        lambda: web.json_response({"keys": []}),
        lambda: web.Response(text=" " * 65_537),
    ],
)
async def test_an_issuer_whose_keys_cannot_be_had_is_told_and_not_asked_for_each_request(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path, publisher: tuple[Publisher, str], answer: Any
) -> None:
    issuer, more = publisher
    issuer.answer = answer()
    service = await serving(serve, tmp_path, more)
    page = Page(client, service.url, token(claims(), "ES256", kid="k0"))
    for _ in range(3):
        status, headers, _ = await page.ask("POST", "/api/stream", json={"prompt": "Go."})
        assert (status, headers["Retry-After"]) == (503, "5")
    assert issuer.asked == 1


async def test_a_subject_has_as_many_streams_at_once_as_its_tokens_say(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = await serving(serve, tmp_path)
    key = Page(client, service.url, "key")
    ann, again, bob = [await key.token(sub=who, streams=1) for who in ("ann", "ann", "bob")]
    stream_id = await ann.begin()
    status, headers, told = await again.ask("POST", "/api/stream", json={"prompt": "Go."})
    assert (status, headers["Retry-After"], told["limit"], told["of"]) == (429, "2", "streams", "token")
    await bob.begin()
    assert (await again.ask("POST", f"/api/stream/{stream_id}/stop"))[2] == {"stopped": True}
    await eventually(lambda: stream_id not in service.streams.live)
    await again.begin()


async def test_a_subjects_held_stream_gives_way_to_its_next_one_and_no_other_subjects(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = await serving(serve, tmp_path)
    key = Page(client, service.url, "key")
    ann, bob = [await key.token(sub=who, streams=1) for who in ("ann", "bob")]
    streams = [await page.begin() for page in (bob, ann)]  # bob's would expire first
    for response in READS:
        response.close()
    await eventually(lambda: all(service.streams.live[name].held_until is not None for name in streams))
    newer = await ann.begin()
    await eventually(lambda: set(service.streams.live) == {streams[0], newer})
