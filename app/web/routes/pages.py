"""The browser's part, as it is served: the playground, and `client.js` under a name that changes with its content."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from aiohttp import ETag, web

from ... import __version__
from ..entrance.way_in import Route, Who
from ..http.operation import Answer, Operation

STATIC = resources.files(__package__) / "static"

_CONFIG = Operation("What pages are told about the service", answers={200: Answer("As it is now", schema="Config")})
_FILES = {
    "/client.js": ("client.js", "text/javascript"),
    "/client.d.ts": ("client.d.ts", "text/plain"),
    "/doctor": ("doctor.html", "text/html"),
    "/doctor.js": ("doctor.js", "text/javascript"),
    "/copy.js": ("copy.js", "text/javascript"),
    "/failures.js": ("failures.js", "text/javascript"),
    "/gauges.js": ("gauges.js", "text/javascript"),
    "/kept.js": ("kept.js", "text/javascript"),
    "/markdown.js": ("markdown.js", "text/javascript"),
    "/marks.js": ("marks.js", "text/javascript"),
    "/panel.js": ("panel.js", "text/javascript"),
    "/paper.js": ("paper.js", "text/javascript"),
    "/playground.js": ("playground.js", "text/javascript"),
    "/reader.js": ("reader.js", "text/javascript"),
    "/standing.js": ("standing.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/style.css": ("style.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Vary": "Accept-Encoding",
}
_ASK_AGAIN = "no-cache"
_FOR_EVER = "public, max-age=31536000, immutable"
# Comments on lines of their own or after two blanks' worth of code, empty lines, and indentation. No string of client.js has ` // `.
_WORDS_FOR_READERS = re.compile(rb"(?m)^ *//.*\n|^ *\n|^ +| +// .*$")


def trimmed(script: bytes) -> bytes:
    """A script without its comments, empty lines and indentation: what a page needs of it, line by line as it was written."""
    return b"// Sluiceway %b\n" % __version__.encode() + _WORDS_FOR_READERS.sub(b"", script)


@dataclass(frozen=True, slots=True)
class _Page:
    """One file, ready to be sent.

    Attributes:
        body, zipped: its bytes, plain and as gzip.
        digest: of its content.
        cache: what `Cache-Control` says.
    """

    body: bytes
    zipped: bytes
    digest: str
    media_type: str
    cache: str
    link: str = ""

    @property
    def told(self) -> Operation:
        """What `/openapi.json` says of it."""
        answers = {200: Answer("It", self.media_type), 304: Answer("As it was known", "")}
        return Operation("A file of the browser's part", answers=answers)

    async def serve(self, request: web.Request) -> web.Response:
        headers = _HEADERS | {"Cache-Control": self.cache} | ({"Link": self.link} if self.link else {})
        etag = ETag(self.digest, is_weak=True)  # the same for both encodings
        known = request.if_none_match or ()
        if any(tag.value in (self.digest, "*") for tag in known):
            response = web.Response(status=304, headers=headers)
        elif "gzip" in request.headers.get("Accept-Encoding", ""):
            response = web.Response(body=self.zipped, headers=headers | {"Content-Encoding": "gzip"})
        else:
            response = web.Response(body=self.body, headers=headers)
        if response.status == 200:
            response.content_type, response.charset = self.media_type, "utf-8"
        response.etag = etag
        return response


class Pages:
    """The files of `static/`, read once.

    Attributes:
        client_path: where `client.js` is served for ever, for pages that pin what they load.
    """

    def __init__(self) -> None:
        client = trimmed((STATIC / "client.js").read_bytes())
        self.client_path = f"/client.{_digest(client)}.js"
        link = f"<{self.client_path}>; rel=canonical"
        self._pages = {self.client_path: _page(client, "text/javascript", _FOR_EVER)}
        for path, (name, media_type) in _FILES.items():
            if name == "client.js":
                self._pages[path] = _page(client, media_type, _ASK_AGAIN, link)
            else:
                self._pages[path] = _page((STATIC / name).read_bytes(), media_type, _ASK_AGAIN)

    def routes(self, config: Mapping[str, Any]) -> list[Route]:
        """Their paths, and `GET /config.json`: what pages are told about the service, as it is then."""

        async def say(_request: web.Request) -> web.Response:
            told = {**config, "client": self.client_path}
            return web.json_response(told)

        index = _page(_told((STATIC / "index.html").read_bytes(), config), "text/html", _ASK_AGAIN)
        self._pages["/"] = index
        pages = [Route("GET", path, page.serve, Who.ANYONE, told=page.told) for path, page in self._pages.items()]
        return [Route("GET", "/config.json", say, Who.ANYONE, told=_CONFIG), *pages]


def _told(index: bytes, config: Mapping[str, Any]) -> bytes:
    """The playground with what this service's pages have to say, so that nothing moves once they have asked for it."""
    for name, shown in ((b"simulated", config.get("simulated")), (b"key-field", config.get("auth"))):
        if shown:
            index = re.sub(rb'(id="%b"[^>]*) hidden>' % name, rb"\1>", index)
    return index


def _page(body: bytes, media_type: str, cache: str, link: str = "") -> _Page:
    return _Page(body, gzip.compress(body, 9, mtime=0), _digest(body), media_type, cache, link)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:12]
