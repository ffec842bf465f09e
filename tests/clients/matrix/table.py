"""The table of the clients as Markdown, and its place in `tests/README.md`; `python -m tests.clients.matrix.table` puts it there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .clients import Client
from .matrix import Cell
from .scenarios import SCENARIOS

ROOT: Final = Path(__file__).resolve().parents[3]
MADE: Final = ROOT / "build" / "clients.md"
BEGIN, END = "<!-- clients -->", "<!-- /clients -->"


def heading() -> str:
    """The table's first line."""
    return "| client | " + " | ".join(scenario.words for scenario in SCENARIOS.values()) + " |"


def name_of(client: Client) -> str:
    """How the table names it, with its locked version."""
    return f"{client.name} {client.version}"


def markdown(rows: dict[Client, dict[str, Cell]]) -> str:
    """The table of a run: `=` where straight and through are the same, a number where a difference is known."""
    notes: list[str] = []
    lines = [heading(), "|---" * (len(SCENARIOS) + 1) + "|"]
    for client, cells in rows.items():
        words = [_cell(cells.get(scenario), notes) for scenario in SCENARIOS]
        lines.append(f"| {name_of(client)} | " + " | ".join(words) + " |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1)), ""])


def _cell(cell: Cell | None, notes: list[str]) -> str:
    if cell is None:
        return "–"
    if cell.wrong():
        return "differs"
    for note in cell.notes:
        if note not in notes:
            notes.append(note)
    return ", ".join(_numbers(cell.notes, notes)) or "="


def _numbers(those: Sequence[str], notes: list[str]) -> list[str]:
    return [f"({notes.index(note) + 1})" for note in those]


def placed(readme: str, table: str) -> str:
    """`tests/README.md` with the table between its markers."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}{END}{after}"


if __name__ == "__main__":
    page = ROOT / "tests" / "README.md"
    page.write_text(placed(page.read_text("utf-8"), MADE.read_text("utf-8")), "utf-8")
