"""The browser's client in three engines, each driven as itself, before the real service; what they do makes the table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from app.tools.simulator.server import Simulator
from tests.conftest import Serve
from tests.engines.classic import chromium, webkit
from tests.engines.engine import Engine
from tests.engines.features import FEATURES, Scene
from tests.engines.firefox import firefox
from tests.engines.table import README, Row, placed, read, write
from tests.support.far import Far, far_away
from tests.support.link import link

Start = Callable[[Far, Path], AbstractAsyncContextManager[Engine]]
STARTS: dict[str, Start] = {"chromium": chromium, "firefox": firefox, "webkit": webkit}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", STARTS)
async def test_an_engine_does_all_of_it(engine: str, serve: Serve, simulator: Simulator, tmp_path: Path) -> None:
    """Each feature in turn, in one browser; what fails is said at the end, and stands in the table."""
    failures: list[Exception] = []
    with far_away() as far:
        service = await serve(host=far.host, auth="none")
        async with STARTS[engine](far, tmp_path) as browser, link(service.url, far.host) as line:
            scene = Scene(browser, simulator, line, far)
            cells: Row = {}
            for name, feature in FEATURES.items():
                try:
                    cells[name] = await feature(scene) or "✓"
                except Exception as error:
                    error.add_note(name)
                    failures.append(error)
                    cells[name] = "fails"
                print(f"{browser.name}: {name}: {cells[name]}", flush=True)
            write(browser.name, cells)
    if failures:
        raise ExceptionGroup(engine, failures)


def test_the_table_has_every_feature_of_the_last_run() -> None:
    readme = README.read_text("utf-8")
    rows = read()
    assert [list(cells) for cells in rows.values()] == [list(FEATURES)] * len(STARTS)
    assert placed(readme, rows) == readme, "python -m tests.engines.table puts it there"
