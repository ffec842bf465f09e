"""What `/openapi.json` says, held against what was answered."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema

METHODS = {"get", "post", "put", "patch", "delete", "options"}


class Document:
    """The document.

    Args:
        said: as it came.
    """

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said

    @property
    def operations(self) -> dict[tuple[str, str], dict[str, Any]]:
        """By method and path."""
        return {
            (method.upper(), path): operation
            for path, item in self.said["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def is_valid(self, schema: dict[str, Any], value: object) -> bool:
        """Whether a value is what a schema of the document says."""
        root = {"components": self.said["components"], **schema}  # what its references lead to
        return jsonschema.Draft202012Validator(root).is_valid(value)

    def wrong(self, method: str, path: str, status: int, media_type: str, body: bytes) -> str:
        """What is not as an operation's description says; empty where all is."""
        answers = self.operations[method, path]["responses"]
        answer = answers.get(str(status), answers.get("default"))
        if answer is None:
            return f"{method} {path} never answers {status}: {body[:200]!r}"
        content = answer.get("content", {})
        if not content:
            return f"{method} {path} {status} has a body: {body[:200]!r}" if body else ""
        if "*/*" in content:
            return ""
        if media_type not in content:
            return f"{method} {path} {status} is {media_type}, not {', '.join(content)}"
        if media_type == "application/json" and not self.is_valid(content[media_type]["schema"], json.loads(body)):
            return f"{method} {path} {status} has another shape: {body[:300]!r}"
        return ""

    def broken(self) -> list[str]:
        """References that lead nowhere, and schemas that are none."""
        text = json.dumps(self.said)
        found = [name for name in re.findall(r'"\$ref": "#/([^"]*)"', text) if not _at(self.said, name.split("/"))]
        for name, schema in self.said["components"]["schemas"].items():
            try:
                jsonschema.Draft202012Validator.check_schema(schema)
            except jsonschema.SchemaError as error:
                found.append(f"{name}: {error.message}")
        return found


def _at(document: Any, names: list[str]) -> bool:
    for name in names:
        if name not in document:
            return False
        document = document[name]
    return True
