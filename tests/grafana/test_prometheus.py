"""A real Prometheus: every expression of dashboard and rules has data there, and a live scrape takes what we expose."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import promql_parser
import pytest
import yaml
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler


def _sibling(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    full = f"sluiceway_tests_grafana_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


stage = _sibling("conftest")
GRAFANA: Path = stage.ROOT / "grafana"
BOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "sluiceway.json").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((GRAFANA / "rules" / "sluiceway.rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}


def _filled(expr: str) -> str:
    expr = expr.replace("$__rate_interval", "5m").replace("$__range", "3h")
    return re.sub(r"\$(job|instance|model)\b", ".+", expr)


def _queries() -> list[tuple[str, str, bool]]:
    """Title, expression, and whether it is asked for one moment, of every panel's target and annotation."""
    flat = [inner for panel in BOARD["panels"] for inner in (panel, *panel.get("panels", []))]
    found = [
        (f"{panel['title']} {target['refId']}", target["expr"], bool(target.get("instant")))
        for panel in flat
        for target in panel.get("targets", [])
    ]
    return found + [(one["name"], one["expr"], False) for one in BOARD["annotations"]["list"]]


@pytest.mark.parametrize(("title", "expr", "instant"), [pytest.param(*one, id=one[0]) for one in _queries()])
def test_every_expression_of_the_dashboard_has_data(prometheus: Any, title: str, expr: str, instant: bool) -> None:
    assert prometheus.values(_filled(expr), instant=instant), title


@pytest.mark.parametrize("variable", ["job", "instance", "model"])
def test_every_variable_has_values(prometheus: Any, variable: str) -> None:
    query = next(one["query"] for one in BOARD["templating"]["list"] if one["name"] == variable)
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert match
    window = {"start": stage.START_S, "end": stage.END_S}
    series = prometheus.get("series", **{"match[]": _filled(match[1])}, **window)
    assert {one[match[2]] for one in series}


def _expanded(expr: str) -> str:
    """An expression with every recorded name replaced by what it records."""
    return re.sub(r"job:\w+:\w+", lambda name: f"({RECORDED[name[0]].strip()})", expr)


def _sides(node: Any) -> Iterator[str]:
    """Both sides of every comparison, since a comparison itself has data only when it holds; or else the whole."""
    if isinstance(node, promql_parser.ParenExpr):
        yield from _sides(node.expr)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in {"and", ">", ">=", "=="}:
        yield from _sides(node.lhs)
        yield from _sides(node.rhs)
    elif isinstance(node, promql_parser.Call) and node.func.name == "absent":
        yield node.args[0].prettify()
    elif not isinstance(node, promql_parser.NumberLiteral):
        yield node.prettify()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record") or rule["alert"])
def test_every_expression_of_the_rules_has_data(prometheus: Any, rule: dict[str, Any]) -> None:
    sides = list(_sides(promql_parser.parse(_expanded(rule["expr"]))))
    assert sides
    for expr in sides:
        assert prometheus.values(expr, instant=False), expr


def test_the_incident_of_the_story_burns_the_budget_and_moves_readers_to_leave(prometheus: Any) -> None:
    """The rules' own words at the incident's height and before: the data are not merely there."""
    at = {"calm": stage.START_S + 80 * 60, "incident": stage.START_S + 120 * 60}
    for name, low, high in (
        ("job:sluiceway_streams_left:ratio_rate15m", 0.2, 0.35),
        ("job:sluiceway_stream_errors:ratio_rate30m", 0.02, 0.03),
    ):
        share = {
            when: float(prometheus.get("query", query=RECORDED[name], time=time)["result"][0]["value"][1])
            for when, time in at.items()
        }
        assert share["calm"] < low
        assert share["incident"] > high


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """A worker's exposition on aiohttp, scraped each second four times by a Prometheus with our rules: both addresses."""
    worker = stage.Worker("live", 3, 1.0, "0.1.0")
    answer = make_aiohttp_handler(registry=worker.registry)
    scrapes: asyncio.Queue[None] = asyncio.Queue()

    async def scrape(request: web.Request) -> web.StreamResponse:
        worker.step(100)
        scrapes.put_nowait(None)
        found: web.StreamResponse = await answer(request)
        return found

    application = web.Application()
    application.router.add_get("/metrics", scrape)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"127.0.0.1:{runner.addresses[0][1]}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(GRAFANA / "rules" / "sluiceway.rules.yml")],
        "scrape_configs": [{"job_name": "sluiceway", "static_configs": [{"targets": [target]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = stage.free_port()
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(
        "prometheus", *options, "--log.level=error", cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    try:
        for _ in range(4):  # the fourth begins when three are stored
            await asyncio.wait_for(scrapes.get(), 20)
        yield target, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
        await runner.cleanup()


async def test_a_live_scrape_takes_every_series_and_every_rule(live: tuple[str, str]) -> None:
    target, url = live
    async with aiohttp.ClientSession() as session:

        async def get(path: str, **parameters: str) -> Any:
            async with session.get(f"{url}/api/v1/{path}", params=parameters) as answer:
                return (await answer.json())["data"]

        (scraped,) = (await get("targets"))["activeTargets"]
        assert (scraped["health"], scraped["lastError"]) == ("up", "")
        names = set(await get("label/__name__/values"))
        async with session.get(f"http://{target}/metrics") as answer:
            text = await answer.text()
        exposed = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
        assert exposed <= names
        streams = await get("query", query="sum(rate(sluiceway_streams_total[10s]))")
        assert float(streams["result"][0]["value"][1]) > 0
        for group in (await get("rules"))["groups"]:
            for rule in group["rules"]:
                assert not rule.get("lastError"), rule


def test_promtool_finds_nothing_to_say_about_the_exposition() -> None:
    from prometheus_client import generate_latest

    worker = stage.Worker("live", 3, 1.0, "0.1.0")
    worker.step(0)
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(worker.registry), capture_output=True, timeout=50
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")
