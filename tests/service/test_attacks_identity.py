"""Attacks on who one is, straight and through nginx as shipped: each finds a closed door, and none of it is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from joserfc.jwk import OctKey

from app.access.key_files import KeyFiles
from app.access.key_form import Key, new_key
from app.access.key_ring import KeyRecord, digest_of
from app.access.tokens import sign
from app.answer.outcome import Outcome
from app.errors import Stopped
from app.telemetry.log_lines import LineFormatter
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.jwts import EC, OTHER_EC, claims, encoded, table, token, unsigned
from tests.support.nginx import free_port, nginx, shipped
from tests.support.readers import Reader, eventually

pytestmark = pytest.mark.nginx

NOW_S = 1_790_000_000  # keys are made then
PUBLIC = {"jwk": EC.as_dict(private=False)}
HS = OctKey.import_key(EC.as_pem(private=False).decode().encode().hex())


@dataclass
class Door:
    """A way to the service, whose caller acme has a running stream.

    Attributes:
        keys: by what they are.
        tokens: by what they are.
        asked: how often the issuer was asked for its keys.
        stream_id: of the running stream.
    """

    url: str
    service: Running
    folder: Path
    keys: dict[str, Key]
    tokens: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    stream_id: str = ""

    async def said(
        self, method: str, path: str, told: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        reader = await Reader.connect(self.url)
        await reader.send(reader.request(told, method=method, path=path, headers=JSON | (headers or {})))
        status = await reader.head()
        body = await reader.rest() if status not in (200, 204) and method != "HEAD" else b""
        reader.leave()
        return status, body

    def paths(self) -> list[tuple[str, str, bytes]]:
        """Every kind of request, with a body that would do."""
        steered, chat = f"/api/stream/{self.stream_id}", "/api/chat/c1"
        return [
            ("POST", "/api/stream", ASKED), ("POST", "/api/chat", b"{}"), ("POST", "/v1/messages", b"{}"),
            ("POST", "/v1/messages/count_tokens", b"{}"), ("POST", "/v1/tokens", b""), ("GET", "/v1/models", b""),
            ("GET", steered, b""), ("HEAD", steered, b""), ("GET", f"{steered}/gauges", b""),
            ("POST", f"{steered}/shown", b'{"id": 0}'), ("POST", f"{steered}/stop", b""),
            ("GET", f"{chat}/stream", b""), ("POST", f"{chat}/stop", b""),
        ]  # fmt: skip


JSON = {"Content-Type": "application/json"}
ASKED = b'{"prompt": "Go. {{tokens=1}}"}'


def files_with_keys(folder: Path, issuer: str) -> tuple[KeyFiles, dict[str, Key]]:
    path = folder / "callers.toml"
    path.touch(0o600)
    path.write_text(f"[callers.acme]\n[callers.other]\n{issuer}", "utf-8")
    files, keys = KeyFiles(path), {name: new_key() for name in ("good", "other", "revoked", "expired")}
    how: dict[str, dict[str, int]] = {"revoked": {"revoked_at": NOW_S + 1}, "expired": {"expires_at": NOW_S + 1}}
    files.change(
        lambda ring: [
            KeyRecord(
                key.key_id, "other" if name == "other" else "acme", digest_of(key, ring.pepper), NOW_S,
                **how.get(name, {}),
            )
            for name, key in keys.items()
        ],
        NOW_S,
    )  # fmt: skip
    return files, keys


@pytest.fixture(params=["straight", "nginx"])
async def door(
    request: pytest.FixtureRequest, serve: Serve, tmp_path: Path, aiohttp_server: Any
) -> AsyncIterator[Door]:
    asked: list[str] = []

    async def published(_request: web.Request) -> web.Response:
        asked.append("")
        return web.json_response({"keys": [EC.as_dict(private=False) | {"kid": "k0"}]})

    app = web.Application()
    app.router.add_get("/jwks", published)
    issuer = await aiohttp_server(app)
    files, keys = files_with_keys(tmp_path, table("ES256", f'jwks_url = "http://127.0.0.1:{issuer.port}/jwks"'))
    async with AsyncExitStack() as stack:
        if request.param == "straight":
            service = await serve(callers_file=str(files.callers_file))
            url = service.url
        else:
            port, socket = free_port(), str(tmp_path / "s.sock")
            service = await serve(unix=socket, callers_file=str(files.callers_file))
            url = await stack.enter_async_context(nginx(tmp_path, shipped(tmp_path, f"unix:{socket}", port), port))
        reader = await Reader.connect(url)
        headers = JSON | {"x-api-key": keys["good"].text}
        running = b'{"prompt": "Go. {{tokens=90000 rate=50}}", "resumable": true}'
        await reader.send(reader.request(running, headers=headers))
        assert await reader.head() == 200
        yield Door(url, service, tmp_path, keys, tokens_of(files, keys), asked, reader.headers["x-stream-id"])
        assert len(service.streams.live) == 1, "nobody has stopped it"
        reader.leave()
        service.streams.live[reader.headers["x-stream-id"]].stop(Outcome.STOPPED, Stopped("it is over"))
        await eventually(lambda: not service.streams.live)


def tokens_of(files: KeyFiles, keys: dict[str, Key]) -> dict[str, str]:
    """Tokens that are not to be believed."""
    good, ring, now = claims(), files.read(), claims()["iat"]
    head, payload, signature = token(good, "ES256", kid="k0").split(".")
    return {
        "forged": token(good, "ES256", key=OTHER_EC, kid="k0"),
        "changed": f"{head}.{encoded(good | {'sub': 'eve'})}.{signature}",
        "cut": f"{head}.{payload}.",
        "none": unsigned(good, kid="k0"),
        "NONE": unsigned(good, alg="nOnE", kid="k0"),
        "its public key as a secret": token(good, "HS256", key=HS, kid="k0"),
        "brings its key": token(good, "ES256", key=OTHER_EC, jwk=OTHER_EC.as_dict(private=False), kid="k0"),
        "says where its key is": token(good, "ES256", key=OTHER_EC, jku="http://127.0.0.1:9/jwks", kid="k0"),
        "a path for a key": token(good, "ES256", kid="../../../../dev/null"),
        "critical": token(good, "ES256", kid="k0", crit=["kid"]),
        "expired": token(claims(now - 3600), "ES256", kid="k0"),
        "not yet": token(claims(now, nbf=now + 600), "ES256", kid="k0"),
        "lives for a day": token(claims(now, exp=now + 86_400), "ES256", kid="k0"),
        "for another service": token(claims(aud="elsewhere"), "ES256", kid="k0"),
        "of another issuer": token(claims(iss="https://evil.example"), "ES256", kid="k0"),
        "as if of our own": token(claims(iss="sluiceway", aud="sluiceway", caller="acme"), "ES256", kid="k0"),
        "our own, with a guessed secret": token(claims(iss="sluiceway", aud="sluiceway", caller="acme")),
        "our own, of a revoked key": sign("acme", keys["revoked"].key_id, {"exp": now + 60}, ring, now),
        "our own, expired": sign("acme", keys["good"].key_id, {"exp": now - 1}, ring, now - 61),
        "huge": token(claims(sub="x" * 5000), "ES256", kid="k0"),
        "deep": f"{encoded({'alg': 'ES256'})}.{encoded(b'[' * 2000)}.AAAA",
        "no base 64": "eyJ.!!!.???",
        "empty": "eyJ..",
    }


def of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def strangers(door: Door) -> dict[str, dict[str, str]]:
    """Heads of nobody who is known."""
    good = door.keys["good"]
    mistyped = good.text[:-1] + ("a" if good.text[-1] != "a" else "b")
    return {
        "none": {}, "nothing": of(""), "basic": {"Authorization": f"Basic {good.text}"},
        "a cookie": {"Cookie": f"key={good.text}; x-api-key={good.text}"}, "unknown": of(new_key().text),
        "mistyped": of(mistyped), "in capitals": of(good.text.upper()), "its id": of(good.key_id),
        "twice": of(f"{good.text}, {good.text}"), "long": of(good.text * 50), "no text": of("\xff\xfe"),
        "revoked": of(door.keys["revoked"].text), "expired": {"x-api-key": door.keys["expired"].text},
        **{f"token: {name}": of(text) for name, text in door.tokens.items()},
    }  # fmt: skip


async def test_nobody_who_is_not_known_comes_in_on_any_path(
    door: Door, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    let_in, heads = {}, strangers(door)
    for place, (name, headers) in enumerate(heads.items()):
        paths = door.paths()
        # All of them at the first path and at one more, some at every path.
        for method, path, told in paths if place % 6 == 0 else (paths[0], paths[place % len(paths)]):
            status, body = await door.said(method, path, told, headers)
            # A token that expired is still known at the path of a stream, since that may be its own.
            late = "expired" in name and "token" in name and ("/stream/" in path or "/chat/" in path)
            if status != (204 if path.endswith("/gauges") and late else 404 if late else 401) or any(
                secret[8:24] and secret[8:24].encode() in body for secret in headers.values()
            ):
                let_in[name, method, path] = status, body
    assert let_in == {}
    assert len(simulator.books) == 1, "Claude was asked for nothing but the stream beside"
    assert len(door.asked) == 1, "its keys were asked for once"
    _not_logged(door, caplog, [secret for headers in heads.values() for secret in headers.values()])


async def test_a_flood_of_made_up_key_ids_asks_the_issuer_once(door: Door) -> None:
    told = {
        (await door.said("POST", "/api/stream", ASKED, of(token(claims(), "ES256", kid=f"made-up-{n}"))))[0]
        for n in range(60)
    }
    assert (told, len(door.asked)) == ({401}, 1)
    assert (await door.said("POST", "/api/stream", ASKED, of(token(claims(), "ES256", kid="k0"))))[0] == 200


async def test_another_callers_stream_is_one_that_there_is_not(door: Door) -> None:
    ann = token(claims(sub="ann"), "ES256", kid="k0")
    for key in (door.keys["other"].text, ann):
        for method, path, told in door.paths():
            if not path.startswith("/api/stream/"):
                continue
            hidden = await door.said(method, path, told, of(key))
            nowhere = await door.said(method, path.replace(door.stream_id, "st0_" + "x" * 24), told, of(key))
            assert hidden == nowhere
            assert hidden[0] == (204 if path.endswith("/gauges") else 404), (method, path)
    steered = f"/api/stream/{door.stream_id}"
    for guess in ("", "x", "x" * 24, door.stream_id):
        assert (await door.said("POST", f"{steered}/stop", headers={"X-Stop-Token": guess}))[0] == 404
        beacon = json.dumps({"stop_token": guess}).encode()
        assert (await door.said("POST", f"{steered}/stop", beacon, {"Content-Type": "text/plain"}))[0] == 404


async def test_a_key_in_the_address_is_neither_taken_nor_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key, browser = door.keys["good"].text, token(claims(), "ES256", kid="k0")
    for secret in (key, browser):
        for path in (
            f"/api/stream?key={secret}", f"/api/stream?api_key={secret}", f"/api/stream?access_token={secret}",
            f"/api/stream?x-api-key={secret}&Authorization=Bearer%20{secret}", f"/v1/messages?{secret}",
        ):  # fmt: skip
            assert (await door.said("POST", path, ASKED))[0] == 401
        for path in (f"/{secret}", f"/api/stream/{secret}", f"/v1/{secret}", f"/api/chat/{secret}/stream"):
            assert (await door.said("GET", path))[0] in (401, 404)
    _not_logged(door, caplog, [key, browser])


async def test_another_sites_page_begins_and_stops_nothing(door: Door, simulator: Simulator) -> None:
    """What a browser sends without asking first: forms and beacons, with what cookies there are, and no key."""
    site = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Cookie": "session=1"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        for method, path, told in door.paths():
            if method == "POST":
                status, _ = await door.said(method, path, told, site | {"Content-Type": kind})
                assert status == 401, (kind, path)
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for _, path, _ in door.paths():
        reader = await Reader.connect(door.url)
        await reader.send(reader.request(b"", method="OPTIONS", path=path, headers=site | asks))
        await reader.head()
        assert "access-control-allow-origin" not in reader.headers
        reader.leave()
    assert len(simulator.books) == 1


def _not_logged(door: Door, caplog: pytest.LogCaptureFixture, secrets: list[str]) -> None:
    """No line of the service's log, nor of the proxy's, has what would open the door, or a piece of it."""
    lines = "\n".join(LineFormatter().format(record) for record in caplog.records if record.name.startswith("app."))
    proxy = door.folder / "sluiceway.log"
    logged = lines + (proxy.read_text("utf-8") if proxy.exists() else "")
    # The middle of each: they begin alike, and a key's id may be told.
    pieces = {piece for secret in secrets if len(secret) > 40 for piece in (secret[24:40], secret[-16:])}
    assert [piece for piece in pieces if piece in logged] == []
