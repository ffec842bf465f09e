"""The Makefile's stamps: what `make` would do, asked with `-n`, in a folder that holds only what it looks at."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parent.parent
# In the order in which they are made: each is newer than what it is made from.
STAMPS = (f".venv/.python-{platform.python_version()}", ".venv/.service", ".venv/.tests")

LOCKS = ("requirements.lock", "tests/requirements.lock")
THIS_PYTHON = f"PYTHON={sys.executable}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout whose `.venv` is that of this Python, and complete."""
    for name in ("Makefile", *LOCKS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".venv").mkdir()
    for age, name in enumerate(STAMPS):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1 + age, 1 + age))
    return tmp_path


def told(folder: Path, *words: str) -> list[str]:
    """The lines that `make` says, to the end or to its error."""
    made = subprocess.run(
        ["make", "--no-print-directory", *words], cwd=folder, check=False, text=True, env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return made.stdout.splitlines()


def installs(plan: list[str]) -> list[str]:
    """The locks that the plan installs, in its order."""
    return [line.split()[-1] for line in plan if " pip install " in line]


def another_python(folder: Path, says: str) -> str:
    path = folder / "another-python"
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_a_complete_environment_is_left_as_it_is(folder: Path) -> None:
    assert told(folder, "-n", "setup", THIS_PYTHON) == ["make: Nothing to be done for 'setup'."]


def test_another_python_makes_the_environment_anew_with_all_in_it(folder: Path) -> None:
    plan = told(folder, "-n", "setup", another_python(folder, "echo 3.99.0"))
    assert plan.index("rm -rf .venv") < plan.index(f"{folder}/another-python -m venv .venv")
    assert installs(plan) == [*LOCKS]


@pytest.mark.parametrize(("changed", "installed"), [(LOCKS[0], [*LOCKS]), (LOCKS[1], [LOCKS[1]])])
def test_a_changed_lock_is_installed_into_the_environment(folder: Path, changed: str, installed: list[str]) -> None:
    (folder / changed).touch()
    plan = told(folder, "-n", "setup", THIS_PYTHON)
    assert "rm -rf .venv" not in plan
    assert installs(plan) == installed


def test_pip_resolves_nothing_builds_nothing_and_checks_every_hash(folder: Path) -> None:
    for line in told(folder, "-n", "setup", another_python(folder, "echo 3.99.0")):
        if " pip install " in line:
            assert "--no-deps --only-binary :all: --require-hashes" in line


def test_what_only_computes_runs_beside_the_tests_with_real_parts_and_gives_way_to_them(folder: Path) -> None:
    plan = told(folder, "-n", "test", THIS_PYTHON)
    mypy, rules, rest = (line for line in plan if line.endswith("/mypy") or " -m pytest " in line)
    assert mypy.startswith("nice ")
    assert rules.startswith("nice ")
    assert " -m rules " in rules
    assert not rest.startswith("nice ")
    assert "not rules or hypothesis" in rest
    assert told(folder, "-n", "check", THIS_PYTHON)[-1] == ".venv/bin/mypy", "alone it gives way to nobody"


@pytest.mark.parametrize("says", ["echo 3.10.9; exit 1", "exit 127"], ids=["too old", "not there"])
def test_the_environment_outlives_the_wish_for_a_python_that_will_not_do(folder: Path, says: str) -> None:
    assert "Error" in told(folder, "setup", another_python(folder, says))[-1]
    assert all((folder / name).exists() for name in STAMPS)
