"""The browser's client as an npm package, made from the very files that the service serves: `make client`."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

from .. import __version__
from ..web.routes.pages import STATIC, trimmed

NAME = "sluiceway-client"
# npm's own constant for packages that are the same however often they are packed: 26 October 1985.
_PACKED_AT_S = 499_162_500
_SECTION = re.compile(r"<!-- package -->\n(.*?)<!-- /package -->", re.DOTALL)


def manifest() -> dict[str, Any]:
    """The package's `package.json`."""

    def entry(name: str) -> dict[str, str]:
        return {"types": f"./{name}.d.ts", "default": f"./{name}.js"}

    return {
        "name": NAME,
        "version": __version__,
        "description": "Reads Sluiceway's streams in the browser: resumable, stoppable, as fast as they are shown.",
        "license": "Apache-2.0",
        "type": "module",
        "sideEffects": False,
        "exports": {".": entry("client"), "./react": entry("react"), "./package.json": "./package.json"},
        "peerDependencies": {"react": ">=18"},
        "peerDependenciesMeta": {"react": {"optional": True}},
    }


def files(readme: str, license: str) -> dict[str, bytes]:
    """What the package holds, by path.

    Args:
        readme: the repository's; the part between the marks `package` is the package's own.
        license: its text.

    Raises ValueError where the README has no such part.
    """
    section = _SECTION.search(readme)
    if section is None:
        raise ValueError("the README has no part between <!-- package --> and <!-- /package -->")
    return {
        "package.json": (json.dumps(manifest(), indent=2) + "\n").encode(),
        "README.md": f"# {NAME}\n\n{section[1].strip()}\n".encode(),
        "LICENSE": license.encode(),
        "client.js": trimmed((STATIC / "client.js").read_bytes()),
        "client.d.ts": (STATIC / "client.d.ts").read_bytes(),
        "react.js": trimmed((STATIC / "react.js").read_bytes()),
        "react.d.ts": (STATIC / "react.d.ts").read_bytes(),
    }


def packed(contents: dict[str, bytes]) -> bytes:
    """The package as `npm pack` would write it; the same bytes for the same contents."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, body in contents.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size, member.mtime = len(body), _PACKED_AT_S
            archive.addfile(member, io.BytesIO(body))
    return gzip.compress(tar.getvalue(), 9, mtime=0)


def write(into: Path, root: Path) -> Path:
    """Writes the package into a folder; returns its path. `root` has the repository's README and license."""
    into.mkdir(parents=True, exist_ok=True)
    path = into / f"{NAME}-{__version__}.tgz"
    contents = files((root / "README.md").read_text("utf-8"), (root / "LICENSE").read_text("utf-8"))
    path.write_bytes(packed(contents))
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path.cwd()))
