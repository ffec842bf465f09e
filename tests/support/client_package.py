"""The client's npm package, unpacked where a bundler and node look for packages."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from app.tools.client_package import NAME, write

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def install(folder: Path) -> Path:
    """Packs the client and unpacks it as npm does; returns the `node_modules` that holds it."""
    modules = folder / "node_modules"
    archive = write(folder / "packed", ROOT).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        tar.extractall(modules, filter="data")
    (modules / "package").rename(modules / NAME)
    return modules
