"""What `/openapi.json` says of one route: each route brings it along, so that neither can be forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import SluicewayError


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer.

    Attributes:
        told: what it is.
        media_type: of its body; empty where it has none.
        schema: of its JSON, by name among the document's schemas; empty for any.
        headers: that it brings, by name among the document's headers.
    """

    told: str
    media_type: str = "application/json"
    schema: str = ""
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does.

    Attributes:
        summary: in a few words.
        told: more of it, in Markdown.
        answers: the good ones, by status.
        body: the schema of what it takes, by name; empty where it takes no JSON.
        parameters: beside those of the path, by name among the document's parameters.
        errors: what it refuses beside what every route does, and what follows from whom it lets in and from its body.
        starts: it asks Claude, and so is refused what budgets, limits and Claude itself refuse.
    """

    summary: str = ""
    told: str = ""
    answers: Mapping[int, Answer] = field(default_factory=dict)
    body: str = ""
    parameters: tuple[str, ...] = ()
    errors: tuple[type[SluicewayError], ...] = ()
    starts: bool = False
