"""A Claude that has the API's other paths, files, batches, skills, models, and notes what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from app.settings import Settings
from app.web.credentials import Credentials
from app.web.runner import Running, running

PIECE = bytes(range(256)) * 256  # 64 kB that compress to nothing of note
KEY = "sk-ant-secret-of-the-service"


@dataclass
class Asked:
    """A request as it came.

    Attributes:
        raw_path: with its query, encoded.
        headers: in their order, by names in lower case.
        size_bytes, digest: of the body, so far.
        body: its beginning.
        gone: set when its client was gone before the answer had ended.
    """

    method: str
    raw_path: str
    headers: list[tuple[str, str]]
    size_bytes: int = 0
    digest: str = ""
    body: bytes = b""
    sent_bytes: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


@dataclass
class OtherPaths:
    """The server.

    Attributes:
        url: where it listens.
        asked: the requests, oldest first.
        may_read: cleared, bodies are not read on.
        extra_headers: of every answer.
        streams: what `/v1/messages` answers, where that is a stream of events.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    extra_headers: dict[str, str] = field(default_factory=dict)
    streams: bytes = b""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        asked = Asked(request.method, request.rel_url.raw_path_qs, headers)
        self.asked.append(asked)
        try:
            await self._read(request, asked)
            if request.path == "/v1/messages" and self.streams:
                return web.Response(body=self.streams, content_type="text/event-stream")
            if request.path.endswith("/content"):
                return await self._content(request, asked)
            status, answer = self._answer(request.method, request.path.strip("/").split("/")[1:])
            if isinstance(answer, bytes):
                return web.Response(body=answer, headers=self._headers(), content_type="application/x-jsonl")
            return web.json_response(answer, status=status, headers=self._headers())
        except (asyncio.CancelledError, ConnectionError, web.RequestPayloadError):
            asked.gone.set()
            raise

    async def _read(self, request: web.Request, asked: Asked) -> None:
        seen = hashlib.sha256()
        while await self.may_read.wait() and (piece := await request.content.readany()):
            asked.size_bytes += len(piece)
            asked.body = (asked.body + piece)[:10_000]
            seen.update(piece)
        asked.digest = seen.hexdigest()

    async def _content(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """`/v1/files/SIZE/content`; of a negative size, half of it comes, and then a cut."""
        wanted = int(request.path.split("/")[-2])
        response = web.StreamResponse(headers=self._headers() | {"Content-Type": "application/pdf"})
        if "chunked" not in request.query:
            response.content_length = abs(wanted)
        await response.prepare(request)
        while asked.sent_bytes < abs(wanted):
            piece = PIECE[: abs(wanted) - asked.sent_bytes]
            await response.write(piece)
            asked.sent_bytes += len(piece)
            if wanted < 0 and asked.sent_bytes * 2 >= -wanted:
                assert request.transport is not None, "it was there just now"
                request.transport.abort()
                raise ConnectionResetError
        return response

    def _headers(self) -> dict[str, str]:
        return {"request-id": f"req_{len(self.asked)}"} | self.extra_headers

    def _answer(self, method: str, path: list[str]) -> tuple[int, Any]:
        file = {"id": "file_1", "type": "file", "filename": "a.pdf", "mime_type": "application/pdf", "size_bytes": 5, "created_at": "2026-01-01T00:00:00Z", "downloadable": True}  # fmt: skip
        counts = {"processing": 0, "succeeded": 2, "errored": 0, "canceled": 0, "expired": 0}
        results = f"{self.url}/v1/messages/batches/batch_1/results"
        batch = {"id": "batch_1", "type": "message_batch", "processing_status": "ended", "request_counts": counts, "results_url": results, "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z", "ended_at": None, "archived_at": None, "cancel_initiated_at": None}  # fmt: skip
        skill = {"id": "skill_1", "type": "skill", "display_title": "S", "latest_version": "1", "source": "custom", "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}  # fmt: skip
        model = {"id": "claude-x", "type": "model", "display_name": "X", "created_at": "2026-01-01T00:00:00Z"}

        def listed(item: Any) -> Any:
            return {"data": [item], "has_more": False, "first_id": item["id"], "last_id": item["id"], "next_page": None}

        match method, path:
            case ("POST", ["files"]) | ("GET", ["files", "file_1"]):
                return 200, file
            case "GET", ["files"]:
                return 200, listed(file)
            case "DELETE", ["files", "file_1"]:
                return 200, {"id": "file_1", "type": "file_deleted"}
            case ("POST", ["messages", "batches"]) | ("POST", ["messages", "batches", "batch_1", "cancel"]):
                return 200, batch
            case "GET", ["messages", "batches"]:
                return 200, listed(batch)
            case "GET", ["messages", "batches", "batch_1"]:
                return 200, batch
            case "GET", ["messages", "batches", "batch_1", "results"]:
                error = {
                    "type": "error",
                    "error": {"type": "invalid_request_error", "message": "No."},
                    "request_id": None,
                }
                lines = [{"custom_id": f"c{n}", "result": {"type": "errored", "error": error}} for n in (1, 2)]
                return 200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)
            case ("POST", ["skills"]) | ("GET", ["skills", "skill_1"]):
                return 200, skill
            case "GET", ["skills"]:
                return 200, listed(skill)
            case "DELETE", ["skills", "skill_1"]:
                return 200, {"id": "skill_1", "type": "skill_deleted"}
            case "GET", ["models"]:
                return 200, listed(model)
            case "GET", ["models", "claude-x"]:
                return 200, model
            case "POST", ["messages"]:
                return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Not here."}}
        error = {"type": "not_found_error", "message": f"Not found, says Claude, whom {KEY} asked."}
        return 404, {"type": "error", "error": error, "request_id": "req_404"}


@asynccontextmanager
async def other_paths() -> AsyncIterator[OtherPaths]:
    """Runs one on a free port."""
    claude = OtherPaths()
    claude.may_read.set()
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", claude.handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    claude.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield claude
    finally:
        claude.may_read.set()
        await runner.cleanup()


@asynccontextmanager
async def in_front_of(claude: OtherPaths, **given: object) -> AsyncIterator[Running]:
    """The service in front of it."""
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0, "retries": 0} | given)
    async with running(settings, Credentials(api_key=KEY, base_url=claude.url)) as service:
        yield service
