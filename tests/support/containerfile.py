"""A Containerfile, read: its stages and their instructions, as far as ours uses them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction.

    Attributes:
        word: such as `RUN`.
        said: what stands behind it.
    """

    word: str
    said: str

    @property
    def argv(self) -> list[str]:
        """The command of its exec form. Raises ValueError where it has another."""
        found = json.loads(self.said[self.said.index("[") :])
        if not (isinstance(found, list) and found and all(isinstance(part, str) for part in found)):
            raise ValueError(self.said)
        return found


def stages(path: Path) -> list[list[Step]]:
    """Each stage from its `FROM` on; what stands before the first one is a stage of its own."""
    found: list[list[Step]] = [[]]
    for line in path.read_text("utf-8").replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, said = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append(Step(word, said.strip()))
    return found
