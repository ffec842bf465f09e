"""How large a part may be: what is larger does more than one thing, and nobody reads it in one go."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

APP = Path(__file__).resolve().parent.parent / "app"

MOST_LINES_OF_A_MODULE = 400
MOST_LINES_OF_A_FUNCTION = 40
MOST_PARAMETERS = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def modules() -> dict[str, str]:
    """The source of each module."""
    return {str(path.relative_to(APP)): path.read_text("utf-8") for path in sorted(APP.rglob("*.py"))}


def functions(source: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


@functools.cache
def every_function() -> list[tuple[str, Function]]:
    """With its module. Not at import: each process that collects tests would parse all of it."""
    return [(module, node) for module, source in modules().items() for node in functions(source)]


def lines_of(node: Function) -> int:
    """The lines of its body; its docstring does not count, and a function within it counts for itself."""
    first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
    within = [inner for inner in node.body if isinstance(inner, Function)]
    begins = [min([inner.lineno, *(decorator.lineno for decorator in inner.decorator_list)]) for inner in within]
    inner_lines = sum(_last(inner) - begin + 1 for inner, begin in zip(within, begins, strict=True))
    return _last(node) - first.lineno + 1 - inner_lines


def _last(node: Function) -> int:
    assert node.end_lineno is not None, "it was parsed"
    return node.end_lineno


def parameters_of(node: Function) -> int:
    """What its caller gives; `self` is not among them."""
    given = node.args
    return len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - 1


def test_a_module_can_be_read_in_one_go() -> None:
    lines = {module: len(source.splitlines()) for module, source in modules().items()}
    assert {module: count for module, count in lines.items() if count > MOST_LINES_OF_A_MODULE} == {}


def test_a_function_fits_on_a_screen() -> None:
    lines = [(module, node.name, lines_of(node)) for module, node in every_function()]
    assert [one for one in lines if one[2] > MOST_LINES_OF_A_FUNCTION] == []


def test_a_constructor_takes_few_things() -> None:
    """One that needs more is given a value that holds them: a section of the settings, a frozen dataclass."""
    inits = [(module, parameters_of(node)) for module, node in every_function() if node.name == "__init__"]
    assert [one for one in inits if one[1] > MOST_PARAMETERS] == []


def test_there_is_something_to_measure() -> None:
    assert len(modules()) > 100
    assert len(every_function()) > 1000


def test_lines_are_counted_without_docstring_and_inner_functions() -> None:
    source = 'def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n\n    @dec\n    def g():\n        return a\n\n    return g\n'
    counted = {node.name: lines_of(node) for node in functions(source)}
    assert counted == {"f": 4, "g": 1}
    (init,) = functions("def __init__(self, a, /, b, *, c=1): ...")
    assert parameters_of(init) == 3
