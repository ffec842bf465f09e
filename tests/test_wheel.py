"""The package: built, installed beside nothing but the locked requirements of the service, and driven from another folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from app import __version__
from app.money.prices import SHIPPED, load_prices
from app.tools.simulator.answer import numbered_text
from tests.support.locks import HERE, holds, read

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = Path("/")
# A tool for this repository, which draws with what the tests ask for.
NOT_INSTALLED = "tools/audit/"


def run(*command: str | Path, cwd: Path = ELSEWHERE) -> str:
    """What the command says; it must succeed, without this process's own settings."""
    ended = subprocess.run(
        command, cwd=cwd, env=environment(), check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def environment() -> dict[str, str]:
    foreign = ("SLUICEWAY_", "ANTHROPIC_", "PYTHON", "PIP_", "COV")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def build(kind: str, source: Path, into: Path) -> Path:
    """Builds by the hooks of PEP 517, without a network: what building needs is installed with the tests."""
    into.mkdir(exist_ok=True)
    run(sys.executable, "-c", f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])", into, cwd=source)
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package is built from, alone: building leaves traces in its folder."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return build("wheel", source, source.parent / "wheel")


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which the wheel is installed, and what requirements.lock pins; nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for pin in read((ROOT / "requirements.lock").read_text("utf-8")):
        if holds(pin.requirement, HERE):
            link(metadata.distribution(pin.name), site)
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", python)
    run(*pip, "install", "--no-index", "--no-deps", wheel)
    run(*pip, "check")
    return python.parent


def link(distribution: metadata.Distribution, site: Path) -> None:
    """Borrows an installed distribution: each of its files and folders in site-packages, its metadata too."""
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
        # A folder that two share (`namespace` packages) is met twice.
        (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_whole_of_app_as_one_package(wheel: Path) -> None:
    files = {path.relative_to(ROOT / "app").as_posix() for path in (ROOT / "app").rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name and not name.startswith(NOT_INSTALLED)}
    packed = contents(wheel)
    about = f"sluiceway-{__version__}.dist-info"
    assert {name for name in packed if not name.startswith(about)} == {f"sluiceway/{name}" for name in expected}
    assert packed[f"{about}/top_level.txt"] == b"sluiceway\n"
    assert f"\nVersion: {__version__}\n".encode() in packed[f"{about}/METADATA"]


def test_the_sdist_gives_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", source, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / f"sluiceway-{__version__}", tmp_path / "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


# The only modules that need an extra, `redis` or `otel`: they are imported where its settings say so.
OF_THE_EXTRAS = {"sluiceway.fleet.redis_link", "sluiceway.web.fleet", "sluiceway.telemetry.tracing"}


def test_every_installed_module_is_imported_without_what_only_tests_need(bin: Path) -> None:
    walk = (
        "import pkgutil, sluiceway; print(*(m.name for m in pkgutil.walk_packages(sluiceway.__path__, 'sluiceway.')))"
    )
    names = {*run(bin / "python", "-c", walk).split()}
    assert {"sluiceway.web.compose"} | OF_THE_EXTRAS <= names
    run(bin / "python", "-W", "error", "-c", f"import {', '.join(names - OF_THE_EXTRAS)}")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "SLUICEWAY_REDIS_URL",
            "redis://127.0.0.1:1/0",
            r"redis_url: it needs (hi)?redis: pip install 'sluiceway\[redis\]'",
        ),
        ("SLUICEWAY_OTLP_ENDPOINT", "http://127.0.0.1:1", r"otlp_endpoint: .*: pip install 'sluiceway\[otel\]'"),
    ],
)
def test_what_an_extra_brings_is_refused_without_it_and_named(bin: Path, name: str, value: str, told: str) -> None:
    command: list[str | Path] = [bin / "sluiceway", "serve", "--simulate", "--port", "0", "--admin-port", "0"]
    ended = subprocess.run(command, cwd=ELSEWHERE, env=environment() | {name: value}, capture_output=True, text=True)
    assert ended.returncode != 0
    assert re.search(told, ended.stderr)


def test_the_installed_package_is_not_the_repository(bin: Path) -> None:
    find = "import importlib.util as u; print(u.find_spec('app'), u.find_spec('pytest'))"
    assert run(bin / "python", "-c", find).split() == ["None", "None"]


@pytest.mark.parametrize("command", [["sluiceway"], ["python", "-m", "sluiceway"]])
def test_the_command_tells_its_verbs_and_version(bin: Path, command: list[str]) -> None:
    program, *words = command
    assert {"serve", "simulate", "load", "prove"} <= {*run(bin / program, *words, "--help").split()}
    assert run(bin / program, *words, "--version").split()[-1] == __version__


@pytest.fixture(params=["1", "2"], ids=["alone", "workers"])
def urls(bin: Path, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The service's own address and the admin's, as it says them; with a simulated Claude."""
    command = [bin / "sluiceway", "serve", "--simulate", "--port", "0", "--admin-port", "0", "--workers", request.param]
    with subprocess.Popen(command, cwd=ELSEWHERE, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = next(line for line in iter(process.stdout.readline, "") if line.startswith("Sluiceway"))
            yield [word.rstrip(")") for word in said.split() if word.startswith("http")]
        finally:
            process.terminate()


def get(url: str, body: dict[str, str] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        text: str = response.read().decode()
    return text


def test_the_installed_service_streams_with_prices_and_pages(urls: list[str]) -> None:
    service, admin = urls
    lines = get(f"{service}/api/stream", {"prompt": "Go. {{tokens=5 rate=0 ttft_s=0 text=numbered}}"}).splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(event.get("text", "") for event in events) == numbered_text(5)
    assert events[-1]["done"] is True
    assert get(f"{service}/client.js")
    assert "<html" in get(f"{service}/")
    output = load_prices(SHIPPED).models["claude-opus-4-8"].usd_per_mtok.output
    assert f'sluiceway_price_usd_per_mtok{{model="claude-opus-4-8",type="output"}} {output}' in get(f"{admin}/metrics")
