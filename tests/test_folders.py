"""Who imports whom: rules know no clock and no sockets, the heart knows no HTTP, nothing knows the tools."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parent.parent / "app"

# From the bottom up: a folder imports only from itself and from those before it.
FOLDERS = [
    "answer",
    "flow",
    "wire",
    "money",
    "telemetry",
    "access",
    "streams",
    "upstream",
    "fleet",
    "web",
    "tools",
    "commands",
    "__main__",
]
# And within one; what stands beside its folders puts them together.
WITHIN = {"web": ["http", "entrance", "readers", "elsewhere", "routes"]}
# What stands beside the folders knows nobody but each other.
BESIDE = {"errors", "settings", "settings_error"}

# Pure: no clock, no sockets, no files. Time comes in as `now`.
PURE = {
    "answer": None,  # the whole folder
    "wire": None,
    "flow": {"batching"},
    "money": {"entry", "ledger", "prices", "rates", "survival"},
    "streams": {"credits", "lifecycle", "liveness", "replay"},
    "upstream": {"retry"},
    "fleet": {"log_commands", "mirror_rules", "names"},
}
CLOCKS = {"asyncio", "time", "threading", "selectors", "socket", "concurrent", "random"}
HTTP = {"aiohttp", "aiohttp_sse", "anthropic", "httpx", "httpx2", "httpx_aiohttp", "uvloop", "redis"}
# What a folder must not know, by the first part of the imported name.
FORBIDDEN = {
    "flow": HTTP | {"socket", "prometheus_client"},
    "money": HTTP | {"prometheus_client"},
    "telemetry": CLOCKS | HTTP,
    "access": CLOCKS | HTTP,
    "streams": HTTP | {"socket", "prometheus_client"},
}


def folder(module: str) -> str:
    return module.partition(".")[0]


def is_pure(module: str) -> bool:
    top, _, name = module.partition(".")
    return top in PURE and (PURE[top] is None or name in (PURE[top] or ()))


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


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """The absolute names that a module imports at run time, wherever in it."""
    names: set[str] = set()
    for node in running(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, path)
            names.add(module)
            # `from . import settings` names a module; `from .errors import X` does not.
            names |= {f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}"[4:] in MODULES}
    return names


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The full name of what an import names, relative or not."""
    if node.level == 0:
        return node.module or ""
    package = ("app", *path.relative_to(APP).parts[:-1]) if path.is_relative_to(APP) else ("app",)
    parts = package[: len(package) - node.level + 1]
    return ".".join((*parts, node.module) if node.module else parts)


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


def test_every_module_has_its_place() -> None:
    assert {folder(module) for module in MODULES} - BESIDE == set(FOLDERS)


def test_a_module_imports_only_its_own_folder_and_those_before_it() -> None:
    upward = []
    for module, path in MODULES.items():
        place = -1 if folder(module) in BESIDE else FOLDERS.index(folder(module))
        allowed = BESIDE | set(FOLDERS[: place + 1])
        upward += [(module, name) for name in ours(path) if folder(name) not in allowed]
    assert upward == []


@pytest.mark.parametrize("top", WITHIN)
def test_so_it_is_among_the_folders_of_a_folder(top: str) -> None:
    upward = []
    for module, path in MODULES.items():
        outer, _, inner = module.partition(".")
        if outer == top and (folder(inner) in WITHIN[top]):
            allowed = WITHIN[top][: WITHIN[top].index(folder(inner)) + 1]
            within = [name.removeprefix(f"{top}.") for name in ours(path) if name.startswith(f"{top}.")]
            upward += [(module, name) for name in within if folder(name) not in allowed]
    assert upward == []
    assert {path.name for path in (APP / top).iterdir() if (path / "__init__.py").exists()} == set(WITHIN[top])


def test_within_the_package_imports_are_relative() -> None:
    """The source is `app/`, the installed package is `sluiceway`: an absolute import would tie it to one name."""
    tied = [
        (module, node.lineno)
        for module, path in MODULES.items()
        if folder(module) != "tools"
        for node in running(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.level == 0 and folder(node.module or "") == "app"
    ]
    assert tied == []


def test_a_folder_knows_nothing_of_what_is_not_its_own() -> None:
    known = [
        (module, name)
        for module, path in MODULES.items()
        if folder(module) in FORBIDDEN
        for name in {name.partition(".")[0] for name in imports(path)} & FORBIDDEN[folder(module)]
    ]
    assert known == []


@pytest.mark.parametrize("module", [module for module in MODULES if is_pure(module)])
def test_a_rule_knows_no_clock_and_opens_no_file_but_the_price_table(module: str) -> None:
    known = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert known & (CLOCKS | HTTP | {"logging", "prometheus_client"}) == set()
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else f".{node.func.attr}"
        for node in ast.walk(parsed(MODULES[module]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    reading = calls & {"open", ".read_text", ".read_bytes", ".write_text", ".write_bytes", ".getenv", ".sleep"}
    assert not reading or module == "money.prices"


@pytest.mark.parametrize("module", ["server", "answer", "http1", "performance", "prose", "scenario"])
def test_the_simulated_claude_shares_no_code_with_what_it_tests(module: str) -> None:
    assert {name for name in ours(MODULES[f"tools.simulator.{module}"]) if name.partition(".")[0] != "tools"} == set()


@pytest.mark.parametrize("package", [path.parent for path in APP.rglob("__init__.py")], ids=lambda path: path.name)
def test_the_map_of_a_folder_names_only_what_is_there(package: Path) -> None:
    told = ast.get_docstring(parsed(package / "__init__.py")) or ""
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", told)
    roots = (package, APP.parent)
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []
    assert told, "who opens the folder finds no word of what is in it"


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
        ("def f():\n    from app.web import compose", {"app.web", "app.web.compose"}),
        ("from .errors import BadRequest", {"app.errors"}),
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
