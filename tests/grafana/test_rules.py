"""The alerts: promtool sees each fire and not, and notices each threshold that is moved; each has its runbook."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.errors import Refusal
from tests.grafana.board import GRAFANA

RULES = GRAFANA / "rules" / "sluiceway.rules.yml"
TESTS = sorted((GRAFANA / "rules" / "tests").glob("*.test.yml"))
TEXT = RULES.read_text(encoding="utf-8")


def rules() -> list[dict[str, Any]]:
    """Every rule, recorded or alerting."""
    return [rule for group in yaml.safe_load(TEXT)["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Every alert; one that has tiers comes several times."""
    return [rule for rule in rules() if "alert" in rule]


def files_of(name: str) -> list[Path]:
    """The test files that speak of an alert."""
    return [path for path in TESTS if f"alertname: {name}\n" in path.read_text(encoding="utf-8")]


def promtool(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=100)


def test_rules_are_valid() -> None:
    found = promtool("check", "rules", RULES, cwd=GRAFANA)
    assert found.returncode == 0, found.stdout + found.stderr
    config = promtool("check", "config", "prometheus.yml", cwd=GRAFANA)
    assert config.returncode == 0, config.stdout + config.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_groups_are_evaluated_in_the_order_of_the_file(path: Path) -> None:
    """Otherwise promtool takes a random order, and a test passes only now and then."""
    order = [group["name"] for group in yaml.safe_load(TEXT)["groups"]]
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["group_eval_order"] == order


def needed_by(kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The file's groups, with these alerts alone and what is recorded for them; all would take promtool minutes."""
    words = "\n".join(rule["expr"] for rule in kept)
    wanted: list[dict[str, Any]] = []
    while more := [rule for rule in rules() if "record" in rule and rule not in wanted and rule["record"] in words]:
        wanted += more
        words = "\n".join(rule["expr"] for rule in more)
    groups = []
    for group in yaml.safe_load(TEXT)["groups"]:
        recorded = [rule for rule in group["rules"] if rule in wanted]
        names = {rule["alert"] for rule in group["rules"] if "alert" in rule}
        groups.append(group | {"rules": recorded + [rule for rule in kept if rule["alert"] in names]})
    return groups


def run_tests(path: Path, kept: list[dict[str, Any]], name: str | None, folder: Path) -> str:
    """What promtool says of these alerts, by the checks of a test file, or by those of one alert; empty where all is well."""
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": needed_by(kept)}), encoding="utf-8")
    tests = yaml.safe_load(path.read_text(encoding="utf-8")) | {"rule_files": ["rules.yml"]}
    for scenario in tests["tests"]:
        scenario["alert_rule_test"] = [one for one in scenario["alert_rule_test"] if name in (None, one["alertname"])]
    tests["tests"] = [scenario for scenario in tests["tests"] if scenario["alert_rule_test"]]
    (folder / path.name).write_text(yaml.safe_dump(tests), encoding="utf-8")
    found = promtool("test", "rules", path.name, cwd=folder)
    return found.stdout + found.stderr if found.returncode else ""


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_tests_pass(path: Path, tmp_path: Path) -> None:
    kept = [rule for rule in alerts() if path in files_of(rule["alert"])]
    assert run_tests(path, kept, None, tmp_path) == ""


@pytest.mark.soak
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_tests_pass_with_all_rules_at_once(path: Path) -> None:
    found = promtool("test", "rules", path, cwd=GRAFANA)
    assert found.returncode == 0, found.stdout + found.stderr


def test_each_alert_and_each_of_its_tiers_is_tested_firing_and_not_firing() -> None:
    firing: dict[str, set[str]] = defaultdict(set)
    silent: set[str] = set()
    for path in TESTS:
        for scenario in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in scenario["alert_rule_test"]:
                if not check["exp_alerts"]:
                    silent.add(check["alertname"])
                for alert in check["exp_alerts"]:
                    firing[check["alertname"]].add(alert["exp_labels"].get("window", ""))
    for rule in alerts():
        assert rule["labels"].get("window", "") in firing[rule["alert"]], rule
        assert rule["alert"] in silent, rule


THRESHOLD = re.compile(r">=? (\d+(?:\.\d+)?)(?= \*|\n|$)")


def _mutants() -> list[Any]:
    """Each threshold of each alert, ten times and a tenth as high: the alert's place among them, its new expression."""
    found = []
    for place, rule in enumerate(alerts()):
        for number in THRESHOLD.finditer(rule["expr"]):
            for factor in (10, 0.1) if float(number[1]) else ():
                moved = f"{float(number[1]) * factor:g}"
                expr = rule["expr"][: number.start(1)] + moved + rule["expr"][number.end(1) :]
                window = rule["labels"].get("window", "")
                found.append(
                    pytest.param(place, expr, id=f"{rule['alert']}{window}-{number[1]}-{moved}-{number.start()}")
                )
    return found


def _run(name: str, kept: list[dict[str, Any]], folder: Path) -> str:
    """What promtool says of one alert alone, by its own checks; empty where all is well."""
    return "".join(run_tests(path, kept, name, folder) for path in files_of(name))


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted({rule["alert"] for rule in alerts()}))
def test_an_alert_alone_with_its_thresholds_unmoved_passes(name: str, tmp_path: Path) -> None:
    assert _run(name, [rule for rule in alerts() if rule["alert"] == name], tmp_path) == ""


@pytest.mark.soak
@pytest.mark.parametrize(("place", "expr"), _mutants())
def test_a_moved_threshold_is_noticed(place: int, expr: str, tmp_path: Path) -> None:
    name = alerts()[place]["alert"]
    kept = [rule | {"expr": expr} if at == place else rule for at, rule in enumerate(alerts()) if rule["alert"] == name]
    assert "FAILED" in _run(name, kept, tmp_path), f"nobody noticed:\n{expr}"


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"] + rule["labels"].get("window", ""))
def test_alert_tells_what_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (GRAFANA / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert anchor == rule["alert"].lower()


def test_runbook_has_no_section_for_an_alert_that_is_gone() -> None:
    text = (GRAFANA / "runbook.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Sluiceway\w+)$", text, re.MULTILINE)) == {rule["alert"] for rule in alerts()}


def test_readers_who_leave_are_in_no_error_ratio() -> None:
    ratios = [rule["expr"] for rule in rules() if rule.get("record", "").startswith("job:sluiceway_stream_errors")]
    assert len(ratios) == 7
    for expr in ratios:
        judged = {value for matcher in re.findall(r'outcome=~"([^"]+)"', expr) for value in matcher.split("|")}
        assert judged == {"completed", "upstream_error", "internal_error"}


def test_each_reason_of_a_refusal_is_ours_the_requests_or_nobodys_fault() -> None:
    """Which alert a reason counts in; a new reason is to be sorted in, here and there."""
    said = {
        name: set(re.search(r'refused_total\{reason=~"([^"]+)"', rule["expr"])[1].split("|"))  # type: ignore[index]
        for rule in rules()
        if (name := rule.get("record", "").partition(":ratio")[0]).endswith(("turned_away", "wrong_requests"))
    }
    ours, theirs = said["job:sluiceway_turned_away"], said["job:sluiceway_wrong_requests"]
    nobodys = {Refusal.DRAINING.value, Refusal.NOT_FOUND.value, Refusal.NOT_SERVED.value, Refusal.EXPIRED.value}
    nobodys |= {Refusal.RATE.value, Refusal.PLACES.value, Refusal.BUDGET.value, Refusal.BUDGET_HELD.value}
    assert not ours & theirs
    assert ours | theirs | nobodys == {refusal.value for refusal in Refusal}
