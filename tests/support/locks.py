"""Reads the locks: what is pinned, at which version, for whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What markers are asked about: this Python on this machine.
HERE = {name: str(value) for name, value in default_environment().items()}


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of a lock."""

    requirement: Requirement
    hashed: bool

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The one version it allows; empty where it does not pin."""
        pinned = [specifier.version for specifier in self.requirement.specifier if specifier.operator == "=="]
        return pinned[0] if len(pinned) == 1 else ""


def read(lock: str) -> list[Pin]:
    """The entries of a lock file's text."""
    lines = (line.partition(" #")[0].strip() for line in lock.replace("\\\n", " ").splitlines())
    entries = [line.partition(" --hash=sha256:") for line in lines if line and not line.startswith("#")]
    return [Pin(Requirement(requirement), bool(hashes)) for requirement, _, hashes in entries]


def holds(requirement: Requirement, environment: dict[str, str], extras: Iterable[str] = ()) -> bool:
    """Whether it is asked for there, by one who was asked for with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))
