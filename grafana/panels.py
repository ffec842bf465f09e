"""How a panel of the dashboard is built: queries over the contract's series, its kinds, one colour a name.

`generate.py` says what is shown; this module knows the foundation SDK and PromQL's repetitions.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

DATASOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE_INTERVAL, RANGE = "$__rate_interval", "$__range"
USD, SECONDS, BYTES, SHARE, COUNT = "currencyUSD", "s", "bytes", "percentunit", "short"
STREAMS_PER_SECOND, TOKENS_PER_SECOND, TIMES_PER_SECOND = "reqps", "suffix:tok/s", "cps"

# Series that carry a `model` label; the others ignore the dashboard's model variable.
BY_MODEL = frozenset(
    {
        "streams_total",
        "output_tokens_total",
        "aborted_tokens_total",
        "wasted_tokens_total",
        "avoided_tokens_total",
        "avoided_tokens_upper_total",
        "spent_usd_total",
        "wasted_usd_total",
        "saved_usd_total",
        "saved_usd_upper_total",
        "price_usd_per_mtok",
        "unpriced_streams_total",
        "unpriced_tokens_total",
        "hidden_thinking_streams_total",
        "avoided_tokens_variance_total",
        "avoided_unestimated_streams_total",
    }
)

# One colour for each name, wherever it appears: green good, red an error, warm lost by the reader, blue meant.
COLOURS: Mapping[str, str] = {
    "completed": "#73BF69",
    "disconnected": "#FF9830",
    "stalled": "#FADE2A",
    "vanished": "#B877D9",
    "stopped": "#5794F2",
    "expired": "#E0B400",
    "budget": "#1F60C4",
    "budget_held": "#65C5DB",
    "budget_away": "#890F02",
    "fenced": "#584477",
    "fleet_away": "#6D1F62",
    "rate": "#CFFAFF",
    "places": "#447EBC",
    "taken_over": "#8AB8FF",
    "shutdown": "#9FA7B3",
    "rejected": "#6E7680",
    "upstream_error": "#F2495C",
    "internal_error": "#C4162A",
    "full": "#FF7383",
    "lag": "#E55400",
    "failed": "#AD0317",
    "draining": "#C0D8FF",
    "auth": "#A352CC",
    "forbidden": "#8F3BB8",
    "invalid": "#FFCB7D",
    "malformed": "#705DA0",
    "method": "#967302",
    "media_type": "#58140C",
    "too_large": "#F9BA8F",
    "not_found": "#9AC48A",
    "not_served": "#3F6833",
    "slow": "#B7A0D8",
    "head_too_large": "#7B5E2E",
    "connections": "#0A50A1",
    "before_first_event": "#CA95E5",
    "thinking": "#806EB7",
    "text": "#37872D",
    "tool_use": "#37B7C3",
    "done": "#96D98D",
    "input": "#5195CE",
    "output": "#E24D42",
    "cache_read": "#7EB26D",
    "cache_write_5m": "#EAB839",
    "cache_write_1h": "#C15C17",
    "fee": "#962D82",
    "expected": "#73BF69",
    "at most": "#C8F2C2",
    "wasted": "#FFB357",
    "errors": "#F2495C",
    "streams": "#73BF69",
    "upstreams": "#5794F2",
    "stalled readers": "#FADE2A",
    "p50": "#73BF69",
    "p95": "#FADE2A",
    "p99": "#F2495C",
}


def metric(name: str, *matchers: str) -> str:
    """The selector of one series under the dashboard's variables.

    Args:
        name: without the prefix `sluiceway_`.
        matchers: further label matchers, as PromQL.
    """
    full = f"sluiceway_{name}"
    variables = ['job=~"$job"', 'instance=~"$instance"'] + (['model=~"$model"'] if name in BY_MODEL else [])
    return f"{full}{{{', '.join([*variables, *matchers])}}}"


def _sum(inner: str, by: str) -> str:
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def rate(name: str, *matchers: str, by: str = "") -> str:
    """The counter's increase per second, summed (by labels, comma-separated)."""
    return _sum(f"rate({metric(name, *matchers)}[{RATE_INTERVAL}])", by)


def total(name: str, *matchers: str, by: str = "", ago: str = "") -> str:
    """The counter's increase over the panel's time range, or over the same one so long ago, for an instant query."""
    return _sum(f"increase({metric(name, *matchers)}[{RANGE}]{f' offset {ago}' if ago else ''})", by)


def gauge(name: str, by: str = "") -> str:
    """The gauge, summed."""
    return _sum(metric(name), by)


def quantile(q: float, histogram: str, by: str = "") -> str:
    """The q-quantile of a histogram's observations within the rate interval."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', by=labels)})"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and the name of its series, which may use labels: `{{outcome}}`."""

    expr: str
    legend: str = ""


def quantiles(histogram: str) -> tuple[Query, ...]:
    """p50, p95 and p99 of a histogram."""
    return tuple(Query(quantile(q, histogram), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99))


def _targets(queries: Iterable[Query], *, instant: bool = False) -> list[Builder[Dataquery]]:
    targets: list[Builder[Dataquery]] = []
    for ref_id, query in zip(string.ascii_uppercase, queries, strict=False):
        target = (
            prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(ref_id).datasource(DATASOURCE)
        )
        targets.append(target.instant() if instant else target.range())
    return targets


def _colour(name: str) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": COLOURS[name]})


def _fixed(colour: str) -> dashboard_builders.FieldColor:
    return dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.FIXED).fixed_color(colour)


def _steps(limit: float, below: str, above: str) -> dashboard_builders.ThresholdsConfig:
    steps = [dashboard.Threshold(value=None, color=below), dashboard.Threshold(value=limit, color=above)]
    return dashboard_builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)


def stat_panel(
    title: str, description: str, unit: str, expr: str, *, colour: str = "#C7D0D9", limit: float | None = None,
    good_above: bool = False, span: int = 4, absent: str = "no data", words: Mapping[str, str] | None = None,
    since: str = "",
) -> stat.Panel:  # fmt: skip
    """One figure over the whole time range, by an instant query, so that it is no sliding window.

    Args:
        limit: where the objective stands, in the panel's unit; None for figures without one.
        good_above: the good side of the limit.
        span: width, of 24.
        absent: what stands there where the query has no value.
        words: shown for these values, in place of the figure.
        since: of another range than the dashboard's, in Grafana's words.
    """
    panel = stat.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit).span(span).height(4)
    panel.targets(_targets([Query(expr)], instant=True)).reduce_options(_last())
    panel.graph_mode(common_models.BigValueGraphMode.NONE).color_mode(common_models.BigValueColorMode.VALUE)
    panel.justify_mode(common_models.BigValueJustifyMode.CENTER).text_mode(common_models.BigValueTextMode.VALUE)
    panel.orientation(common_models.VizOrientation.AUTO).wide_layout(True).show_percent_change(False)
    panel.percent_change_color_mode(common_models.PercentChangeColorMode.STANDARD).no_value(absent)
    if since:
        panel.time_from(since)
    if words is not None:
        options = {value: dashboard.ValueMappingResult(text=word) for value, word in words.items()}
        panel.mappings([dashboard.ValueMap(options=options)])
    if limit is None:
        return panel.color_scheme(_fixed(colour))
    good, bad = COLOURS["completed"], COLOURS["upstream_error"]
    thresholds = _steps(limit, bad, good) if good_above else _steps(limit, good, bad)
    return panel.color_scheme(
        dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS)
    ).thresholds(thresholds)  # fmt: skip


def lines_panel(
    title: str, description: str, unit: str, queries: Sequence[Query], *, stacked: bool = False, estimate: bool = False,
    names: Iterable[str] = (), limit: float | None = None, most: float | None = None, span: int = 12,
) -> timeseries.Panel:  # fmt: skip
    """Curves over time, from zero up.

    Args:
        stacked: areas on one another, for parts of a whole.
        estimate: dashed, the house's sign for figures that are not measured.
        names: series that have a colour of their own.
        limit: draws the objective, in the panel's unit.
        most: where the axis ends; None leaves it to the data.
        span: width, of 24.
    """
    panel = timeseries.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit)
    if stacked:  # the legend has room for those that happen
        queries = [Query(f"{one.expr} > 0", one.legend) if "{{" in one.legend else one for one in queries]
    panel.span(span).height(8).min(0).targets(_targets(queries)).line_width(1)
    panel.fill_opacity(40 if stacked else 8).show_points(common_models.VisibilityMode.NEVER)
    panel.stacking(
        common.StackingConfig().group("A").mode(
            common_models.StackingMode.NORMAL if stacked else common_models.StackingMode.NONE
        )
    )  # fmt: skip
    alone = len(queries) == 1 and "{{" not in queries[0].legend
    panel.legend(
        # A table below a narrow panel has room for two of its lines.
        common.VizLegendOptions().show_legend(not alone)
        .display_mode(common_models.LegendDisplayMode.TABLE if span >= 12 else common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.RIGHT if span >= 12 else common_models.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"] if span >= 12 else [])
    )  # fmt: skip
    panel.tooltip(
        common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING)
    )
    if estimate:
        panel.line_style(common.LineStyle().fill("dash").dash([8, 6]))
    if limit is not None:
        panel.thresholds(_steps(limit, "transparent", COLOURS["upstream_error"])).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    if most is not None:
        panel.max(most)
    elif unit == SHARE:  # of nothing but zeros Grafana draws an axis to 100, which is 10,000 %
        panel.axis_soft_max(limit * 2 if limit is not None and limit < 0.5 else 1)
    for name in names:
        panel.override_by_name(name, [_colour(name)])
    return panel


def heatmap_panel(title: str, description: str, unit: str, histogram: str, *, span: int = 12) -> heatmap.Panel:
    """A histogram's buckets over time; the panel's unit is that of the buckets.

    Args:
        histogram: the family's name without prefix and suffix.
    """
    expr = f"sum by (le) (increase({metric(f'{histogram}_bucket')}[{RATE_INTERVAL}]))"
    query = prometheus.Dataquery().expr(expr).legend_format("{{le}}").ref_id("A").datasource(DATASOURCE).range()
    query.format(prometheus_models.PromQueryFormat.HEATMAP)
    panel = heatmap.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit).targets([query])
    panel.span(span).height(8).max_data_points(60).calculate(False).show_value(common_models.VisibilityMode.NEVER)
    panel.rows_frame(heatmap.RowsHeatmapOptions().layout(common_models.HeatmapCellLayout.LE))
    panel.y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(common_models.AxisPlacement.LEFT))
    panel.filter_values(heatmap.FilterValueRange().le(1e-9)).show_legend()
    panel.tooltip(heatmap.HeatmapTooltip().mode(common_models.TooltipDisplayMode.SINGLE).y_histogram(True))
    return panel.color(
        heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
        .fill("dark-orange").exponent(0.5).reverse(False).scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
    )  # fmt: skip


def bars_panel(
    title: str, description: str, unit: str, queries: Sequence[Query], *, names: Iterable[str] = (), span: int = 12,
    since: str = "",
) -> bargauge.Panel:  # fmt: skip
    """A bar for each series, over the whole time range or `since`, largest first where the query sorts."""
    panel = bargauge.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit).min(0)
    panel.span(span).height(8).targets(_targets(queries, instant=True)).reduce_options(_last()).no_value("none")
    panel.orientation(common_models.VizOrientation.HORIZONTAL).show_unfilled(False)
    panel.display_mode(common_models.BarGaugeDisplayMode.BASIC).value_mode(common_models.BarGaugeValueMode.TEXT)
    panel.name_placement(common_models.BarGaugeNamePlacement.LEFT).sizing(common_models.BarGaugeSizing.AUTO)
    if since:
        panel.time_from(since)
    panel.min_viz_width(8).min_viz_height(16).max_viz_height(300)
    panel.legend(
        common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST).show_legend(False)
        .placement(common_models.LegendPlacement.BOTTOM)
    )  # fmt: skip
    panel.color_scheme(dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    for name in names:
        panel.override_by_name(name, [_colour(name)])
    return panel


def table_panel(
    title: str, description: str, unit: str, query: Query, columns: Sequence[str], *, span: int = 12, link: str = ""
) -> table.Panel:
    """The present value of each series as a row.

    Args:
        link: where the first column's words lead.
        columns: the labels to show, in order; the value comes last.
    """
    target = prometheus.Dataquery().expr(query.expr).ref_id("A").datasource(DATASOURCE).instant()
    target.format(prometheus_models.PromQueryFormat.TABLE)
    panel = table.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit).span(span).height(8)
    order = {name: position for position, name in enumerate([*columns, "Value"])}
    options = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": {"Value": query.legend}}
    panel.targets([target]).with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=options))
    panel.cell_options(common_models.TableAutoCellOptions()).no_value("none")
    if link:
        leads = [{"title": "Runbook", "url": link, "targetBlank": True}]
        panel.override_by_name(columns[0], [dashboard.DynamicConfigValue(id_val="links", value=leads)])
    return panel.show_header(True).filterable(True).cell_height(common_models.TableCellHeight.SM)
