"""The dependency audit: no lock pins what an advisory warns of, and advisories are read as OSV means them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.advisories import audit
from tests.support.locks import read

KNOWN: list[dict[str, Any]] = json.loads(audit.KNOWN.read_text("utf-8"))
PINNED = audit.locks()
NAMES = {pin.name for pins in PINNED.values() for pin in pins}


def advisory(*events: dict[str, str], name: str = "Some_Package", **more: Any) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges, **more.pop("affected", {})}
    return {"id": "GHSA-0", "summary": "bad", "affected": [affected], **more}


def test_no_lock_pins_what_an_advisory_warns_of() -> None:
    assert audit.findings(KNOWN, PINNED) == []


def test_every_lock_is_audited_and_pins_versions() -> None:
    assert {"requirements.lock", "config/container.lock", "tests/requirements.lock"} <= PINNED.keys()
    assert len(PINNED) >= 6
    assert all(pin.version for pins in PINNED.values() for pin in pins)


def test_what_is_known_concerns_the_locks_and_is_kept_as_it_is_written() -> None:
    assert audit.concerning(KNOWN, NAMES) == KNOWN
    assert audit.written(KNOWN) == audit.KNOWN.read_text("utf-8")
    assert len(KNOWN) >= 10


@pytest.mark.parametrize("one", KNOWN, ids=lambda one: one["id"])
def test_an_advisory_is_found_in_the_version_before_its_cure_and_not_after(one: dict[str, Any]) -> None:
    (affected,) = one["affected"]
    for events in (ranges["events"] for ranges in affected["ranges"]):
        begins, cured = events[0]["introduced"], events[1]["fixed"]
        assert audit.affects(one, affected["package"]["name"], "0.0.1" if begins == "0" else begins)
        assert not audit.affects(one, affected["package"]["name"], cured)


@pytest.mark.parametrize(
    ("events", "version", "affected"),
    [
        ([{"introduced": "0"}, {"fixed": "2.0"}], "1.9", True),
        ([{"introduced": "0"}, {"fixed": "2.0"}], "2.0", False),
        ([{"introduced": "0"}, {"fixed": "2.0"}], "2.0rc1", True),
        ([{"introduced": "0"}, {"fixed": "2.0"}], "10.0", False),
        ([{"introduced": "1.5"}, {"fixed": "2.0"}], "1.4", False),
        ([{"introduced": "1.5"}], "99", True),
        ([{"introduced": "0"}, {"last_affected": "1.2"}], "1.2", True),
        ([{"introduced": "0"}, {"last_affected": "1.2"}], "1.3", False),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "3.0"}, {"fixed": "3.2"}], "2.0", False),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "3.0"}, {"fixed": "3.2"}], "3.1", True),
        ([{"introduced": "3.0"}, {"fixed": "3.2"}, {"introduced": "0"}, {"fixed": "1.0"}], "3.1", True),
        ([], "1.0", False),
    ],
)
def test_a_range_holds_what_osv_says_that_it_holds(events: list[dict[str, str]], version: str, affected: bool) -> None:
    assert audit.affects(advisory(*events), "some-package", version) is affected


def test_versions_are_found_by_name_where_no_range_says_so() -> None:
    listed = advisory(affected={"versions": ["1.0", "1.1"]})
    assert audit.affects(listed, "some-package", "1.1")
    assert not audit.affects(listed, "some-package", "1.2")


def test_what_was_withdrawn_or_is_of_another_package_or_ecosystem_concerns_nobody() -> None:
    all_of_it = {"introduced": "0"}
    assert not audit.affects(advisory(all_of_it, withdrawn="2026-01-01T00:00:00Z"), "some-package", "1")
    assert not audit.affects(advisory(all_of_it), "another", "1")
    elsewhere = advisory(all_of_it)
    elsewhere["affected"][0]["package"]["ecosystem"] = "npm"
    assert not audit.affects(elsewhere, "some-package", "1")


def test_a_finding_names_the_lock_the_pin_and_the_advisory() -> None:
    pins = read("some-package==1.0 \\\n    --hash=sha256:0a\n")
    assert audit.findings([advisory({"introduced": "0"})], {"a.lock": pins}) == ["a.lock: some-package 1.0: GHSA-0 bad"]


def test_it_is_renewed_from_osvs_collection_with_what_concerns_the_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collection, known = tmp_path / "all.zip", tmp_path / "known.json"
    monkeypatch.setattr(audit, "KNOWN", known)
    good = advisory({"introduced": "0"}, {"fixed": "1.0"}, name="aiohttp", details="long", schema_version="1.6.0")
    bad = advisory({"introduced": "0"}, name="Aiohttp") | {"id": "GHSA-1"}
    with zipfile.ZipFile(collection, "w") as file:
        for number, one in enumerate([bad, good, advisory({"introduced": "0"}, name="not-ours")]):
            file.writestr(f"{number}.json", json.dumps(one))
    assert audit.main([str(collection)]) == 1
    said = capsys.readouterr().out
    assert "GHSA-1" in said
    assert "requirements.lock: aiohttp" in said
    kept = json.loads(known.read_text())
    assert [one["id"] for one in kept] == ["GHSA-0", "GHSA-1"]
    assert kept[0].keys() == {"id", "summary", "affected"}
    known.write_text(audit.written(kept[:1]))
    assert audit.main([]) == 0
