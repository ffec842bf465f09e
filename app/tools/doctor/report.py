"""What is printed: findings in words, or as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

from .findings import Finding

_COLUMNS = 110
# What stands in a reader's own browser, no command sees.
_FROM_THERE = "From a reader's side, with what stands in the browser itself: {}/doctor"


def as_json(found: Sequence[Finding], error: str = "") -> str:
    """Findings as JSON; with `error` where nothing could be measured."""
    told: dict[str, object] = {"findings": [one.as_dict() for one in found]}
    if error:
        told["error"] = error
    return json.dumps(told, indent=2)


def in_words(url: str, found: Sequence[Finding], looked_s: float, *, page: bool = True) -> str:
    """Findings in words; with the address of the page that looks from a browser, where there is one."""
    if not found:
        told = f"{url}: nothing found in {looked_s:.1f} s; events come as they are sent, and nothing on the way holds on to them"
        return "\n".join([told, *_page(url, page=page)])
    count = "one finding" if len(found) == 1 else f"{len(found)} findings"
    lines = [f"{url}: {count} in {looked_s:.1f} s"]
    for one in found:
        lines += ["", f"{one.severity.upper()}  {one.check}"]
        lines += _indented("found", one.evidence)
        lines += _indented("mend", one.mend)
    return "\n".join([*lines, "", *_page(url, page=page)] if page else lines)


def _page(url: str, *, page: bool) -> list[str]:
    return [_FROM_THERE.format(url.rstrip("/"))] if page and not url.startswith("unix:") else []


def _indented(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _COLUMNS, initial_indent=f"  {label + ':':<7}", subsequent_indent=" " * 9, break_on_hyphens=False
    )
