"""Asked for all that its own description says, and for much that it does not, the service answers as described.

Schemathesis reads `/openapi.json` and draws requests from it: every operation, with bodies and headers in and beside the
schemas. `make soak` installs it, in an environment of its own. What it is not asked for is `/api/probe`, which breaks off
in the middle of an answer where it is told to.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Serve

pytestmark = pytest.mark.soak

PROGRAM = Path(__file__).resolve().parents[2] / "build/openapi/py/bin/st"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


async def test_no_answer_is_one_that_the_description_does_not_know(serve: Serve, tmp_path: Path) -> None:
    service = await serve()
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *("run", f"{service.url}/openapi.json", "--checks", CHECKS, "--phases", "coverage,fuzzing"),
        *(
            "--max-examples",
            "20",
            "--seed",
            "11",
            "--request-timeout",
            "60",
            "--no-color",
            "--generation-database",
            "none",
        ),
        *("--exclude-path", "/api/probe"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said
    assert "Tested: 37" in said
