"""Debian's Prometheus scrapes the real service under load: nothing is refused, and the counters move."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml

from app.web.runner import Running
from tests.grafana.board import GRAFANA
from tests.grafana.server import free_port


async def _query(client: aiohttp.ClientSession, url: str, expr: str) -> list[Any]:
    async with client.get(f"{url}/api/v1/query?query={quote(expr)}") as response:
        if response.status == 503:  # "Service Unavailable": it listens before it answers
            raise aiohttp.ClientConnectionError("Prometheus is still starting")
        body = json.loads(await response.text())
    assert body["status"] == "success", body
    result: list[Any] = body["data"]["result"]
    return result


async def _stream(client: aiohttp.ClientSession, url: str, *, leave: bool) -> None:
    body = {"prompt": "{{tokens=60 rate=300 text=numbered}}", "model": "claude-opus-4-8"}
    async with client.post(f"{url}/api/stream", json=body) as response:
        await response.content.readany()
        if not leave:
            await response.read()


async def test_a_service_under_load_is_scraped_and_its_counters_move(
    service: Running, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    target = service.admin_url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(GRAFANA / "rules" / "sluiceway.rules.yml")],
        "scrape_configs": [{"job_name": "sluiceway", "static_configs": [{"targets": [target]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={url[7:]}"]
    process = await asyncio.create_subprocess_exec(
        "prometheus", *options, "--log.level=error", cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    try:
        completed = 'sluiceway_streams_total{model="claude-opus-4-8",outcome="%s"} > 0'
        found: dict[str, list[Any]] = {}
        async with asyncio.timeout(100):
            while len(found) < 2 or not all(found.values()):
                await asyncio.gather(*(_stream(client, service.url, leave=place % 3 == 0) for place in range(12)))
                try:
                    found = {
                        outcome: await _query(client, url, completed % outcome)
                        for outcome in ("completed", "disconnected")
                    }
                except aiohttp.ClientConnectionError:
                    continue  # Prometheus is still starting
        assert [one["value"][1] for one in await _query(client, url, 'up{job="sluiceway"}')] == ["1"]
        rules = await client.get(f"{url}/api/v1/rules")
        groups = json.loads(await rules.text())["data"]["groups"]
        assert not [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]
    finally:
        process.terminate()
        await process.wait()


async def test_promtool_finds_nothing_amiss_in_what_a_worked_service_exposes(
    service: Running, client: aiohttp.ClientSession
) -> None:
    await asyncio.gather(*(_stream(client, service.url, leave=place % 2 == 0) for place in range(6)))
    async with client.get(f"{service.admin_url}/metrics") as response:
        exposition = await response.read()
    promtool = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await promtool.communicate(exposition)
    assert promtool.returncode == 0, told.decode()
    assert not told.strip(), told.decode()
