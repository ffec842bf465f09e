"""The findings as tables for the terminal, and as one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .charts import Line, chart
from .comparison import Row, comparison, doubts
from .figures import Figures, Spread, StreamEnd
from .findings import Findings, Judgement, ThresholdStatus
from .service import Sample

_TIMES = ("TTFT p50", "p99", "gap p50", "p99")
_VERDICTS = {
    ThresholdStatus.KEPT: "kept",
    ThresholdStatus.EXCEEDED: "EXCEEDED",
    ThresholdStatus.UNCLEAR: "could not tell",
}
_STYLES = {ThresholdStatus.KEPT: "green", ThresholdStatus.EXCEEDED: "bold red", ThresholdStatus.UNCLEAR: "yellow"}
_SHOWN_STYLES = {True: "bold green", False: "bold red", None: "bold yellow"}
_SHOWN_CLASSES = {True: "happened", False: "missed", None: "unclear"}
_MIB = 2**20


def milliseconds(spread: Spread, share: float) -> str:
    """A percentile, for people."""
    at = spread.at(share)
    return "–" if at is None else f"{at * 1000:,.0f} ms"


def balance(figures: Figures) -> str:
    """How many streams were started, and what became of every one of them."""
    ends = figures.ends
    told = ", ".join(f"{ends[end]:,} {end.value}" for end in StreamEnd if ends[end])
    return f"{figures.started:,} streams started, {ends.total():,} ended: {told or 'none'}."


def reader_columns(figures: Figures) -> Row:
    """The columns: started, then each end that any stream came to, so that a row adds up."""
    return ("readers", "started", *(end.value for end in _ends(figures)), *_TIMES)


def reader_rows(figures: Figures) -> list[Row]:
    """One row a kind of reader."""
    rows = []
    for kind, one in sorted(figures.kinds.items(), key=lambda item: item[0].value):
        counts = (one.started, *(one.ends[end] for end in _ends(figures)))
        times = [milliseconds(spread, share) for spread in (one.ttft, one.gaps) for share in (0.5, 0.99)]
        rows.append((kind.value, *(f"{count:,}" for count in counts), *times))
    return rows


def refusal_rows(figures: Figures) -> list[Row]:
    """Why streams were turned away, the most frequent first."""
    return [(told, f"{count:,}") for told, count in figures.refusals.most_common()]


def _ends(figures: Figures) -> list[StreamEnd]:
    ends = figures.ends
    return [end for end in StreamEnd if ends[end]]


def service_rows(found: Findings) -> list[Row]:
    """What the service's metrics say; one row where they could not be read."""
    service = found.service
    if service is None:
        return [("its metrics", "not read")]
    added, peak = found.memory_added_bytes or 0.0, found.memory_peak_bytes or 0.0
    share = service.wasted / service.generated if service.generated else 0.0
    ends, refused = (
        ", ".join(f"{word} {count:,}" for word, count in counts.most_common()) or "–"
        for counts in (service.outcomes, service.refused)
    )
    return [
        ("memory at its fullest", f"{peak / _MIB:,.1f} MiB, {added / _MIB:+,.1f} MiB by the test"),
        ("CPU", f"{service.cpu_s:,.1f} s, {service.cpu_s / found.elapsed_s:.0%} of a core"),
        ("tokens generated", f"{service.generated:,.0f}"),
        ("tokens wasted", f"{service.wasted:,.0f} ({share:.1%} of those generated)"),
        ("tokens saved, an estimate", f"{service.avoided:,.0f} expected, {service.avoided_upper:,.0f} at most"),
        ("producers held", f"{service.pauses:,.0f} times, {service.paused_s:,.1f} s together"),
        ("streams ended as", ends),
        ("requests refused for", refused),
        ("streams still open", f"{service.streams:,.0f}"),
    ]


def own_rows(found: Findings) -> list[Row]:
    """Whether the load tester can be believed."""
    lag = found.figures.lag
    return [
        ("event loop late", f"{milliseconds(lag, 0.5)} p50, {milliseconds(lag, 0.99)} p99, {milliseconds(lag, 1)} max"),
        ("CPU", f"{found.own_cpu:.0%} of a core"),
        ("believable", f"NO: {found.bottleneck}" if found.bottleneck else "yes"),
    ]


def judgement_rows(judged: Iterable[Judgement]) -> list[Row]:
    """One row a threshold."""
    return [
        (
            f"max-{one.measure.value}",
            f"{one.limit:,g}",
            "–" if one.value is None else f"{one.value:,.1f}",
            _VERDICTS[one.verdict],
        )
        for one in judged
    ]


def side_by_side(one: Findings, other: Findings) -> RenderableType:
    """Two services under the same readers, for a terminal."""
    head, *rows = comparison(one, other)
    parts: list[RenderableType] = [_table("Side by side", head, rows)]
    return Group(*parts, *(Text(doubt, style="bold yellow") for doubt in doubts(one, other)))


def tables(found: Findings, judged: Sequence[Judgement]) -> RenderableType:
    """The findings for a terminal."""
    parts: list[RenderableType] = [Text(one.sentence, style=_SHOWN_STYLES[one.happened]) for one in found.shown]
    parts += [Text(balance(found.figures)), _table("", reader_columns(found.figures), reader_rows(found.figures))]
    if found.figures.refusals:
        parts.append(_table("Turned away", None, refusal_rows(found.figures)))
    parts.append(_table("The service, by its own metrics", None, service_rows(found)))
    parts.append(_table("The load tester itself", None, own_rows(found)))
    if found.bottleneck:
        warning = f"The load tester was the bottleneck: {found.bottleneck}. Times measured are its own as much as the service's."
        parts.append(Text(warning, style="bold yellow"))
    if judged:
        table = _table("Thresholds", ("threshold", "limit", "measured", "verdict"), [])
        for one, row in zip(judged, judgement_rows(judged), strict=True):
            table.add_row(*row, style=_STYLES[one.verdict])
        parts.append(table)
    parts += [Text(note, style="dim") for note in found.notes]
    return Group(*parts)


def running(elapsed_s: float, figures: Figures, sample: Sample | None) -> RenderableType:
    """What is shown while the test runs."""
    table = Table.grid(padding=(0, 2))
    ended = sum(one.ends.total() for one in figures.kinds.values())
    last = figures.seconds[-2] if len(figures.seconds) > 1 else figures.seconds[-1]
    table.add_row(f"{elapsed_s:,.0f} s", f"{figures.live:,} streams", f"{ended:,} over", f"{figures.errors:,} errors")
    table.add_row(
        "", f"TTFT p99 {milliseconds(last.ttft, 0.99)}", f"gap p99 {milliseconds(last.gaps, 0.99)}", "of fast readers"
    )
    if sample is not None:
        table.add_row(
            "", f"service {sample.memory_bytes / _MIB:,.0f} MiB", f"{sample.stalled:,.0f} readers stalled", ""
        )
    table.add_row("", f"own lag {milliseconds(last.lag, 0.99)}", "", "")
    return table


def _table(title: str, columns: Sequence[str] | None, rows: Iterable[Row]) -> Table:
    table = Table(title=title or None, box=box.SIMPLE, show_header=columns is not None, title_justify="left")
    for place, name in enumerate(columns or ("", "")):
        table.add_column(
            name, justify="left" if place == 0 or columns is None else "right", no_wrap=columns is not None
        )
    for row in rows:
        table.add_row(*row)
    return table


# The page

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --line: #d8dce0; --soft: #60646c; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --paper: #14161a; --line: #363a3f; --soft: #b0b4ba; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1360px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } p { margin: .3rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .pairs td { text-align: left; white-space: normal; } th { color: var(--soft); font-weight: 500; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; } small, .soft { color: var(--soft); font-weight: 400; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); } polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.c0 { stroke: #0b7db8; } .c1 { stroke: #d1671c; stroke-dasharray: 6 3; } .c2 { stroke: #3f8f4f; stroke-dasharray: 2 3; }
.key { margin-right: 1.2rem; font-size: .85rem; } .key::before { content: ""; display: inline-block; width: 1.2rem; height: 0; border-top: 3px solid; margin-right: .4rem; vertical-align: middle; }
.k0::before { border-color: #0b7db8; } .k1::before { border-color: #d1671c; border-top-style: dashed; } .k2::before { border-color: #3f8f4f; border-top-style: dotted; }
.late, .shown { border-left: 4px solid #d1671c; padding: .4rem .8rem; margin: 1rem 0; }
.shown { font-size: 1.15rem; font-weight: 600; } .shown.happened { border-color: #3f8f4f; } .shown.missed { border-color: #d03030; }
.exceeded td:last-child { color: #d03030; font-weight: 600; } .kept td:last-child { color: #3f8f4f; } .unclear td:last-child { color: #d1671c; }
"""


def page(found: Findings, judged: Sequence[Judgement], against: Findings | None = None) -> str:
    """The report as HTML: no script, nothing fetched.

    Args:
        found: what it tells of.
        judged: the thresholds.
        against: another service under the same readers; None for none.
    """
    plan = found.plan
    whole = sum(plan.mix.values())
    mix = ", ".join(f"{weight / whole:.0%} {kind.value}" for kind, weight in plan.mix.items() if weight)
    comes = f" for {plan.duration_s:g} s" if plan.duration_s else ", each once"
    shown = "".join(
        f'<p class="shown {_SHOWN_CLASSES[one.happened]}">{escape(one.sentence)}</p>' for one in found.shown
    )
    late = (
        f'<p class="late">The load tester was the bottleneck: {escape(found.bottleneck)}. '
        "Times measured are its own as much as the service's.</p>"
        if found.bottleneck
        else ""
    )
    compared = _compared(found, against) if against is not None else ""
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in found.notes)
    # What JSON writes as `<` could end the element it stands in.
    told = found.as_json() | ({} if against is None else {"against": against.as_json()})
    data = json.dumps(told).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Load test of {escape(found.where)}</title>
<style>{_STYLE}</style></head>
<body>
<h1>Load test of {escape(found.where)}</h1>
{shown}
<p>{escape(balance(found.figures))}</p>
<p class="soft">{escape(found.began_at)}, {found.elapsed_s:,.1f} s, protocol {escape(found.protocol)}</p>
<p>{plan.streams:,} readers at once{comes}, all there after {plan.ramp_s:g} s: {escape(mix)}.</p>
{late}{compared}{_thresholds(judged)}
<h2>Readers</h2>{_html_table(reader_columns(found.figures), reader_rows(found.figures))}{_turned_away(found)}
<h2>Over time</h2><div class="charts">{"".join(_charts(found))}</div>
<h2>The service, by its own metrics</h2>{_html_table(None, service_rows(found))}
<h2>The load tester itself</h2>{_html_table(None, own_rows(found))}
{notes}
<script type="application/json" id="findings">{data}</script>
</body>
</html>
"""


def _turned_away(found: Findings) -> str:
    rows = refusal_rows(found.figures)
    return f"<h2>Turned away</h2>{_html_table(None, rows)}" if rows else ""


def _compared(found: Findings, against: Findings) -> str:
    head, *rows = comparison(found, against)
    warnings = "".join(f'<p class="late">{escape(doubt)}</p>' for doubt in doubts(found, against))
    return f"<h2>Side by side</h2>{_html_table(head, rows)}{warnings}"


def _thresholds(judged: Sequence[Judgement]) -> str:
    if not judged:
        return ""
    classes = [one.verdict.name.lower() for one in judged]
    head = ("threshold", "limit", "measured", "verdict")
    return f"<h2>Thresholds</h2>{_html_table(head, judgement_rows(judged), classes)}"


def _charts(found: Findings) -> list[str]:
    seconds = found.figures.seconds
    samples = found.samples

    def spread(name: str, of: str, share: float) -> Line:
        values = [getattr(second, of).at(share) for second in seconds]
        return Line(name, [(at + 0.5, None if value is None else value * 1000) for at, value in enumerate(values)])

    def gauge(name: str, of: str, scale: float = 1.0) -> Line:
        return Line(name, [(sample.at_s, getattr(sample, of) / scale) for sample in samples])

    def speed(name: str, of: str, scale: float = 1.0) -> Line:
        steps = [(b.at_s, (getattr(b, of) - getattr(a, of)) / (b.at_s - a.at_s) * scale) for a, b in pairwise(samples)]
        return Line(name, steps)

    def grown(name: str, of: str) -> Line:
        return Line(name, [(sample.at_s, getattr(sample, of) - getattr(samples[0], of)) for sample in samples])

    held = [(at + 1.0, None if second.held is None else float(second.held)) for at, second in enumerate(seconds[:-1])]
    return [
        chart(
            "Time to the first token, fast readers",
            "ms, of the streams that began to speak in that second",
            [spread("p50", "ttft", 0.5), spread("p99", "ttft", 0.99)],
        ),
        chart("Gaps between batches, fast readers", "ms", [spread("p50", "gaps", 0.5), spread("p99", "gaps", 0.99)]),
        chart(
            "Streams",
            "at the end of each second",
            [
                Line("as readers see them", [(at + 1.0, second.live) for at, second in enumerate(seconds[:-1])]),
                gauge("open answers of Claude", "upstreams"),
            ],
        ),
        chart(
            "Backpressure",
            "at the end of each second",
            [Line("producers held", held), gauge("readers that take nothing", "stalled")],
        ),
        chart("Memory of the service", "MiB, resident", [gauge("memory", "memory_bytes", _MIB)]),
        chart("CPU of the service", "% of a core", [speed("CPU", "cpu_s", 100)]),
        chart(
            "Tokens wasted and saved",
            "since the test began; saved is an estimate",
            [grown("wasted", "wasted"), grown("saved, expected", "avoided")],
        ),
        chart("The load tester's own lag", "ms", [spread("p50", "lag", 0.5), spread("p99", "lag", 0.99)]),
    ]


def _html_table(columns: Sequence[str] | None, rows: Sequence[Row], classes: Sequence[str] = ()) -> str:
    head = "" if columns is None else f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in columns)}</tr>"
    body = []
    for place, row in enumerate(rows):
        kind = f' class="{classes[place]}"' if classes else ""
        body.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    pairs = "" if columns is not None else ' class="pairs"'
    return f'<div class="scroll"><table{pairs}>{head}{"".join(body)}</table></div>'
