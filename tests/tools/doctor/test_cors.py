"""The doctor and other sites' pages: what on the way keeps them from reading, or lets them where the service does not."""

from __future__ import annotations

import pytest

from app.tools.doctor.checkup import of_pages
from app.tools.doctor.way import Way
from app.tools.load.connection import Target
from tests.conftest import Serve
from tests.support.planted import Fault, planted

pytestmark = [pytest.mark.real, pytest.mark.nginx]

SITE = "https://chat.example"
ALLOWED = "add_header Access-Control-Allow-Origin"
PLANTED = {
    "added twice": ({ALLOWED: '"*" always'}, (SITE,), "2 values", "no add_header"),
    "hidden": ({"proxy_hide_header": "Access-Control-Allow-Origin"}, (SITE,), "0 values", "no add_header"),
    "id hidden": ({"proxy_hide_header": "Access-Control-Expose-Headers"}, (SITE,), "X-Stream-Id", "no add_header"),
    "origin dropped": ({"proxy_set_header Origin": '""'}, (SITE,), "0 such headers", 'no proxy_set_header Origin ""'),
    "origin changed": ({"proxy_set_header Origin": "https://b.example"}, (SITE,), "b.example", "no proxy_set_header"),
    "preflight refused": ({"limit_except GET POST": '{ deny all; } set $unused ""'}, (SITE,), "403 by nginx", "no limit_except"),
    "any": ({ALLOWED: '"*" always'}, ("*",), "2 values", "no add_header"),
    "opened": ({ALLOWED: '"*" always'}, (), "'*', was added", "no add_header"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
async def test_a_rule_for_other_sites_pages_is_found_and_its_line_named(name: str) -> None:
    directives, origins, told, mend = PLANTED[name]
    async with planted([Fault({}, "", directives)], cors_origins=origins) as url:
        (found,) = await of_pages(Way(Target.of(url), None), next(iter(origins), ""))
    assert (found.check, found.severity) == ("cors", "error" if origins else "warning")
    assert told in found.evidence
    assert found.mend.startswith(mend)


@pytest.mark.parametrize("origins", [(), (SITE,), ("*",), (SITE, "https://b.example")])
async def test_the_shipped_way_leaves_other_sites_pages_as_the_service_lets_them(origins: tuple[str, ...]) -> None:
    async with planted([], cors_origins=origins) as url:
        assert await of_pages(Way(Target.of(url), None), next(iter(origins), "")) == []


async def test_preflights_carry_no_key_and_need_none(serve: Serve) -> None:
    service = await serve(cors_origins=(SITE,), api_keys=("the-key-of-a-caller",))
    assert await of_pages(Way(Target.of(service.url), "the-key-of-a-caller"), SITE) == []
