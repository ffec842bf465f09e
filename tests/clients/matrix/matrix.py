"""Runs a client's driver straight to Claude and through the service, and lays the two side by side."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.settings import Settings
from app.web.credentials import Credentials
from app.web.runner import running

from .claude import Claude, claude
from .clients import DRIVERS, Client, known, so_far
from .scenarios import GOOD, SCENARIOS


@dataclass(frozen=True, slots=True)
class Installation:
    """Where clients are installed: a Python, a node, and the folder whose `node_modules` holds the JavaScript ones."""

    python: Path
    node: Path
    js: Path

    def command(self, driver: str) -> Sequence[str | Path]:
        if driver.endswith(".py"):
            return (self.python, DRIVERS / driver)
        return (self.node, "--import", DRIVERS / "from_here.mjs", DRIVERS / driver)


@dataclass(frozen=True, slots=True)
class Cell:
    """A client in a scenario: what each way of asking saw, and how often Claude was asked what."""

    client: Client
    scenario: str
    straight: dict[str, Any]
    through: dict[str, Any]
    asked_straight: dict[str, int]
    asked_through: dict[str, int]

    @property
    def notes(self) -> list[str]:
        """The known differences that are there, in words."""
        words = (known(self.client, self.scenario, way) for way in self.straight if self.differs(way))
        return sorted({word for word in words if word is not None})

    def differs(self, way: str) -> bool:
        return self.straight[way] != self.through[way] or self._asked(way, True) != self._asked(way, False)

    def wrong(self) -> list[str]:
        """What is not as it must be, one line a way; nothing where all is the same or known to differ."""
        lines = [] if self.straight.keys() == self.through.keys() else ["the ways themselves differ"]
        for way in self.straight:
            straight, through = self.straight[way], self.through[way]
            if self.scenario in GOOD and ("raised" in straight or "refused" in straight or straight.get("exit")):
                lines.append(f"{way}: straight it fails too, so nothing is compared: {straight}")
            if known(self.client, self.scenario, way) is None:
                if self.differs(way):
                    lines += [f"{way} straight {self._asked(way, False)}: {json.dumps(straight, ensure_ascii=False)}"]
                    lines += [f"{way} through  {self._asked(way, True)}: {json.dumps(through, ensure_ascii=False)}"]
            elif self.scenario == "cut" and not 0 < self._asked(way, True) <= self._asked(way, False):
                lines.append(f"{way}: asked {self._asked(way, False)}, through {self._asked(way, True)} times")
            elif self.scenario == "cut" and self._once(way) and so_far(straight) != so_far(through):
                lines.append(f"{way}: before the cut {so_far(straight)}, through {so_far(through)}")
        marked = {what for what in self.asked_straight | self.asked_through if what.split()[0] not in self.straight}
        lines += [
            f"{what}: {self.asked_straight.get(what)}, through {self.asked_through.get(what)}"
            for what in marked
            if self.asked_straight.get(what) != self.asked_through.get(what)
        ]
        return lines

    def _asked(self, way: str, through: bool) -> int:
        asked = self.asked_through if through else self.asked_straight
        return sum(times for what, times in asked.items() if what.split()[0] == way)

    def _once(self, way: str) -> bool:
        return self._asked(way, False) == self._asked(way, True) == 1


async def drive(client: Client, installation: Installation) -> dict[str, Cell]:
    """A client's cells, by scenario. Cancelling ends its processes.

    Raises:
        AssertionError: a driver failed of itself.
    """
    # A refusal may take two seconds to come and still be a status; the slow scenario's first token comes later.
    settings = Settings.model_validate(
        {"port": 0, "admin_port": 0, "max_lag_s": 60.0, "warm_connections": 0, "commit_s": 2.0}
    )
    async with (
        claude() as near,
        claude() as far,
        running(settings, Credentials(api_key="the-service's-own-key", base_url=far.url)) as service,
    ):
        straight, through = await asyncio.gather(
            _seen(client, installation, near.url, False), _seen(client, installation, service.url, True)
        )
    return {
        name: Cell(client, name, straight[name], through[name], _asked(near, name), _asked(far, name))
        for name in SCENARIOS
        if name in straight
    }


def _asked(upstream: Claude, scenario: str) -> dict[str, int]:
    """What came to Claude. Which probes a client sends beside its question is its own affair, not the service's."""
    counts: dict[str, int] = upstream.asked.get(scenario) or {}
    return {what: times for what, times in counts.items() if "HEAD" not in what}


async def _seen(client: Client, installation: Installation, url: str, through: bool) -> dict[str, Any]:
    asked = {"base_url": url, "through": through, "scenarios": list(SCENARIOS)}
    path = f"{installation.node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = await asyncio.create_subprocess_exec(
        *installation.command(client.driver),
        cwd=installation.js,
        env=os.environ | {"PATH": path, "PYTHONWARNINGS": "ignore"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate(json.dumps(asked).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{client.driver} failed:\n{err.decode()[-4000:]}"
    # Where it asked is the one thing that must differ.
    told = out.decode().strip().splitlines()[-1].replace(url, "URL").replace(urlsplit(url).netloc, "HOST")
    seen: dict[str, Any] = json.loads(told)
    return seen
