"""Who imports whom: rules know no clock and no sockets, the heart knows no HTTP, nothing knows the tools."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parent.parent / "app"

# From the bottom up: a module imports only from its own layer and from those below it. A package stands for all that
# is in it; a new module beside the packages is added here.
LAYERS = {
    "words": "errors events outcome",
    "rules": "batching chunks credits decoding entry ledger lifecycle liveness prices rates replay retry sse survival tally transcript wire",
    "settings": "settings",
    "names": "metrics",
    "heart": "channel delivery memory overload pacer relay sessions store",
    "edges": "claude reconcile web",
    "tools": "tools",
    "command": "__main__",
}  # fmt: skip
_RANKS = {module: rank for rank, modules in enumerate(LAYERS.values()) for module in modules.split()}


def rank(module: str) -> int:
    """The place of a module's layer. One that has none counts as an edge: one test tells of it, not all."""
    return _RANKS.get(module.partition(".")[0], list(LAYERS).index("edges"))


def layer(module: str) -> str:
    return list(LAYERS)[rank(module)]


# What a layer must not know, by the first part of the imported name. Time comes in as `now`.
CLOCKS = {"asyncio", "time", "threading", "selectors", "socket", "concurrent", "random"}
HTTP = {"aiohttp", "aiohttp_sse", "anthropic", "httpx", "httpx2", "httpx_aiohttp", "uvloop", "redis"}
FORBIDDEN = {
    "words": CLOCKS | HTTP | {"logging", "prometheus_client"},
    "rules": CLOCKS | HTTP | {"logging", "prometheus_client"},
    "settings": CLOCKS | HTTP,
    "names": CLOCKS | HTTP,
    "heart": HTTP | {"socket", "prometheus_client"},
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name below `app`; a package counts as its `__init__`."""
    found = {}
    for path in sorted(APP.rglob("*.py")):
        parts = list(path.relative_to(APP).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    found.pop("")
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The absolute names that a module imports at run time, wherever in it."""
    names: set[str] = set()
    for node in running(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides what it names"
            module = node.module or ""
            names.add(module)
            # `from app import settings` names a module; `from app.errors import X` does not.
            names |= {f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}"[4:] in MODULES}
    return names


def running(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which bind nothing at run time."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        found += [child, *running(child)]
    return found


def ours(path: Path) -> set[str]:
    return {name.removeprefix("app.") for name in imports(path) if name.startswith("app.")}


def test_every_module_has_its_layer() -> None:
    assert sorted(module for module in MODULES if module.partition(".")[0] not in _RANKS) == [], (
        "say in LAYERS where they belong"
    )


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    above = {name for name in ours(MODULES[module]) if rank(name) > rank(module)}
    assert above == set(), f"{module} is of the layer {layer(module)}"


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) in FORBIDDEN])
def test_a_layer_knows_nothing_of_what_is_not_its_own(module: str) -> None:
    known = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert known & FORBIDDEN[layer(module)] == set()


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) in ("words", "rules")])
def test_a_rule_opens_no_file_but_the_price_table(module: str) -> None:
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else f".{node.func.attr}"
        for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    reading = calls & {"open", ".read_text", ".read_bytes", ".write_text", ".write_bytes", ".getenv", ".sleep"}
    assert not reading or module == "prices"


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) != "tools"])
def test_nothing_but_the_command_line_imports_the_tools(module: str) -> None:
    tools = {name for name in ours(MODULES[module]) if name.partition(".")[0] == "tools"}
    assert not tools or module == "__main__"


@pytest.mark.parametrize("module", ["simulator", "answer", "http1", "performance", "scenario"])
def test_the_simulated_claude_shares_no_code_with_what_it_tests(module: str) -> None:
    assert {name for name in ours(MODULES[f"tools.{module}"]) if name.partition(".")[0] != "tools"} == set()


def test_no_two_modules_import_each_other() -> None:
    graph = {module: ours(path) & MODULES.keys() for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " imports ".join((*way[way.index(module) :], module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import asyncio.queues as q", {"asyncio.queues"}),
        ("def f():\n    from app.web import server", {"app.web", "app.web.server"}),
        ("from app.errors import BadRequest", {"app.errors"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import aiohttp", {"typing"}),
        ("if True:\n    import time", {"time"}),
    ],
)
def test_an_import_is_seen_wherever_it_stands(tmp_path: Path, source: str, names: set[str]) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    assert imports(path) == names


def test_what_is_forbidden_exists() -> None:
    """A name misspelt here would forbid nothing."""
    assert {"asyncio", "time", "threading", "selectors", "socket", "concurrent", "random"} <= sys.stdlib_module_names
