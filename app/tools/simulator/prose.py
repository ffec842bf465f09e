"""The text of made-up answers: pseudo-English, the same for the same seed. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

_SUBJECTS = [
    "the water",
    "the lock keeper",
    "a slow reader",
    "the upper pool",
    "every gate",
    "the barge",
    "a small buffer",
    "the weir",
]
_VERBS = [
    "waits for",
    "holds back",
    "measures",
    "slowly fills",
    "gives way to",
    "is told by",
    "leans against",
    "never outruns",
]
_OBJECTS = [
    "the lower pool",
    "a full queue",
    "the next boat",
    "what the reader can take",
    "the tide",
    "its own pressure",
]
_ENDS = [
    "",
    "",
    " until the gauge is still",
    ", one drop at a time",
    " and nothing is lost",
    " → and on",
    " (Schleuse)",
    " — naïvely",
]
_CODE = '```python\nasync for batch in channel:\n    await writer.write(batch)  # waits here\n    print("délivré ✓", len(batch))\n```'
_TOKEN = re.compile(r"\s?\S{1,6}|\s")


@lru_cache(maxsize=16)
def prose(seed: int, markdown: bool) -> tuple[str, ...]:
    """About two thousand tokens of pseudo-English that may be repeated without end.

    Args:
        seed: the same seed gives the same prose.
        markdown: with headings, lists, a code block, and characters of two and three bytes that every font has.
    """
    rng = random.Random(f"{seed} {markdown}")

    def sentence() -> str:
        words = f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}{rng.choice(_ENDS)}"
        return words[0].upper() + words[1:] + "."

    def paragraph() -> str:
        return " ".join(sentence() for _ in range(rng.randint(2, 5)))

    def section(number: int) -> Iterator[str]:
        yield paragraph()
        if markdown:
            yield f"## {number}. {rng.choice(_SUBJECTS).capitalize()} ½"
            yield paragraph()
            yield "\n".join(f"- **{rng.choice(_OBJECTS)}**: {sentence()}" for _ in range(rng.randint(2, 4)))
            if number % 3 == 1:
                yield _CODE
        yield paragraph()

    text = "\n\n".join(chain.from_iterable(section(number) for number in range(1, 13))) + "\n\n"
    return tuple(_TOKEN.findall(text))
