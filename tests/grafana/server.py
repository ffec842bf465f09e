"""A client of a real Prometheus that holds the story."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.grafana.story import END_S, START_S, STEP_S


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus that holds the story.

    Attributes:
        url: where it listens.
    """

    url: str

    def get(self, path: str, **parameters: str | float) -> Any:
        """The `data` of an answer of its API; an error fails the test with Prometheus' own words."""
        query = urllib.parse.urlencode(parameters)
        with contextlib.closing(urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20)) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]

    def values(self, expr: str, *, instant: bool) -> list[float]:
        """Every finite value that an expression has, at the story's end or all along."""
        if instant:
            points = [one["value"] for one in self.get("query", query=expr, time=END_S)["result"]]
        else:
            found = self.get("query_range", query=expr, start=START_S, end=END_S, step=STEP_S)["result"]
            points = [point for one in found for point in one["values"]]
        return [value for value in (float(point[1]) for point in points) if math.isfinite(value)]


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
