"""The dashboard's JSON: what the generator writes, valid by Grafana's own types, and true to the linter's rules.

The rules are those of grafana/dashboard-linter, done again; `.lint` beside the dashboard holds exceptions and reasons.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry

from app.answer.tally import Phase
from app.errors import Refusal
from app.money.ledger import Outcome
from app.telemetry.callers import CallerMetrics
from app.telemetry.fleet import FleetMetrics
from app.telemetry.prometheus import Metrics
from tests.grafana.board import BOARD, GRAFANA, filled, panels, targets

SCHEMA: dict[str, Any] = json.loads((GRAFANA / "schema" / "dashboard.schema.json").read_text(encoding="utf-8"))
EXCLUDED: dict[str, Any] = yaml.safe_load((GRAFANA / "dashboards" / ".lint").read_text(encoding="utf-8"))["exclusions"]

# What the Prometheus data source reads from an annotation, and Grafana's types leave out.
PROMETHEUS_ANNOTATION_KEYS = {"expr", "step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}
# Series that are not ours: from the scrape itself and from prometheus-client's process collector.
# `ALERTS` Prometheus writes itself; some alerts have no job, and none an instance.
FOREIGN = {"ALERTS", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}
UNITS = {"currencyUSD", "s", "bytes", "percentunit", "short", "reqps", "cps"}


def expressions() -> list[str]:
    """Every expression: panels' and annotations'."""
    return [target["expr"] for _, target in targets()] + [one["expr"] for one in BOARD["annotations"]["list"]]


def selectors(expr: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Every metric name of an expression with its label matchers."""
    for name, inner in re.findall(r"\b([a-z_:]+[a-z]|ALERTS)\{([^}]*)\}", expr):
        yield name, dict(re.findall(r'(\w+)\s*(?:=~|!=|=)\s*"([^"]*)"', inner))


def registered() -> dict[str, dict[str, set[str]]]:
    """Every series that `app.metrics` exposes from the start: its name, its labels and their values."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, ["claude-sonnet-5-5"])
    CallerMetrics(registry, names=["acme"]).budget("acme", "day", 1.0, 1.0, warned=False)
    FleetMetrics(registry)
    found: dict[str, dict[str, set[str]]] = {}
    for family in registry.collect():
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    assert metrics.models
    found["sluiceway_price_usd_per_mtok"] = {"model": set(), "type": set()}  # exists once prices are shown
    return found


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("dashboards")
    subprocess.run([sys.executable, GRAFANA / "generate.py", folder], check=True, timeout=100)
    return (folder / "sluiceway.json").read_bytes()


def test_committed_dashboard_is_what_the_generator_writes(generated: bytes) -> None:
    assert generated == (GRAFANA / "dashboards" / "sluiceway.json").read_bytes()


def _without_prometheus_keys(board: dict[str, Any]) -> dict[str, Any]:
    listed = [
        {key: value for key, value in one.items() if key not in PROMETHEUS_ANNOTATION_KEYS}
        for one in board["annotations"]["list"]
    ]
    return board | {"annotations": {"list": listed}}


def _validate(instance: Any, definition: str) -> None:
    schema = SCHEMA | {"$ref": f"#/definitions/{definition}"}
    jsonschema.Draft7Validator(schema).validate(instance)


def test_dashboard_is_valid_by_grafanas_own_types() -> None:
    _validate(_without_prometheus_keys(BOARD), "Dashboard")


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_options_and_field_settings_are_valid_by_the_panels_types(panel: dict[str, Any]) -> None:
    """`Dashboard` itself takes anything for them."""
    kind = panel["type"].capitalize()
    _validate(panel["options"], f"{kind}PanelOptions")
    custom = panel["fieldConfig"]["defaults"].get("custom")
    if custom is not None:
        _validate(custom, f"{kind}PanelCustom")


@pytest.mark.parametrize(
    "damage",
    [
        lambda board: board.pop("schemaVersion"),
        lambda board: board.update(nonsense=1),
        lambda board: board["panels"][1]["fieldConfig"]["defaults"]["color"].update(mode="nonsense"),
        lambda board: board["panels"][1].update(title=7),
        lambda board: board["templating"]["list"][1].update(refresh="nonsense"),
    ],
)
def test_schema_catches_damage(damage: Any) -> None:
    board = _without_prometheus_keys(json.loads(json.dumps(BOARD)))
    damage(board)
    with pytest.raises(jsonschema.ValidationError):
        _validate(board, "Dashboard")


def test_panels_have_ids_and_places_of_their_own() -> None:
    ids = [panel["id"] for panel in (*BOARD["panels"], *panels())]
    assert len(set(ids)) == len({id(panel) for panel in (*BOARD["panels"], *panels())})
    taken: set[tuple[int, int]] = set()
    for panel in [*panels(), *(row for row in BOARD["panels"] if row["type"] == "row")]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """panel-title-description, panel-datasource, panel-units, panel-no-targets."""
    assert panel["title"]
    assert len(panel["description"]) > 15
    assert panel["description"].endswith(".")
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS or (unit.startswith("suffix:") and panel["title"] in excluded_panels("panel-units-rule"))


def excluded_panels(rule: str) -> set[str]:
    """Titles of panels that `.lint` excepts from a rule; each exception has a reason."""
    entries = EXCLUDED[rule]["entries"]
    assert EXCLUDED[rule]["reason"]
    assert all(entry["reason"] for entry in entries)
    return {entry["panel"] for entry in entries}


@pytest.mark.parametrize(("panel", "target"), list(targets()), ids=lambda one: one.get("title") or one.get("refId"))
def test_query_follows_the_linter(panel: dict[str, Any], target: dict[str, Any]) -> None:
    """target-promql, target-job, target-instance, target-rate-interval, target-counter-agg."""
    expr = target["expr"]
    promql_parser.parse(filled(expr))
    for name, matchers in selectors(expr):
        if name != "ALERTS":
            assert matchers["job"] == "$job"
            assert matchers["instance"] == "$instance"
    for window in re.findall(r"\[(.*?)\]", expr):
        if window != "$__rate_interval":
            assert panel["title"] in excluded_panels("target-rate-interval-rule")
            assert target["instant"], "over the whole range each point would be a sliding window"
    for counter in re.finditer(r"\w+_total\{", expr):
        assert re.search(r"(rate|increase)\($", expr[: counter.start()]), expr


def test_no_exception_is_left_over() -> None:
    titles = {panel["title"] for panel in panels()}
    for rule in EXCLUDED:
        assert excluded_panels(rule) <= titles
    ranged = {panel["title"] for panel, target in targets() if re.search(r"\[(?!\$__rate_interval)", target["expr"])}
    assert excluded_panels("target-rate-interval-rule") == ranged


def test_variables_follow_the_linter() -> None:
    """template-datasource, template-job, template-instance, template-on-time-change-reload."""
    data, *others = BOARD["templating"]["list"]
    assert (data["name"], data["type"], data["query"]) == ("datasource", "datasource", "prometheus")
    *others, runbook = others
    assert [one["name"] for one in others] == ["job", "instance", "model"]
    assert (runbook["name"], runbook["type"]) == ("runbook", "textbox")
    for one in others:
        assert one["type"] == "query"
        assert one["label"]
        assert one["datasource"]["uid"] == "${datasource}"
        assert (one["multi"], one["includeAll"], one["allValue"], one["refresh"]) == (True, True, ".+", 2)
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"])
        assert match
        promql_parser.parse(filled(match[1]))
        assert match[2] == one["name"]


def test_dashboard_cannot_be_edited_in_place_and_shares_its_crosshair() -> None:
    """uneditable-dashboard."""
    assert BOARD["editable"] is False
    assert (BOARD["graphTooltip"], BOARD["refresh"], BOARD["time"]["from"]) == (1, "30s", "now-6h")
    assert "__inputs" not in BOARD


def test_deploys_and_restarts_are_annotated() -> None:
    deploys, restarts = BOARD["annotations"]["list"]
    assert "sluiceway_build_info" in deploys["expr"]
    assert "process_start_time_seconds" in restarts["expr"]
    assert deploys["enable"]
    assert restarts["enable"]


@pytest.mark.parametrize("expr", expressions())
def test_query_uses_only_series_and_labels_that_exist(expr: str) -> None:
    known = registered()
    found = list(selectors(expr))
    assert found
    for name, matchers in found:
        if name in FOREIGN:
            continue
        assert name in known, name
        for label, value in matchers.items():
            if label in ("job", "instance"):
                continue
            assert label in known[name], (name, label)
            if known[name][label] and not value.startswith("$"):
                assert set(value.split("|")) <= known[name][label], (name, label, value)
        has_model = "model" in known[name]
        assert (matchers.get("model") == "$model") == has_model, f"{name}: the model variable must act where it can"


@pytest.mark.parametrize(("panel", "target"), list(targets()), ids=lambda one: one.get("title") or one.get("refId"))
def test_series_are_grouped_and_named_by_labels_that_exist(panel: dict[str, Any], target: dict[str, Any]) -> None:
    """Prometheus itself takes any label in `by`, and puts all into one nameless series."""
    known = registered()
    known["ALERTS"] = {"alertname": set(), "severity": set()}
    labels = {label for name, _ in selectors(target["expr"]) for label in known.get(name, {})} | {"job", "instance"}
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(", ")}
    assert grouped <= labels, panel["title"]
    assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat") or "")) <= grouped, panel["title"]


def test_every_family_of_the_contract_is_shown_somewhere() -> None:
    shown = {name for expr in expressions() for name, _ in selectors(expr)}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    known = {re.sub(r"_(bucket|count|sum)$", "", name) for name in registered()}
    assert known <= families


def test_money_is_readable_at_a_fraction_of_a_cent() -> None:
    """Grafana (@grafana/data 12.4) shows 0.000423 as `$0.000423` without decimals, and as `$0.00` with two."""
    money = [panel for panel in panels() if panel["fieldConfig"]["defaults"]["unit"] == "currencyUSD"]
    assert len(money) >= 10
    for panel in money:
        assert "decimals" not in panel["fieldConfig"]["defaults"], panel["title"]


def test_estimates_are_named_and_stand_apart_from_measured_figures() -> None:
    always = ("avoided", "saved", "wasted", "aborted")  # rest on estimates, whatever the basis of the rest
    for panel in panels():
        exprs = " ".join(target["expr"] for target in panel["targets"])
        exprs = exprs.replace("sluiceway_avoided_unestimated_streams_total", "")  # counts streams
        title = panel["title"].lower()
        if panel.get("timeFrom"):  # the first row's titles have no room for it
            assert {"measured", "estimated"} <= set(re.findall(r"\w+", panel["description"]))
            continue
        estimated = 'basis="estimated"' in exprs or any(f"sluiceway_{word}_" in exprs for word in always)
        spent_of_any_basis = re.search(r"sluiceway_(spent_usd|output_tokens)_total\{(?![^}]*basis=)", exprs)
        if estimated:
            assert "estimate" in title or "upper bound" in title, panel["title"]
        if 'basis="exact"' in exprs or (spent_of_any_basis and not estimated):
            assert "measured" in title, panel["title"]
        if estimated and ('basis="exact"' in exprs or spent_of_any_basis):
            assert "estimate over measured" in title, panel["title"]


def test_a_reader_who_leaves_is_on_neither_side_of_the_error_ratio() -> None:
    ratios = [expr for expr in expressions() if "upstream_error|internal_error" in expr]
    assert len(ratios) == 3
    for expr in ratios:
        judged = {value for _, matchers in selectors(expr) for value in matchers["outcome"].split("|")}
        assert judged == {"completed", "upstream_error", "internal_error"}


def test_each_outcome_and_phase_has_one_colour_everywhere() -> None:
    colours: dict[str, set[str]] = {}
    for panel in panels():
        for override in panel["fieldConfig"]["overrides"]:
            for setting in override["properties"]:
                if setting["id"] != "color":
                    continue
                colours.setdefault(override["matcher"]["options"], set()).add(setting["value"]["fixedColor"])
    names = {outcome.value for outcome in Outcome} | {phase.value for phase in Phase}
    assert names <= set(colours)
    assert all(len(found) == 1 for found in colours.values())
    assert len({next(iter(colours[outcome.value])) for outcome in Outcome}) == len(Outcome)


def test_each_reason_of_a_refusal_is_shown_in_a_colour_of_its_own() -> None:
    (panel,) = [panel for panel in panels() if panel["title"] == "Turned away, by reason"]
    colours = {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
    }
    assert set(colours) == {refusal.value for refusal in Refusal} | {"rejected"}
    assert len(set(colours.values())) == len(colours)


def test_shares_of_a_whole_end_at_all_of_it() -> None:
    for panel in panels():
        defaults = panel["fieldConfig"]["defaults"]
        stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
        if defaults["unit"] == "percentunit" and stacked:
            assert (defaults["min"], defaults["max"]) == (0, 1), panel["title"]


def test_an_axis_of_shares_does_not_run_to_ten_thousand_percent_where_nothing_fails() -> None:
    shares = [panel for panel in panels() if panel["fieldConfig"]["defaults"]["unit"] == "percentunit"]
    for panel in (one for one in shares if one["type"] == "timeseries"):
        defaults = panel["fieldConfig"]["defaults"]
        assert 0 < defaults.get("max", defaults["custom"].get("axisSoftMax", 100)) <= 1, panel["title"]


def test_the_first_row_is_this_days_money_and_what_fires() -> None:
    rows = [at for at, panel in enumerate(BOARD["panels"]) if panel["type"] == "row"]
    row = BOARD["panels"][1 : rows[1]]
    assert rows[0] == 0
    assert [panel["timeFrom"] for panel in row if "_usd_total" in str(panel["targets"])] == ["now/d"] * 5
    today, yesterday = (panel["targets"][0]["expr"] for panel in row[:2])
    assert yesterday == today.replace("]", "] offset 1d")
    assert "ALERTS" in row[-1]["targets"][0]["expr"]


def test_legends_have_room_for_what_they_name() -> None:
    for panel in (one for one in panels() if one["type"] == "timeseries"):
        legend = panel["options"]["legend"]
        assert (legend["placement"], legend["displayMode"]) in {("right", "table"), ("bottom", "list")}, panel["title"]
        if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
            for target in panel["targets"]:
                assert target["expr"].endswith(" > 0") or "{{" not in target["legendFormat"], (
                    "those at zero take its room"
                )


def test_each_panel_leads_to_a_place_that_the_runbook_has() -> None:
    text = (GRAFANA / "runbook.md").read_text("utf-8")
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for panel in panels():
        (link,) = panel["links"]
        variable, _, anchor = link["url"].partition("#")
        assert (variable, anchor in headings) == ("${runbook}", True), (panel["title"], anchor)
    alerts = re.findall(r"^### (Sluiceway\w+)$", text, re.MULTILINE)
    assert re.findall(r'^<a id="(\w+)"></a>$', text, re.MULTILINE) == alerts, (
        "the name of an alert leads there as it is"
    )


def test_an_estimate_that_nothing_stands_behind_is_absent_rather_than_zero() -> None:
    """Fifty answers must finish before anything is expected; until then `saved` counts 0, which is no finding."""
    estimates = re.compile(r"sluiceway_(saved_usd|avoided_tokens)_total")
    for panel, target in targets():
        assert not estimates.search(target["expr"]) or "unless sum(" in target["expr"], panel["title"]
    (saved,) = [panel for panel in panels() if panel["title"] == "Saved by stopping (estimate)"]
    assert saved["fieldConfig"]["defaults"]["noValue"] == "too early to tell"


def test_simulated_money_says_so_in_words() -> None:
    (panel,) = [panel for panel in panels() if panel["title"] == "Whose money"]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    assert {value: one["text"] for value, one in mapping["options"].items()} == {"0": "real", "1": "simulated"}


def test_provisioning_points_at_the_dashboard_and_lets_nobody_edit_it() -> None:
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert (source["type"], source["uid"]) == ("prometheus", "sluiceway-prometheus")
    assert source["jsonData"]["timeInterval"] == "15s"
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "sluiceway.yml").read_text())["providers"][0]
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True
    scrape = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    assert scrape["global"]["scrape_interval"] == source["jsonData"]["timeInterval"]
    assert [job["job_name"] for job in scrape["scrape_configs"]] == ["sluiceway"]
