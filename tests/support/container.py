"""The container, built on a Debian that is made on the spot, and run by podman and crun: no image registry is asked."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from tests.conftest import OUTSIDE
from tests.support.locks import HERE, holds, read

ROOT = Path(__file__).resolve().parents[2]
# Debian 12's; it is what the markers of the lock are asked about.
BASES_PYTHON = "3.11.2"
# crun refuses a machine that has both kinds of cgroups mounted, so that it sees the second kind alone.
_ALONE = ("unshare", "--mount", "sh", "-c", 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"', "sh")


class Containers:
    """Builds images and runs them, in a store of its own.

    Args:
        folder: for all that is stored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ("--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "overlay")

    def podman(self, *arguments: str) -> list[str]:
        """The command line of podman on that store."""
        return [*_ALONE, "podman", *self._store, "--cgroup-manager", "cgroupfs", *arguments]

    def build(self) -> tuple[str, int]:
        """Builds `config/Containerfile`. Returns the image's name, and what it adds to its base, in bytes."""
        tar = self._folder / "base.tar"
        said = "python3,python3-venv,ca-certificates"
        _run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={said}", "bookworm", str(tar)])
        _run(self.podman("import", "--quiet", str(tar), "localhost/base"))
        wheels = self._wheels()
        given = {"BASE": "localhost/base", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        _run(
            [
                "buildah", *self._store, "bud", "--isolation", "chroot", "--format", "docker", "--tag", "sluiceway",
                "--volume", f"{wheels}:/wheels:ro", "--file", "config/Containerfile",
                *(part for name, value in given.items() for part in ("--build-arg", f"{name}={value}")), ".",
            ]
        )  # fmt: skip
        return "localhost/sluiceway", self.inspected("localhost/sluiceway")["Size"] - self.inspected("localhost/base")[
            "Size"
        ]

    def inspected(self, image: str) -> dict[str, Any]:
        """What podman knows of an image."""
        found: dict[str, Any] = json.loads(_run(self.podman("image", "inspect", image)))[0]
        return found

    def _wheels(self) -> Path:
        """What the lock asks for on the base's Python, with the hashes that it has."""
        folder, wanted = self._folder / "wheels", self._folder / "wanted.lock"
        base = HERE | {"python_full_version": BASES_PYTHON}
        lock = (ROOT / "config" / "container.lock").read_text("utf-8")
        entries = [
            entry for entry in lock.replace("\\\n", " ").splitlines() if entry and not entry.startswith((" ", "#"))
        ]
        assert len(entries) == len(read(lock))
        kept = [entry for entry in entries if holds(read(entry)[0].requirement, base)]
        # Without their markers, which this Python's pip would judge by itself.
        wanted.write_text(
            "\n".join(f"{e.partition(' ;')[0].partition(' --')[0]} --hash{e.partition('--hash')[2]}" for e in kept)
        )
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
        ]
        _run([*pip, "--requirement", str(wanted), "--dest", str(folder)])
        return folder

    def name(self) -> str:
        """One for a container that is to run."""
        return f"sluiceway-{uuid.uuid4().hex[:8]}"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=OUTSIDE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[:8]} … failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
