"""A real Prometheus: every expression of dashboard and rules has data there, and a live scrape takes what we expose."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import promql_parser
import pytest
import yaml
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.aiohttp import make_aiohttp_handler

from tests.grafana.board import BOARD, GRAFANA, filled, targets
from tests.grafana.server import Prometheus, free_port
from tests.grafana.story import END_S, START_S, Worker

pytestmark = pytest.mark.timeout(300)

RULES = [
    rule
    for group in yaml.safe_load((GRAFANA / "rules" / "sluiceway.rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}


def _queries() -> list[tuple[str, str, bool]]:
    """Title, expression, and whether it is asked for one moment, of every panel's target and annotation."""
    found = [
        (f"{panel['title']} {target['refId']}", target["expr"], bool(target.get("instant")))
        for panel, target in targets()
    ]
    return found + [(one["name"], one["expr"], False) for one in BOARD["annotations"]["list"]]


# Whole tables in one test each: every process that runs one of these has a story written and a Prometheus started.


def test_every_expression_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    empty = [title for title, expr, instant in _queries() if not prometheus.values(filled(expr), instant=instant)]
    assert not empty


def test_every_variable_has_values(prometheus: Prometheus) -> None:
    for variable in ("job", "instance", "model"):
        query = next(one["query"] for one in BOARD["templating"]["list"] if one["name"] == variable)
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match
        window = {"start": START_S, "end": END_S}
        series = prometheus.get("series", **{"match[]": filled(match[1])}, **window)
        assert {one[match[2]] for one in series}, variable


def _expanded(expr: str) -> str:
    """An expression with every recorded name replaced by what it records."""
    return re.sub(r"job:\w+:\w+", lambda name: f"({RECORDED[name[0]].strip()})", expr)


def _sides(node: Any) -> Iterator[str]:
    """Both sides of every comparison, since a comparison itself has data only when it holds; or else the whole."""
    if isinstance(node, promql_parser.ParenExpr):
        yield from _sides(node.expr)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in {"and", "unless", ">", ">=", "=="}:
        yield from _sides(node.lhs)
        yield from _sides(node.rhs)
    elif isinstance(node, promql_parser.Call) and node.func.name == "absent":
        yield node.args[0].prettify()
    elif not isinstance(node, promql_parser.NumberLiteral):
        yield node.prettify()


def test_every_expression_of_the_rules_has_data(prometheus: Prometheus) -> None:
    for rule in RULES:
        sides = list(_sides(promql_parser.parse(_expanded(rule["expr"]))))
        assert sides
        for expr in sides:
            assert prometheus.values(expr, instant=False), expr


def _labels_of(rule: dict[str, Any]) -> Iterator[str]:
    """For each label that a rule groups or names by, whether any of its series has it."""
    expr = _expanded(rule["expr"])
    words = f"{expr} {rule.get('annotations', '')}"
    used = {label for by in re.findall(r"(?:by|on) \(([^)]*)\)", words) for label in by.split(", ")}
    used |= set(re.findall(r"\$labels\.(\w+)", words))
    names = set(re.findall(r"\b(?:sluiceway_\w+|up)\b", expr))
    for label in used:
        yield f'count({{__name__=~"{"|".join(sorted(names))}", {label}!=""}})'


def test_rules_group_and_name_by_labels_that_have_values(prometheus: Prometheus) -> None:
    """Prometheus itself takes any label in `by`."""
    for expr in {expr for rule in RULES for expr in _labels_of(rule)}:
        assert prometheus.values(expr, instant=True), expr


def test_the_incident_of_the_story_burns_the_budget_and_moves_readers_to_leave(prometheus: Prometheus) -> None:
    """The rules' own words at the incident's height and before: the data are not merely there."""
    at = {"calm": START_S + 80 * 60, "incident": START_S + 120 * 60}
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
    """Addresses of a worker's exposition and of a Prometheus with our rules that has scraped it four times."""
    worker = Worker("live", 3, 1.0, "0.1.0")
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
    port = free_port()
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(
        "prometheus", *options, "--log.level=error", cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    try:
        for _ in range(4):  # the fourth begins when three are stored
            await asyncio.wait_for(scrapes.get(), 60)
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
    worker = Worker("live", 3, 1.0, "0.1.0")
    worker.step(0)
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(worker.registry), capture_output=True, timeout=100
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")
