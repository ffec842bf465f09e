"""The section of what callers are bounded by, beside what the callers file says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, slots=True)
class BudgetRules:
    """Limits and budgets, whose figures are in the callers file."""

    state_dir: Annotated[
        str,
        Field(description="folder in which spending is kept; empty for `state` beside the callers file"),
    ] = ""
    budget_mode: Annotated[
        Literal["never_over", "one_batch"],
        Field(
            description="never_over holds what can come before a cut works; one_batch holds nothing and cuts afterwards"
        ),
    ] = "never_over"
    budget_warn_share: Annotated[
        float, Field(gt=0, le=1, description="share of a budget from which answers and metrics warn")
    ] = 0.8
    # Each is some twelve series a worker.
    named_callers: Annotated[
        int, Field(ge=0, le=10_000, description="callers with a name in metrics; the others are `other`")
    ] = 50
