"""Doubled slashes in a path count as one, because clients make them when they join a base URL and a path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from yarl import URL

_SLASHES = re.compile("/{2,}")


def one_slash(path: str) -> str:
    """The path with single slashes. Pure."""
    return _SLASHES.sub("/", path)


class DoubledSlashes(web.AbstractResource):
    """Matches what its router has no other match for, by the same path with single slashes.

    Nothing is redirected: a `Location` that begins with two slashes would lead to another host.

    Args:
        router: of the application, to which this must be added last.
    """

    def __init__(self, router: web.UrlDispatcher) -> None:
        super().__init__()
        self._router = router

    @property
    def canonical(self) -> str:
        return "/{doubled}"

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """The other path's match; none where the path has no doubled slashes."""
        path = request.rel_url.raw_path
        if "//" not in path:
            return None, set()
        once = URL.build(path=one_slash(path), query_string=request.rel_url.raw_query_string, encoded=True)
        return await self._router.resolve(request.clone(rel_url=once)), set()

    def url_for(self, **_kwargs: str) -> URL:
        raise NotImplementedError("it has no path of its own")

    def add_prefix(self, prefix: str) -> None:
        raise NotImplementedError("it stands for the whole application")

    def get_info(self) -> Any:
        return {}

    def raw_match(self, path: str) -> bool:
        return "//" in path

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(())

    def __len__(self) -> int:
        return 0
