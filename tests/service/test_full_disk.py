"""A disk that fills up while the service runs: what it costs, and what is said of it, once."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import aiohttp

from app.tools.simulator.server import Simulator
from tests.support.process import Service, Start
from tests.support.readers import eventually

ROSTER = "[callers.poor]\nbudget_usd_per_day = 1000.0\n"


class Disk:
    """A small file system of the service's own, as it sees it, in a mount namespace that ends with it."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._filler = Path(f"/proc/{service.process.pid}/root{folder}/filler")

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break

    def free(self) -> None:
        self._filler.unlink()


def told(service: Service, word: str) -> list[str]:
    lines = [json.loads(line) for line in service.logged.splitlines()]
    return [line["message"] for line in lines if word in line["message"] and line["level"] in ("warning", "error")]


async def test_a_full_disk_is_said_once_costs_only_what_needs_it_and_heals(
    start: Start, simulator: Simulator, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    source, disk = tmp_path / "source", tmp_path / "disk"
    source.mkdir()
    disk.mkdir()
    roster = source / "callers.toml"
    roster.write_text(ROSTER)
    roster.chmod(0o600)
    environ = {
        "ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_CALLERS_FILE": str(disk / "callers.toml"), "SLUICEWAY_PORT": "0",
        "SLUICEWAY_LEDGER_FILE": str(disk / "ledger.json"), "SLUICEWAY_KEY_PEPPER": "p" * 32, "SLUICEWAY_ADMIN_PORT": "0",
        "SLUICEWAY_API_KEYS": "poor:the-key-of-the-poor,rich:the-key-of-the-rich",
    }  # fmt: skip
    mounted = 'mount -t tmpfs -o size=512k tmpfs "$0" && cp --preserve=mode "$1" "$0" && shift && exec "$@"'
    service = await start(environ=environ, under=("unshare", "--mount", "sh", "-c", mounted, str(disk), str(roster)))

    async def asked(who: str, tokens: int = 5) -> tuple[int, str]:
        body = {"prompt": f"{{{{tokens={tokens}}}}}"}
        async with client.post(
            f"{service.url}/api/stream", json=body, headers={"x-api-key": f"the-key-of-the-{who}"}
        ) as got:
            return got.status, await got.text()

    assert (await asked("poor"))[0] == 200
    small = Disk(service, disk)
    small.fill()
    refused: list[int] = []
    for _ in range(200):
        status, said = await asked("poor", 2000)
        refused += [status] if status != 200 else []
        if len(refused) == 3:
            break
    assert refused == [503] * 3, "who has a budget is refused, once what was drawn is spent"
    assert "budget_unavailable" in said
    assert (await asked("rich"))[0] == 200, "others are served"
    assert len(told(service, "budgets and shared limits cannot be kept")) == 1, service.logged
    small.free()

    healed = [status for _ in range(100) if (status := (await asked("poor"))[0]) == 200]
    assert healed, "who has a budget is served again"
    await eventually(lambda: len(told(service, "budgets and shared limits are kept again")) == 1)
    small.fill()
    service.process.send_signal(signal.SIGTERM)
    status, _ = await service.ended()
    assert status == 0
    (line,) = told(service, "ledger")
    assert (
        line
        == f"what the ledger learned could not be saved in {disk}/ledger.json, and is kept in memory: No space left on device"
    )
