"""What the process of `serve` does before it serves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

COUNTED = """
import gc
from app.web.process import imported
seen = []
gc.callbacks.append(lambda phase, info: seen.append(phase))
assert imported().serve_until_signal
print(len(seen), gc.isenabled())
"""


@pytest.mark.real
def test_the_collector_rests_while_the_service_is_imported_and_works_again_after() -> None:
    told = subprocess.run([sys.executable, "-c", COUNTED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "0 True\n"
