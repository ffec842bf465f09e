"""The committed dashboard as the tests read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"
BOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "sluiceway.json").read_text(encoding="utf-8"))


def panels() -> list[dict[str, Any]]:
    """Every panel but rows, the folded ones too."""
    flat = [inner for panel in BOARD["panels"] for inner in (panel, *panel.get("panels", []))]
    return [panel for panel in flat if panel["type"] != "row"]


def targets() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every query with its panel."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel, target


def filled(expr: str) -> str:
    """An expression as Prometheus gets it, everything selected."""
    expr = expr.replace("$__rate_interval", "5m").replace("$__range", "3h")
    expr = expr.replace("offset 1d", "offset 1h")  # the story is three hours long
    return re.sub(r"\$(job|instance|model)\b", ".+", expr)


def vector_selectors(expr: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Every series that an expression asks for: its name, and its matchers of our own labels: label, operator, value."""
    operators = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
    found: list[tuple[str, list[tuple[str, str, str]]]] = []

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = [
                (one.name, operators[str(one.op).removeprefix("MatchOp.")], one.value) for one in node.matchers.matchers
            ]
            assert node.name, "a selector without a name would ask for everything"
            found.append((node.name, [one for one in matchers if one[0] not in ("job", "instance")]))
        for child in ("lhs", "rhs", "expr", "vector_selector"):
            if hasattr(node, child):
                walk(getattr(node, child))
        for argument in getattr(node, "args", ()):
            walk(argument)

    walk(promql_parser.parse(expr))
    return found
