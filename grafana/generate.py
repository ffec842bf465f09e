"""Writes the Grafana dashboard: `python grafana/generate.py [DIRECTORY]`, by default over the committed JSON.

The classic model, which every Grafana from 10 on imports; `tests/grafana` proves that the committed file is what this
writes. `rows.py` says what is shown, `panels.py` how a panel is built; this puts them together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fleet_row import fleet
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import table
from panels import DATASOURCE, metric
from places import place
from rows import abandonment, backpressure, callers, details, money_estimated, money_measured, requests, today


def _query_variable(name: str, label: str, query: str) -> builders.QueryVariable:
    every = models.VariableOption(selected=True, text="All", value="$__all")
    variable = builders.QueryVariable(name).label(label).datasource(DATASOURCE).query(query).current(every)
    variable.multi(True).include_all(True).all_value(".+").sort(models.VariableSort.ALPHABETICAL_ASC)
    return variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)


def _annotation(name: str, colour: str, expr: str, title: str, keys: str) -> builders.AnnotationQuery:
    annotation = builders.AnnotationQuery().name(name).datasource(DATASOURCE).enable(True).icon_color(colour).expr(expr)
    return annotation.step("60s").title_format(title).tag_keys(keys).use_value_for_time(False)


def build() -> models.Dashboard:
    """The whole dashboard."""
    board = builders.Dashboard("Sluiceway").uid("sluiceway").tags(["sluiceway", "llm", "streaming"]).readonly()
    board.description(
        "Streams of Claude: how well, what readers abandon, what it costs, and what holds them back. "
        "Times, queues and pauses are those of all models."
    )
    board.tooltip(models.DashboardCursorSync.CROSSHAIR).refresh("30s").time("now-6h", "now").timezone("browser")
    board.with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board.with_variable(_query_variable("job", "Job", "label_values(sluiceway_streams_active, job)"))
    board.with_variable(
        _query_variable("instance", "Worker", 'label_values(sluiceway_streams_active{job=~"$job"}, instance)')
    )
    board.with_variable(_query_variable(
        "model", "Model", 'label_values(sluiceway_streams_total{job=~"$job", instance=~"$instance"}, model)'
    ))  # fmt: skip
    board.with_variable(builders.TextBoxVariable("runbook").label("Runbook").default_value("runbook.md"))
    version = f"count by (version) ({metric('build_info')})"
    board.annotation(_annotation(
        "Deploys", "#5794F2", f"{version} unless count by (version) ({metric('build_info')} offset 5m)",
        "Deployed {{version}}", "version",
    ))  # fmt: skip
    board.annotation(_annotation(
        "Restarts", "#8AB8FF", 'changes(process_start_time_seconds{job=~"$job", instance=~"$instance"}[2m]) > 0',
        "Restarted {{instance}}", "instance",
    ))  # fmt: skip
    links = builders.DashboardLink("Sluiceway dashboards").type(models.DashboardLinkType.DASHBOARDS).tags(["sluiceway"])
    board.link(links.as_dropdown(True).include_vars(True).keep_time(True))
    for title, panels in (
        ("Today: what left answers cost, and what else is wrong", today()),
        ("Requests: rate, errors, time to first token", requests()),
        ("Abandonment: what, where in the answer, why", abandonment()),
        ("Money, measured", money_measured()),
        ("Money, estimated", money_estimated()),
        ("Callers: spending, budgets, refusals", callers()),
        ("Backpressure: pauses, queues, stalled readers", backpressure()),
        ("Fleet: Redis, readers of other processes, what was lost", fleet()),
    ):
        board.with_row(builders.Row(title))
        for panel in panels:
            board.with_panel(panel)
    folded = builders.Row("Details")
    for panel in details():
        folded.with_panel(panel)
    built = board.with_row(folded).build()
    _finish(built)
    return built


def _runbook(anchor: str) -> models.DashboardLink:
    link = builders.DashboardLink("Runbook").type(models.DashboardLinkType.LINK).url(f"${{runbook}}#{anchor}")
    return link.target_blank(True).build()


def _finish(built: models.Dashboard) -> None:
    """Gives every panel an id, which the SDK leaves out, and takes out what Grafana 12's types no longer know."""
    ids = iter(range(1, 1000))
    row = ""
    for panel in built.panels or []:
        panel.id_val = next(ids)
        within: list[models.Panel] = [panel] if isinstance(panel, models.Panel) else panel.panels
        row = row if isinstance(panel, models.Panel) else panel.title or ""
        for inner in within:
            if inner is not panel:
                inner.id_val = next(ids)
            inner.links = [_runbook(place(row, inner.title or ""))]
            if isinstance(inner.options, table.Options):
                inner.options.footer = None
    for variable in built.templating.list_val or []:
        variable.auto = variable.auto_count = variable.auto_min = None


def main(directory: Path) -> None:
    """Writes `sluiceway.json` into the directory."""
    text = json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "sluiceway.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
