"""The dependency audit: every pin of every lock against advisories in a file, without a network.

`known.json` holds the advisories that concern what the locks pin, in OSV's form (ossf.github.io/osv-schema). It is renewed from
OSV's own collection for PyPI, one file that can be fetched anywhere and carried here:

    make advisories FILE=all.zip        (osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip)
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tests.support.locks import Pin, read

ROOT = Path(__file__).resolve().parents[2]
KNOWN = Path(__file__).with_name("known.json")
_KEPT = ("id", "aliases", "summary", "affected")
_KEPT_OF_AFFECTED = ("package", "ranges", "versions")

Advisory = dict[str, Any]


def locks() -> dict[str, list[Pin]]:
    """Every lock of the repository, by its path."""
    paths = [*ROOT.glob("*.lock"), *(ROOT / "config").glob("*.lock"), *(ROOT / "tests").rglob("requirements.lock")]
    paths = [path for path in sorted(paths) if "node_modules" not in path.parts]
    return {str(path.relative_to(ROOT)): read(path.read_text("utf-8")) for path in paths}


def affects(advisory: Advisory, name: str, version: str) -> bool:
    """Whether an advisory concerns this version of a package. One that was withdrawn concerns none. Pure."""
    if advisory.get("withdrawn"):
        return False
    return any(
        version in affected.get("versions", ())
        or any(_within(one["events"], version) for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM")
        for affected in _of_pypi(advisory)
        if canonicalize_name(affected["package"]["name"]) == name
    )


def _of_pypi(advisory: Advisory) -> list[dict[str, Any]]:
    return [one for one in advisory.get("affected", ()) if one.get("package", {}).get("ecosystem") == "PyPI"]


def _within(events: Iterable[dict[str, str]], version: str) -> bool:
    """Whether a version is affected: as the last event at or below it says (OSV schema, "Evaluation")."""
    asked, within = Version(version), False
    for event in sorted(events, key=_place):
        (kind, where), *_ = event.items()
        at = _version(where)
        if kind == "introduced" and asked >= at:
            within = True
        elif (kind == "fixed" and asked >= at) or (kind == "last_affected" and asked > at):
            within = False
    return within


def _place(event: dict[str, str]) -> Version:
    return _version(next(iter(event.values())))


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version(
            "0"
        )  # a version that PyPI would not take today: from the beginning on, which errs towards a finding


def findings(advisories: Iterable[Advisory], pinned: dict[str, list[Pin]]) -> list[str]:
    """What is wrong with the locks, each as a line."""
    return [
        f"{lock}: {pin.name} {pin.version}: {advisory['id']} {advisory.get('summary', '')}".rstrip()
        for advisory in advisories
        for lock, pins in pinned.items()
        for pin in pins
        if affects(advisory, pin.name, pin.version)
    ]


def concerning(advisories: Iterable[Advisory], names: Collection[str]) -> list[Advisory]:
    """Those about one of these packages that were not withdrawn, shortened to what is looked at, in a stable order."""
    kept = []
    for advisory in advisories:
        ours = [one for one in _of_pypi(advisory) if canonicalize_name(one["package"]["name"]) in names]
        if ours and not advisory.get("withdrawn"):
            affected = [{key: one[key] for key in _KEPT_OF_AFFECTED if key in one} for one in ours]
            kept.append({key: advisory[key] for key in _KEPT if key in advisory} | {"affected": affected})
    return sorted(kept, key=lambda one: str(one["id"]))


def in_zip(path: Path) -> Iterator[Advisory]:
    """The advisories of OSV's collection. Raises OSError, zipfile.BadZipFile, ValueError."""
    with zipfile.ZipFile(path) as collection:
        for name in collection.namelist():
            yield json.loads(collection.read(name))


def written(advisories: list[Advisory]) -> str:
    """What `known.json` holds: an advisory a line, so that a change of it can be read."""
    return "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in advisories) + "\n]\n"


def main(arguments: list[str]) -> int:
    """Renews `known.json` where a collection is named, and audits. The exit status: 1 where something was found."""
    pinned = locks()
    if arguments:
        names = {pin.name for pins in pinned.values() for pin in pins}
        KNOWN.write_text(written(concerning(in_zip(Path(arguments[0])), names)), "utf-8")
    known: list[Advisory] = json.loads(KNOWN.read_text("utf-8"))
    found = findings(known, pinned)
    print("\n".join([*found, f"{len(found)} findings; {len(known)} advisories, {len(pinned)} locks"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
