"""The locks: whatever a pinned package asks for is pinned too, with a hash, on every Python that is claimed."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.locks import HERE, Pin, holds, read

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SERVICE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
CONTAINER = SERVICE + EXTRAS["otel"] + EXTRAS["redis"]
# Tests build the package without a network, so what building needs is locked with what they need themselves.
TESTS = CONTAINER + EXTRAS["test"] + PROJECT["build-system"]["requires"]
LOCKS = {"requirements.lock": SERVICE, "config/container.lock": CONTAINER, "tests/requirements.lock": TESTS}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@cache
def installed(pin: Pin) -> list[Requirement] | None:
    """What the installed distribution says it requires; None where it is not installed.

    Raises:
        AssertionError: another version than the locked one is installed, which may require something else.
    """
    try:
        distribution = metadata.distribution(pin.name)
    except metadata.PackageNotFoundError:
        return None
    assert Version(distribution.version) == Version(pin.version), (
        f"{pin.name} is locked at {pin.version}; run make setup"
    )
    return [Requirement(text) for text in distribution.requires or ()]


def lacking(
    pins: list[Pin],
    asked: list[str],
    environment: dict[str, str] = HERE,
    requires: Callable[[Pin], list[Requirement] | None] = installed,
) -> list[str]:
    """What the lock would leave out: each requirement, reached from `asked`, that it does not pin with a hash."""
    there = {pin.name: pin for pin in pins if pin.hashed and holds(pin.requirement, environment)}
    todo = [("the project", wanted) for wanted in map(Requirement, asked) if holds(wanted, environment)]
    seen: set[tuple[str, frozenset[str]]] = set()
    found = []
    while todo:
        who, wanted = todo.pop()
        pin = there.get(canonicalize_name(wanted.name))
        if pin is None or not pin.version or not wanted.specifier.contains(pin.version, prereleases=True):
            found.append(f"{who} requires {wanted.name}{wanted.specifier}")
            continue
        extras = frozenset(wanted.extras)
        if (pin.name, extras) not in seen:
            seen.add((pin.name, extras))
            todo += [(pin.name, more) for more in requires(pin) or () if holds(more, environment, extras)]
    return found


def at(python: str) -> dict[str, str]:
    """This machine with another Python."""
    if python == HERE["python_version"]:
        return HERE
    return {**HERE, "python_version": python, "python_full_version": f"{python}.0"}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_all_that_its_own_pins_require(lock: str, python: str) -> None:
    assert lacking(read((ROOT / lock).read_text("utf-8")), LOCKS[lock], at(python)) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_what_a_lock_pins_for_this_python_is_installed(lock: str) -> None:
    """Or the test above would not know what it requires."""
    pins = [pin for pin in read((ROOT / lock).read_text("utf-8")) if holds(pin.requirement, HERE)]
    assert [pin.name for pin in pins if installed(pin) is None] == []


def test_the_service_runs_with_the_versions_it_is_tested_with() -> None:
    service, container, tests = (
        {(pin.name, pin.version) for pin in read((ROOT / lock).read_text("utf-8"))} for lock in LOCKS
    )
    assert service <= container <= tests


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place_to_download_from(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_a_pin_that_is_missing_is_found_whichever_it_is(lock: str) -> None:
    pins = [pin for pin in read((ROOT / lock).read_text("utf-8")) if holds(pin.requirement, HERE)]
    assert len(pins) > len(LOCKS[lock])
    for pin in pins:
        assert lacking([other for other in pins if other is not pin], LOCKS[lock]), pin.name


MADE_UP = {"a": ['b>=2; extra == "fast"', 'c; python_version < "3.13"'], "b": [], "c": []}
WHOLE = "a==1 \\\n    --hash=sha256:0a\nb==2 \\\n    --hash=sha256:0b\n    # via a\nc==3 ; python_version < '3.13' \\\n    --hash=sha256:0c\n"


def made_up(pin: Pin) -> list[Requirement]:
    return [Requirement(text) for text in MADE_UP[pin.name]]


@pytest.mark.parametrize(
    ("kept", "broken", "told"),
    [
        ("", "", []),
        ("b==2 \\\n    --hash=sha256:0b\n", "", ["a requires b>=2"]),
        ("b==2 \\\n    --hash=sha256:0b\n", "b==2\n", ["a requires b>=2"]),
        ("b==2", "b==1", ["a requires b>=2"]),
        ("b==2", "b>=2", ["a requires b>=2"]),
        ("b==2", "b==2 ; sys_platform == 'win32'", ["a requires b>=2"]),
        ("< '3.13'", "< '3.12'", ["a requires c"]),
    ],
    ids=["whole", "extra left out", "without hash", "too old", "not pinned", "other system", "other Python"],
)
def test_a_broken_lock_is_found(kept: str, broken: str, told: list[str]) -> None:
    pins = read(WHOLE.replace(kept, broken))
    environment = {**HERE, "sys_platform": "linux", "python_version": "3.12", "python_full_version": "3.12.0"}
    assert lacking(pins, ["a[fast]"], environment, made_up) == told


def test_an_extra_that_nobody_asked_for_is_not_needed() -> None:
    pins = [pin for pin in read(WHOLE) if pin.name != "b"]
    assert lacking(pins, ["a"], requires=made_up) == []


def test_a_lock_without_any_hash_pins_nothing() -> None:
    pins = [replace(pin, hashed=False) for pin in read((ROOT / "requirements.lock").read_text("utf-8"))]
    assert len(lacking(pins, SERVICE)) == len(SERVICE)
