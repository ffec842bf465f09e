"""The client's npm package: what is in it, how large it is, and that a server may import it."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from app import __version__
from app.tools.client_package import files, packed, write
from app.web.routes.pages import STATIC, trimmed
from tests.support.client_package import README, ROOT, install
from tests.support.node import JS, bundle, node

LICENSE = (ROOT / "LICENSE").read_text("utf-8")


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_the_package_has_the_very_client_that_the_service_serves() -> None:
    held = files(README, LICENSE)
    assert held["client.js"] == trimmed((STATIC / "client.js").read_bytes())
    assert held["client.d.ts"] == (STATIC / "client.d.ts").read_bytes()
    assert held["LICENSE"] == LICENSE.encode()


def test_every_entry_of_the_package_is_in_it_with_its_types() -> None:
    held = files(README, LICENSE)
    manifest = json.loads(held["package.json"])
    assert manifest["version"] == __version__
    assert manifest["sideEffects"] is False
    assert "dependencies" not in manifest
    assert manifest["peerDependenciesMeta"] == {name: {"optional": True} for name in manifest["peerDependencies"]}
    entries = manifest["exports"].values()
    named = {path for entry in entries for path in (entry.values() if isinstance(entry, dict) else [entry])}
    assert {path.removeprefix("./") for path in named} == {
        name for name in held if name not in {"README.md", "LICENSE"}
    }


def test_it_is_packed_as_npm_packs_and_the_same_each_time(tmp_path: Path) -> None:
    path = write(tmp_path / "made", ROOT)
    assert path.name == f"sluiceway-client-{__version__}.tgz"
    assert members(path.read_bytes()) == {f"package/{name}": body for name, body in files(README, LICENSE).items()}
    assert packed(files(README, LICENSE)) == path.read_bytes()


def test_a_readme_without_a_part_for_the_package_is_refused() -> None:
    with pytest.raises(ValueError, match="no part between"):
        files("# Nothing", LICENSE)


@pytest.mark.real
async def test_it_is_as_small_as_the_readme_says(tmp_path: Path) -> None:
    served = len(gzip.compress(trimmed((STATIC / "client.js").read_bytes()), 9, mtime=0))
    both = await bundle("both.mjs", "--minify", "--external:react", "--format=esm", beside=install(tmp_path))
    bundled = len(gzip.compress(both, 9, mtime=0))
    assert max(served, bundled) <= 5_000
    assert re.findall(r"([\d.]+) kB\s+gzipped", README) == [f"{size / 1000:.2f}" for size in (served, bundled)]


@pytest.mark.real
async def test_importing_it_on_a_server_touches_nothing_of_a_browser(tmp_path: Path) -> None:
    package = install(tmp_path) / "sluiceway-client"
    (tmp_path / "node_modules" / "react").symlink_to(JS / "node_modules" / "react")
    said = await node("imports.mjs", {"client": f"{package}/client.js", "react": f"{package}/react.js"})
    typed = re.findall(r"export (?:class|function) (\w+)", (STATIC / "client.d.ts").read_text("utf-8"))
    assert said == {"exported": sorted(typed), "html": "<p>idle</p>", "touched": []}
