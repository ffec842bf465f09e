"""What the tests share: the real service in front of the simulated Claude, on real sockets, with answers to replay.

What a fixture needs it imports itself: the SDK takes seconds, and most tests do without it.
"""

from __future__ import annotations

import gc
import inspect
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.support.sealed import sealed

if TYPE_CHECKING:
    import aiohttp

    from app.tools.simulator.server import Simulator
    from app.web.runner import Running
    from tests.support import process

# What collecting makes stays until the end, so that the collector rests meanwhile: it would look at it again and again.
gc.disable()

# Time is measured in benchmarks, not by a test's deadline on a shared machine.
hypothesis.settings.register_profile("sluiceway", deadline=None)
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=15, derandomize=True, database=None)
hypothesis.settings.load_profile("sluiceway")

ROOT = Path(__file__).resolve().parent.parent
# As a program needs it that goes out to the network.
OUTSIDE = dict(os.environ)
# An authority that vouches for nobody: each service and each client of the SDK reads what it is to trust, and the system's
# hundred and more took most of the processor time of their start. Tests of TLS say what they trust.
os.environ["SSL_CERT_FILE"] = str(ROOT / "tests" / "support" / "authority.pem")
Serve = Callable[..., Awaitable["Running"]]

# The folders of rules that take and give nothing but values. Their unit tests are the lane that covers every branch.
_RULES = ("answer/", "flow/", "wire/", "money/")
# What makes a test one of real parts; every other that is not slow is in the unit lane, which is sealed against network
# and programs.
_REAL_FOLDERS = ("bench/", "clients/", "grafana/", "service/", "tools/prove/")
_REAL_FIXTURES = {"chrome", "client", "page", "prometheus", "serve", "service", "simulator", "site", "start"}
# A module that says so of all its tests, in the line that marks them.
_NOT_OF_THE_UNIT_LANE = re.compile(r"^pytestmark = .*\bmark\.(?:real|browser|slow|soak)\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out what the unit lane would only import to leave it out."""
    if config.option.markexpr != "unit":
        return None
    if collection_path.is_dir():
        real = f"{collection_path.relative_to(ROOT / 'tests').as_posix()}/" in _REAL_FOLDERS
    else:
        real = _NOT_OF_THE_UNIT_LANE.search(collection_path.read_text("utf-8")) is not None
    return real or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test `unit` or `real`: by its folder, by the fixtures it asks for, or as its module says."""
    for item in items:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        values = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        asked = set(getattr(item, "fixturenames", ())) - set(values)  # a value may be called as a fixture is
        if "chrome" in asked:  # one connection to Chromium for them all, and so one loop
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        if path.startswith(_REAL_FOLDERS) or asked & _REAL_FIXTURES:
            item.add_marker("real")
        elif not any(map(item.get_closest_marker, ("real", "browser", "slow", "soak"))):
            item.add_marker("unit")
            if path.startswith(_RULES):
                item.add_marker("rules")


def pytest_collection_finish() -> None:
    """Lets the collector work again, but for what was made until now."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Runs what is made for one test in that test's loop, whichever that is."""
    make: Any = fixturedef.func
    if fixturedef.scope == "function" and (inspect.isasyncgenfunction(make) or inspect.iscoroutinefunction(make)):
        mark = request.node.get_closest_marker("asyncio")
        # As `pytest_asyncio.fixture(loop_scope=...)` notes it, which says one for all tests.
        make._loop_scope = mark.kwargs.get("loop_scope", "function") if mark is not None else "function"
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Seals a test of the unit lane while it runs."""
    if item.get_closest_marker("unit") is None:
        return (yield)
    with sealed():
        return (yield)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A simulated Claude on a free port, as fast as its reader, with the answers of `tests.support.answers` at hand."""
    from app.tools.simulator.server import Simulator
    from tests.support.answers import ANSWERS

    async with Simulator(transcripts=ANSWERS) as running_simulator:
        yield running_simulator


# Free ports; no one is refused because the loop is late: here it also runs the simulator and the test itself; and no
# connection but those that a test's own requests make, which are counted.
# Nor does a first sign of life stand in what a test compares, because the machine took a second to the first token.
_DEFAULTS = {"port": 0, "admin_port": 0, "max_lag_s": 60.0, "warm_connections": 0, "commit_s": 20.0}


@pytest.fixture
async def serve(simulator: Simulator) -> AsyncIterator[Serve]:
    """Starts the service in front of `simulator`, with settings given by keyword; stops it at the test's end."""
    from app.settings import Settings
    from app.web.credentials import Credentials
    from app.web.runner import running

    async with AsyncExitStack() as stack:

        async def start(**given: object) -> Running:
            if "unix" in given and not given.keys() & {"api_keys", "callers_file"}:
                given.setdefault("auth", "none")  # a unix socket demands that somebody says who may call
            settings = Settings.model_validate(_DEFAULTS | given)
            credentials = Credentials(api_key="sk-ant-secret-of-the-service", base_url=simulator.url, simulated=True)
            return await stack.enter_async_context(running(settings, credentials))

        yield start


@pytest.fixture
async def service(serve: Serve) -> Running:
    """The service with its defaults."""
    return await serve()


@pytest.fixture
async def start() -> AsyncIterator[process.Start]:
    """Starts `python -m app serve` as a process; what still runs at the test's end is killed, and its children with it."""
    from tests.support import process

    started: list[process.Service] = []

    async def run(*arguments: str, **how: Any) -> process.Service:
        service = await process.start(*arguments, **how)
        started.append(service)
        return service

    yield run
    for service in started:
        service.kill()
        await service.ended()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client without opinions."""
    import aiohttp

    async with aiohttp.ClientSession() as session:
        yield session
