"""What each engine did, kept in `results.json`, and as a table in `tests/README.md`; `python -m tests.engines.table` puts it there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

Row = dict[str, str]

README: Final = Path(__file__).resolve().parents[1] / "README.md"
RESULTS: Final = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- engines -->", "<!-- /engines -->"


def read() -> dict[str, Row]:
    """By engine and feature: a tick, or what must be said."""
    rows: dict[str, Row] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return rows


def write(engine: str, cells: Row) -> None:
    """Keeps what an engine did in place of what it did before, whichever version it had then."""
    kind = engine.partition(" ")[0]
    rows = {name: row for name, row in read().items() if name.partition(" ")[0] != kind}
    made = dict(sorted((rows | {engine: cells}).items()))
    RESULTS.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")


def markdown(rows: dict[str, Row]) -> str:
    """A row for each feature, a column for each engine; what is more than a tick is a note below."""
    notes = sorted({cell for cells in rows.values() for cell in cells.values() if len(cell) > 5})
    lines = ["| | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    features = next(iter(rows.values()), {})
    for feature in features:
        told = [_told(cells.get(feature, "–"), notes) for cells in rows.values()]
        lines.append(f"| {feature} | " + " | ".join(told) + " |")
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([*lines, *(["", *numbered] if numbered else []), ""])


def _told(cell: str, notes: list[str]) -> str:
    return f"✓ ({notes.index(cell) + 1})" if cell in notes else cell


def placed(readme: str, rows: dict[str, Row]) -> str:
    """The README with the table between its markers."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown(rows)}{END}{after}"


if __name__ == "__main__":
    README.write_text(placed(README.read_text("utf-8"), read()), "utf-8")
