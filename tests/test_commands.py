"""The command line: what it lists, and what it does not import for that."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from app.commands import ELSEWHERE, main
from tests.support.process import ROOT

HEAVY = ("aiohttp", "anthropic", "asyncio", "pydantic", "uvloop")


@pytest.mark.real
def test_the_help_imports_nothing_that_only_a_command_needs() -> None:
    script = (
        "import sys; from app.commands import main; main(['--help'], standalone_mode=False); "
        f"print('imported:', *(name for name in {HEAVY} if name in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.endswith("imported:\n")


def test_every_command_is_listed_with_what_it_does() -> None:
    said = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    for name, (_, told) in ELSEWHERE.items():
        assert f"{name} {told}" in said
    assert "serve Serve until SIGTERM or SIGINT" in said


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_listed_command_is_there(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workers", "0"], "Error: Invalid value for '--workers': 0 is not in the range 1<=x<=64."),
        (["--workers", "many"], "Error: Invalid value for '--workers': 'many' is not a valid integer range."),
        (["--unx", "x"], "Error: No such option '--unx'. Did you mean '--unix'?"),
        (["again"], "Error: Got unexpected extra argument (again)"),
        (["--port", "many"], "Error: command line: --port: Input should be a valid integer, unable to parse string as an integer"),
        (["--port", "65536"], "Error: command line: --port: Input should be less than or equal to 65535"),
        (["--config", "/"], "Error: config /: Is a directory"),
        (["--config", ""], "Error: config .: Is a directory"),
        (["--config", "/nowhere.toml"], "Error: config /nowhere.toml: No such file or directory"),
        (["--take-over"], "Error: --take-over: it needs unix, the path of the socket to take over"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told_in_one_line(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert (result.exit_code, result.output) == (1, f"{told}\n")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SLUICEWAY_WINDOWS_S": "1"}, ["SLUICEWAY_WINDOWS_S", "did you mean SLUICEWAY_WINDOW_S"]),
        ({"SLUICEWAY_WINDOW_S": "-1"}, ["SLUICEWAY_WINDOW_S", "greater than or equal to 0"]),
        ({"SLUICEWAY_PORT": "many"}, ["SLUICEWAY_PORT", "integer"]),
        ({"SLUICEWAY_LOG_LEVEL": "loud"}, ["SLUICEWAY_LOG_LEVEL", "debug"]),
        ({"SLUICEWAY_HOST": "0.0.0.0"}, ["SLUICEWAY_API_KEYS", "SLUICEWAY_AUTH=none"]),
        ({"SLUICEWAY_HOST": "::"}, ["SLUICEWAY_API_KEYS", "SLUICEWAY_AUTH=none"]),
    ],
)
def test_a_wrong_environment_is_told_in_one_line(environ: dict[str, str], words: list[str]) -> None:
    """And so is one that would let in anybody from elsewhere without a key."""
    result = CliRunner().invoke(main, ["serve"], env=environ | {"ANTHROPIC_API_KEY": "k"})
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert not [word for word in words if word not in result.output], result.output
