"""The container runs: built from its file, on a read-only root, as nobody; and what an operator meets is one clear line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from app.tools.simulator.server import Simulator
from tests.support.container import ROOT, Containers
from tests.support.containerfile import stages
from tests.support.nginx import free_port
from tests.support.process import Service
from tests.support.readers import eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

KEY = {"x-api-key": "the-key-of-the-page"}
MB = 1_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Containers, str, int]:
    containers = Containers(tmp_path_factory.mktemp("containers"))
    return containers, *containers.build()


@asynccontextmanager
async def running(
    built: tuple[Containers, str, int], *options: str, ready: bool = True, **environ: str
) -> AsyncIterator[tuple[Service, str]]:
    """A container as the file's head says that it is run, on the machine's own network; its name beside it."""
    containers, image, _ = built
    name = containers.name()
    given = {
        "ANTHROPIC_API_KEY": "simulated", "SLUICEWAY_API_KEYS": f"page:{KEY['x-api-key']}", "SLUICEWAY_ADMIN_PORT": "0",
        "SLUICEWAY_PORT": "0", "SLUICEWAY_MAX_LAG_S": "60", "SLUICEWAY_WARM_CONNECTIONS": "0", **environ,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *containers.podman(
            "run", "--rm", "--name", name, "--cgroups=disabled", "--network=host", "--no-healthcheck", "--read-only",
            "--read-only-tmpfs=false", "--cap-drop=ALL", "--ulimit", "nproc=1000:1000",
            *(() if "nofile" in str(options) else ("--ulimit", "nofile=1024:4096")),
            *(part for pair in given.items() for part in ("--env", "=".join(pair))), *options, image,
        ),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    service = Service(process)
    try:
        if ready:
            await service.ready()
        yield service, name
    finally:
        if process.returncode is None:
            await podman(containers, "kill", name)
            await service.ended()


async def podman(containers: Containers, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *containers.podman(*arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def lines(service: Service, level: str = "") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in service.logged.splitlines() if line.startswith("{")]
    return [line for line in found if level in ("", line["level"])]


async def asked(service: Service, directive: str, client: aiohttp.ClientSession) -> str:
    url = service.url.replace("0.0.0.0", "127.0.0.1")
    async with client.post(f"{url}/api/stream", json={"prompt": f"{{{{{directive}}}}}"}, headers=KEY) as response:
        return await response.text()


def test_it_adds_little_to_its_base(built: tuple[Containers, str, int]) -> None:
    assert built[2] <= 120 * MB, f"{built[2] / MB:.0f} MB"


def test_it_says_what_it_is(built: tuple[Containers, str, int]) -> None:
    image = built[0].inspected(built[1])
    assert (image["Config"]["User"], image["Config"]["StopSignal"]) == ("65532:65532", "SIGTERM")
    assert image["Config"]["Entrypoint"][0] == image["Healthcheck"]["Test"][1] == "python"


async def test_it_streams_as_nobody_on_a_root_that_cannot_be_written(
    built: tuple[Containers, str, int], simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    async with running(built, ANTHROPIC_BASE_URL=simulator.url) as (service, name):
        assert '"done"' in await asked(service, "tokens=20", client)
        code, who = await podman(built[0], "exec", name, "python", "-c", "import os; print(os.getuid(), os.getgid())")
        assert (code, who.strip()) == (0, "65532 65532")
        for path in ("/opt/sluiceway/x", "/tmp/x", "/var/lib/sluiceway/x", "/x"):
            code, said = await podman(built[0], "exec", name, "python", "-c", f"open({path!r}, 'w')")
            assert code
            assert "Read-only file system" in said or "Permission denied" in said
        (health,) = [step.argv for step in stages(ROOT / "config" / "Containerfile")[2] if step.word == "HEALTHCHECK"]
        script = health[-1].replace("http://127.0.0.1:9464", service.admin_url)
        assert (await podman(built[0], "exec", name, *health[:-1], script))[0] == 0
        code, said = await podman(built[0], "exec", name, "python", "-m", "pip", "--version")
        assert "No module named pip" in said


async def test_sigterm_drains_and_ends_well(
    built: tuple[Containers, str, int], simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    async with running(built, ANTHROPIC_BASE_URL=simulator.url) as (service, name):
        answer = asyncio.create_task(asked(service, "tokens=60 rate=20", client))
        await eventually(lambda: simulator.books != [])
        code, said = await podman(built[0], "stop", "--time", "45", name)
        assert code == 0, said
        assert '"done"' in await answer, "the answer that ran was served to its end"
        status, _ = await service.ended()
        assert status == 0
        assert [line["message"] for line in lines(service)].count("draining: 1 streams run, and have 30 s") == 1


async def test_a_ledger_that_cannot_be_written_is_refused_at_the_start(built: tuple[Containers, str, int]) -> None:
    path = "/var/lib/sluiceway/ledger.json"
    async with running(built, ready=False, SLUICEWAY_LEDGER_FILE=path) as (service, _):
        status, said = await service.ended()
        assert status == 1
        assert said == f"Error: ledger_file '{path}': it cannot be written: Read-only file system\n"


async def test_no_network_to_claude_is_said_and_the_reader_is_told(
    built: tuple[Containers, str, int], client: aiohttp.ClientSession
) -> None:
    async with running(built, ANTHROPIC_BASE_URL=f"http://127.0.0.1:{free_port()}", SLUICEWAY_RETRIES="0") as (
        service,
        _,
    ):
        for _ in range(3):
            assert "upstream_unreachable" in await asked(service, "tokens=20", client)
        await eventually(lambda: len([line for line in lines(service) if "outcome" in line]) == 3)
        told = [line["message"] for line in lines(service, "warning") if "Claude" in line["message"]]
        assert len(told) == 1, service.logged
        assert told[0].endswith("502 upstream_unreachable: Claude could not be reached: refused")


async def test_256_descriptors_are_said_at_the_start(
    built: tuple[Containers, str, int], simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    async with running(built, "--ulimit", "nofile=256:256", ANTHROPIC_BASE_URL=simulator.url) as (service, _):
        (told,) = lines(service, "warning")
        assert told["message"] == "the limit of open files leaves room for 80 streams: max_streams is above it"
        assert '"done"' in await asked(service, "tokens=20", client)


async def test_a_start_without_keys_is_refused_in_one_line(built: tuple[Containers, str, int]) -> None:
    async with running(built, ready=False, SLUICEWAY_API_KEYS="") as (service, _):
        status, said = await service.ended()
        assert status == 1
        assert said.startswith("Error: host 0.0.0.0 is reachable from elsewhere")
        assert said.count("\n") == 1
