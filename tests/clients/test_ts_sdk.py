"""`/v1` as Anthropic's TypeScript SDK sees it, unchanged but for its base URL: the same as straight from Claude."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from app.tools.simulator.scenario import HTTP_FAULTS
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.answers import BEGIN_TWICE, NAMES
from tests.support.node import node

Case = dict[str, str]


async def asked(url: str, cases: list[Case]) -> list[Any]:
    """What the SDK made of each case, without the requests' own numbers."""
    results = await node("ts_sdk.mjs", {"base_url": url, "cases": cases})
    numberless: list[Any] = json.loads(re.sub(r"req_sim_\d+", "req_sim", json.dumps(results)))
    return numberless


async def both(cases: list[Case], service: Running, simulator: Simulator) -> list[tuple[Case, Any, Any]]:
    """Each case with what it gives straight from the simulator, and through the service."""
    straight = await asked(simulator.url, cases)
    simulator.reset()
    return list(zip(cases, straight, await asked(service.url, cases), strict=True))


@pytest.mark.parametrize("way", ["events", "final", "helper", "whole"])
async def test_every_recorded_answer_is_the_same(way: str, service: Running, simulator: Simulator) -> None:
    directives = [f"transcript={name}" for name in NAMES]
    directives.append("tokens=60 thinking=40 tool=30 tokens_per_delta=1-4 newline=crlf comment chunking=random")
    cases = [{"way": way, "directive": directive} for directive in directives]
    broken = {f"transcript={name}" for name in BEGIN_TWICE}

    for case, straight, through in await both(cases, service, simulator):
        assert through == straight, case
        assert "value" in through or case["directive"] in broken, case


async def test_counting_and_models_are_the_same(service: Running, simulator: Simulator) -> None:
    cases = [{"way": way, "directive": ""} for way in ("count", "models")]

    for _case, straight, through in await both(cases, service, simulator):
        assert through == straight
        assert through["value"]


async def test_an_error_status_is_the_same_error(serve: Serve, simulator: Simulator) -> None:
    service = await serve(retries=0)
    faults = [f"http_{status}" for status in sorted(int(fault.removeprefix("http_")) for fault in HTTP_FAULTS)]
    cases = [{"way": way, "directive": f"fault={fault}"} for fault in faults for way in ("events", "final", "whole")]
    cases += [{"way": way, "directive": "fault=overloaded after=7 tokens=9 rate=100"} for way in ("events", "whole")]
    cases += [{"way": way, "directive": "fault=refuse after=5 tokens=50"} for way in ("events", "final", "whole")]

    for case, straight, through in await both(cases, service, simulator):
        assert through == straight, case
        assert "raised" in through or "refuse" in case["directive"], case


async def test_an_answer_that_breaks_off_is_a_typed_error(serve: Serve) -> None:
    service = await serve(retries=0)
    faults = ("cut", "cut_fin", "no_message_stop", "garbage")
    cases = [{"way": "events", "directive": f"fault={fault} after=9 tokens=20 rate=100"} for fault in faults]

    for fault, result in zip(faults, await asked(service.url, cases), strict=True):
        code = "upstream_garbled" if fault == "garbage" else "upstream_cut"
        assert result["raised"] == "APIError"
        assert result["type"] == "api_error"
        assert result["body"]["error"]["details"] == {"error_code": code}


async def test_a_page_that_aborts_ends_the_answer(service: Running, simulator: Simulator) -> None:
    (result,) = await asked(service.url, [{"way": "leave", "directive": "tokens=5000 rate=50"}])
    book = await simulator.book()
    await book.ended.wait()

    assert result == {"value": "left"}
    assert book.gone_at is not None
    assert book.tokens < 300
