"""The container and the compose file, as they are written: what they promise can be read there. They run in the soak lane."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from app.commands import main
from app.settings import FIELDS, Settings, load
from app.web.exposure import check_exposure
from app.web.runner import Running
from tests.support.containerfile import Step, stages

ROOT = Path(__file__).resolve().parents[2]
BEFORE, BUILD, FINAL = stages(ROOT / "config" / "Containerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "config" / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# What Compose knows of a service, as far as ours say it; a slip of the pen is none of these.
WORDS = {
    "build", "image", "user", "command", "environment", "volumes", "ports", "read_only", "cap_drop", "security_opt",
    "ulimits", "stop_grace_period", "restart", "depends_on", "network_mode",
}  # fmt: skip


def only(stage: list[Step], word: str) -> Step:
    (step,) = [step for step in stage if step.word == word]
    return step


def place(stage: list[Step], word: str) -> int:
    return [step.word for step in stage].index(word)


def test_no_command_goes_through_a_shell() -> None:
    """PID 1 must be the service itself, or SIGTERM ends at a shell, and the streams at SIGKILL."""
    for step in [*BUILD, *FINAL]:
        if step.word in ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"):
            assert step.argv[0] not in ("sh", "bash", "/bin/sh", "/bin/bash"), step


def test_it_installs_what_is_locked_and_nothing_else() -> None:
    (install,) = [step.argv for step in BUILD if step.word == "RUN" and "install" in step.argv and "pip" in step.argv]
    for option in ("--no-deps", "--only-binary", "--require-hashes"):
        assert option in install
    lock = install[install.index("--requirement") + 1]
    assert Step("COPY", f"config/container.lock {lock}") in BUILD
    assert install[-1] == lock, "nothing beside it"
    assert not any(step.word == "ADD" for step in [*BUILD, *FINAL])


def test_it_runs_as_nobody_and_ends_by_sigterm() -> None:
    user = only(FINAL, "USER").said
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "a number, so that Kubernetes sees that it is not root"
    assert place(FINAL, "USER") < place(FINAL, "ENTRYPOINT")
    assert only(FINAL, "STOPSIGNAL").said == "SIGTERM"


def test_both_stages_stand_on_the_base_that_is_asked_for_and_the_last_brings_no_pip() -> None:
    assert only(BEFORE, "ARG").said.startswith("BASE=docker.io/library/python:")
    assert [only(stage, "FROM").said for stage in (BUILD, FINAL)] == ["${BASE} AS build", "${BASE}"]
    copied = [step.said.split()[0] for step in FINAL if step.word == "COPY"]
    assert set(copied) == {"--from=build"}
    assert any("uninstall" in step.argv and "pip" in step.argv for step in BUILD if step.word == "RUN")


def test_the_context_is_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    given = {line[1:] for line in patterns if line.startswith("!")}
    assert given == {step.said.split()[0] for step in BUILD if step.word == "COPY"}
    assert all((ROOT / name).exists() for name in given)


def test_what_is_compiled_is_there() -> None:
    (compiled,) = [
        step.argv[-1] for step in BUILD if step.word == "RUN" and "import sluiceway.__main__" in step.argv[-1]
    ]
    names = re.findall(r"[\w.]+", compiled.rpartition("import ")[2])
    assert len(names) >= 8
    for name in names:
        assert importlib.util.find_spec(name.replace("sluiceway", "app")) is not None, name


def test_its_command_is_one_that_the_service_has() -> None:
    argv = [*only(FINAL, "ENTRYPOINT").argv, *only(FINAL, "CMD").argv]
    assert argv[:4] == ["python", "-P", "-m", "sluiceway"]
    known = {option for parameter in main.commands[argv[4]].params for option in parameter.opts}
    assert {word for word in argv[5:] if word.startswith("--")} <= known
    assert "Serve" in CliRunner().invoke(main, [argv[4], "--help"]).output


async def test_its_health_check_is_good_for_a_service_that_serves_and_bad_for_none(service: Running) -> None:
    argv = only(FINAL, "HEALTHCHECK").argv
    assert argv[0] == "python"
    assert "http://127.0.0.1:9464/healthz" in argv[-1]
    for url, status in ((service.admin_url, 0), ("http://127.0.0.1:9", 1)):
        command = [sys.executable, *argv[1:-1], argv[-1].replace("http://127.0.0.1:9464", url)]
        run = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
        assert run.returncode == status, run.stderr


def test_compose_says_nothing_that_compose_does_not_know() -> None:
    assert set(COMPOSE) == {"name", "services", "volumes"}
    assert set(SERVICES) == {"sluiceway", "nginx", "redis", "prometheus", "grafana"}
    for name, service in SERVICES.items():
        assert service.keys() <= WORDS, name
        assert ("image" in service) != ("build" in service), name
        assert set(service.get("depends_on", [])) <= SERVICES.keys()
        mode = service.get("network_mode", "service:sluiceway").partition(":")
        assert (mode[0], mode[2] in SERVICES) == ("service", True)
        tag = service.get("image", "x:1").rpartition(":")[2]
        assert re.search(r"\d", tag), f"{name}: which one is not left to the day"
    volumes = {source for _, source, _ in mounts() if not source.startswith(".")}
    assert volumes == COMPOSE["volumes"].keys()


def mounts() -> list[tuple[str, str, str]]:
    """Which service mounts what, and where."""
    parts = [(name, volume.split(":")) for name, service in SERVICES.items() for volume in service.get("volumes", [])]
    return [(name, part[0], part[1]) for name, part in parts]


def test_what_compose_mounts_from_here_is_here_and_cannot_be_written() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (ROOT / "config" / volume.split(":")[0]).resolve().exists(), f"{name}: {volume}"
                assert volume.endswith(":ro"), f"{name}: {volume}"
    build = SERVICES["sluiceway"]["build"]
    assert (ROOT / "config" / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    paths = {where for name, _, where in mounts() if name == "prometheus"}
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/rules"} <= paths
    rules = yaml.safe_load((ROOT / "grafana" / "prometheus.yml").read_text("utf-8"))["rule_files"]
    assert all((ROOT / "grafana" / rule).is_file() for rule in rules)
    boards = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/sluiceway.yml").read_text("utf-8"))
    assert boards["providers"][0]["options"]["path"] in {where for name, _, where in mounts() if name == "grafana"}


@pytest.fixture
def composed() -> Settings:
    """What the service is run with there."""
    ours = SERVICES["sluiceway"]
    given = {name: str(value) for name, value in ours["environment"].items() if name.startswith("SLUICEWAY_")}
    given = {name: "web:the-key-of-the-page" if value.startswith("${") else value for name, value in given.items()}
    assert {name.removeprefix("SLUICEWAY_").lower() for name in given} <= FIELDS.keys()
    assert ours["command"][:2] == ["serve", "--unix"]
    return load(None, given, {"unix": ours["command"][2]})


def test_the_service_of_compose_can_be_run_and_its_proxy_reaches_it(composed: Settings) -> None:
    check_exposure(composed)
    unix = composed.listening.unix
    assert f"server unix:{unix};" in (ROOT / "config" / "nginx.conf").read_text("utf-8")
    for name in ("sluiceway", "nginx"):
        assert ("socket", str(Path(unix).parent)) in [(source, where) for who, source, where in mounts() if who == name]
    uid, gid = SERVICES["sluiceway"]["user"].split(":")
    assert f"uid={uid},gid={gid}," in COMPOSE["volumes"]["socket"]["driver_opts"]["o"]
    assert uid == only(FINAL, "USER").said.split(":")[0]
    assert any(
        where == str(Path(composed.costs.ledger_file).parent) for who, _, where in mounts() if who == "sluiceway"
    )


def test_the_service_of_compose_may_no_more_than_it_needs_and_has_the_time_of_its_drain(composed: Settings) -> None:
    ours = SERVICES["sluiceway"]
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    assert ours["security_opt"] == ["no-new-privileges:true"]
    assert int(ours["stop_grace_period"].removesuffix("s")) >= composed.streams.drain_s + 10
    assert "ports" not in ours, "it is reached through nginx"
    for name, value in ours["environment"].items():
        if "KEY" in name:
            assert re.fullmatch(r"\$\{\w+:\?\}", value), f"{name} must come from outside, or nothing starts"


def test_redis_refuses_rather_than_forgets() -> None:
    command = SERVICES["redis"]["command"]
    said = dict(zip(command[1::2], command[2::2], strict=True))
    assert (said["--maxmemory-policy"], said["--appendonly"]) == ("noeviction", "yes")
