"""The answers that tests replay, by name: those in `tests/answers/`, and Claude's own recordings where they are at hand.

Each file holds one streamed answer as the Messages API sends it, one event's JSON a line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {path.stem: path for path in sorted((ROOT / "tests" / "answers").glob("*.jsonl"))}
# Further cases, collected only where they lie beside the repository.
RECORDED = {f"recorded-{path.stem}": path for path in sorted((ROOT.parent / "shared" / "transcripts").glob("*.jsonl"))}
ANSWERS = WRITTEN | RECORDED
NAMES = list(ANSWERS)


def lines_in(name: str) -> list[str]:
    """The JSON of each event, as text. Not `splitlines`: a string in it may hold U+2028."""
    return [line for line in ANSWERS[name].read_text("utf-8").split("\n") if line]


def events_in(name: str) -> list[dict[str, Any]]:
    """The events, decoded."""
    return [json.loads(line) for line in lines_in(name)]


# Broken on purpose: no SDK makes a message of them.
BEGIN_TWICE = [name for name in NAMES if sum(event["type"] == "message_start" for event in events_in(name)) > 1]
