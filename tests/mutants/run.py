"""Changes one small thing at a time in the rules and the heart, and names each change that no test without real parts notices.

`make mutants` draws a sample, so that it takes less than an hour; the seed says which. It works in a copy of the
repository, in `build/mutants/tree`: there `mutmut show NAME` shows what a survivor changed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build/mutants/tree"
COPIED = ("app", "config", "tests", "README.md", "pyproject.toml")
FOLDERS = ("flow", "answer", "money", "streams")
LEAST_SCORE = 0.85
# mutmut's exit codes of those that live on, and of those that ran into their deadline; every other is a test that failed.
ALIVE = {0: "no test fails", 33: "no test runs it", None: "not tried"}
LATE = (-24, 24, 36, 152, 255)
CONFIG = """
[tool.mutmut]
source_paths = ["app"]
only_mutate = [{mutated}]
also_copy = ["config", "README.md"]
pytest_add_cli_args = ["-m", "unit or slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
pytest_add_cli_args_test_selection = [{tests}]
use_git_change_detection = false
timeout_multiplier = 3
timeout_constant = 20
"""
# The constant, in seconds, is what a busy machine may add to a test: who only ran late would count as noticed.


def prepare() -> None:
    """Makes the copy anew, with what mutmut has to know of it."""
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, TREE / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(ROOT / name, TREE / name)
    mutated = ", ".join(f'"app/{folder}/*"' for folder in FOLDERS)
    # Those of wire/ and of the metrics run through the rules as well.
    tests = [f"tests/{folder}" for folder in (*FOLDERS, "wire")] + ["tests/telemetry/test_prometheus.py"]
    with (TREE / "pyproject.toml").open("a") as config:
        config.write(CONFIG.format(mutated=mutated, tests=", ".join(f'"{path}"' for path in tests)))


def mutmut(*names: str, check: bool = True) -> None:
    """Makes all mutants in the copy, unless they are there, and tries those with these names, on one processor."""
    # As its own script does: run as a module, it would be imported a second time by what it mutated.
    program = "from mutmut.__main__ import cli; cli()"
    subprocess.run([sys.executable, "-c", program, "run", "--max-children", "1", *names], cwd=TREE, check=check)


def interval(share: float, count: int) -> tuple[float, float]:
    """Between what the share of all mutants lies with 95 %, seen in so many of them (Wilson)."""
    z = 1.96
    middle, half = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def tried() -> dict[str, int | None]:
    """Every mutant by its name, with how its tests ended."""
    found: dict[str, int | None] = {}
    for path in sorted((TREE / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=400, help="how many mutants are tried")
    parser.add_argument("--seed", type=int, default=11, help="which")
    asked = parser.parse_args()
    prepare()
    mutmut("none-of-them", check=False)  # makes all, learns which tests run through which, and fails for want of a name
    if not (TREE / "mutants/mutmut-stats.json").is_file():
        sys.exit("the tests do not pass without a change")
    every = sorted(tried())
    sample = random.Random(asked.seed).sample(every, min(asked.sample, len(every)))
    mutmut(*sample)
    codes = tried()
    alive = {name: ALIVE[codes[name]] for name in sorted(sample) if codes[name] in ALIVE}
    score = 1 - len(alive) / len(sample)
    for name, why in alive.items():
        print(f"{name}: {why}")
    low, high = interval(score, len(sample))
    late = sum(codes[name] in LATE for name in sample)
    print(f"{score:.1%} of {len(sample)} mutants, of {len(every)}, seed {asked.seed}, are noticed without real parts")
    print(f"{low:.1%} to {high:.1%} of all, with 95 %; {late} of them ran into their deadline")
    if score < LEAST_SCORE:
        sys.exit(f"that is less than {LEAST_SCORE:.0%}")


if __name__ == "__main__":
    main()
