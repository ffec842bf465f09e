"""Every way in which Claude's side can fail: one typed last event or the right status, in time, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from app.settings import Settings
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.conftest import Serve
from tests.support.readers import Reader, Told, events_of, eventually, sockets

# Small deadlines, so that the test is quick.
DEADLINES = {"idle_timeout_s": 0.8, "progress_timeout_s": 1.0, "retries": 0}
# Within which something must come, also where the machine is busy.
AMPLE = {"idle_timeout_s": 2.5, "progress_timeout_s": 3.0, "retries": 2}
IN_TIME_S = 10.0  # of a busy machine; a deadline that is missed takes a minute


def deadlines(directive: str) -> dict[str, Any]:
    """Small ones for what ends by them; whatever else fails is not to meet them because the machine is busy."""
    return DEADLINES if any(word in directive for word in ("_s=60", "silence", "ping_only")) else {"retries": 0}


@asynccontextmanager
async def nothing_left(service: Running, simulator: Simulator, *, at_once: int = 1) -> AsyncIterator[None]:
    """Asserts that what runs inside leaves no task, socket or session behind.

    But for an idle connection to Claude of each of so many at once, kept for the next request: two sockets, since both its
    ends are in this process, and the simulator's task.
    """
    tasks, held = len(asyncio.all_tasks()), sockets()
    yield
    await eventually(lambda: not service.streams.live)
    await eventually(lambda: not any(book.live for book in simulator.books))
    idle = [(kept, 2 * kept) for kept in range(at_once + 1)]
    await eventually(lambda: (len(asyncio.all_tasks()) - tasks, sockets() - held) in idle)


async def outcome(service: Running, directive: str) -> tuple[int, str, dict[str, Any], Reader]:
    """Asks and reads to the end: the status, the text before the failure, and the failure as it was told."""
    reader = await Reader.connect(service.url)
    await reader.ask(directive)
    status = await reader.head()
    body = await reader.rest()
    assert reader.ended
    reader.leave()
    if status != 200:
        assert reader.headers["content-type"].startswith("application/json")
        return status, "", json.loads(body), reader
    told = Told.of(events_of(body))
    return status, told.text, told.last, reader


# --- before the stream: the status -------------------------------------------------------------------------------------

BEFORE = [
    ("fault=http_400", 400, "invalid_request_error", False),
    ("fault=http_401", 401, "authentication_error", False),
    ("fault=http_403", 403, "permission_error", False),
    ("fault=http_404", 404, "not_found_error", False),
    ("fault=http_413", 413, "request_too_large", False),
    ("fault=http_429", 429, "rate_limit_error", True),
    ("fault=http_500", 500, "api_error", True),
    ("fault=http_503", 503, "api_error", True),
    ("fault=http_529", 529, "overloaded_error", True),
    ("fault=error_first", 529, "overloaded_error", True),
    ("fault=html", 502, "upstream_garbled", True),
    ("ttft_s=60", 504, "timeout_error", True),
    ("first_event_s=60", 504, "timeout_error", True),
    ("first_event_s=60 pings_s=0.1", 504, "timeout_error", True),
]


@pytest.mark.parametrize(("directive", "status", "type_", "retryable"), BEFORE, ids=[case[0] for case in BEFORE])
async def test_a_failure_before_the_stream_keeps_its_status(
    directive: str, status: int, type_: str, retryable: bool, serve: Serve, simulator: Simulator
) -> None:
    service = await serve(**deadlines(directive))
    async with nothing_left(service, simulator):
        began = time.monotonic()
        seen, _, error, _ = await outcome(service, directive)
        elapsed_s = time.monotonic() - began

    assert (seen, error["type"], error["retryable"]) == (status, type_, retryable)
    assert error["error"]
    assert elapsed_s < IN_TIME_S


@pytest.mark.parametrize(("directive", "status", "type_", "retryable"), BEFORE, ids=[case[0] for case in BEFORE])
async def test_after_the_first_keep_alive_the_same_failure_is_the_last_event(
    directive: str, status: int, type_: str, retryable: bool, serve: Serve, simulator: Simulator
) -> None:
    service = await serve(**deadlines(directive), commit_s=0.05)
    if "_s=60" not in directive:
        directive += " ttft_s=0.2"
    async with nothing_left(service, simulator):
        seen, text, error, _ = await outcome(service, directive)

    assert (seen, text) == (200, "")
    assert (error["type"], error["retryable"]) == (type_, retryable)


async def test_a_late_429_comes_after_the_keep_alives(serve: Serve) -> None:
    service = await serve(retries=0, commit_s=0.1, heartbeat_s=0.1)
    reader = await Reader.connect(service.url)
    await reader.ask("ttft_s=1 fault=http_429 retry_after_s=7")
    assert await reader.head() == 200
    assert await reader.until(b"\n") == b": keep-alive\n"
    (error,) = events_of(await reader.rest())
    reader.leave()

    assert error["type"] == "rate_limit_error"


async def test_nobody_there_is_502(simulator: Simulator) -> None:
    await simulator.stop()
    # No spare connection is tried for: what is begun and given up would be counted as begun before.
    given = {"port": 0, "admin_port": 0, "retries": 0, "max_lag_s": 60, "warm_connections": 0}
    settings = Settings.model_validate(given)
    async with running(settings, Credentials("k", simulator.url)) as service, nothing_left(service, simulator):
        status, _, error, _ = await outcome(service, "tokens=3")

    assert (status, error["type"], error["retryable"]) == (502, "upstream_unreachable", True)


async def test_retry_after_is_passed_on(serve: Serve) -> None:
    service = await serve(retries=0)
    status, _, _, reader = await outcome(service, "fault=http_429 retry_after_s=7")

    assert (status, reader.headers["retry-after"]) == (429, "7")


# --- in the middle: the last event -------------------------------------------------------------------------------------

MIDDLE = [
    ("fault=overloaded", "overloaded_error"),
    ("fault=silence", "timeout_error"),
    ("fault=ping_only pings_s=0.02", "timeout_error"),  # so many that one is there whenever a rest is over
    ("fault=cut", "upstream_cut"),
    ("fault=cut_fin", "upstream_cut"),
    ("fault=no_message_stop", "upstream_cut"),
    ("fault=garbage", "upstream_garbled"),
]


@pytest.mark.parametrize(("fault", "type_"), MIDDLE, ids=[case[0] for case in MIDDLE])
async def test_a_failure_in_the_middle_is_the_one_last_event(
    fault: str, type_: str, serve: Serve, simulator: Simulator
) -> None:
    """What came before it arrives whole. One second attempt would be a second bill: there is none."""
    service = await serve(**AMPLE)
    cuts = (0, 1, 20, 200)
    async with nothing_left(service, simulator, at_once=len(cuts)):
        began = time.monotonic()
        asked = [
            outcome(service, f"tokens=300 text=numbered {'' if after == 200 else 'rate=100'} {fault} after={after}")
            for after in cuts
        ]
        outcomes = await asyncio.gather(*asked)
        elapsed_s = time.monotonic() - began

    for after, (status, text, error, _) in zip(cuts, outcomes, strict=True):
        assert error["type"] == type_
        # Broken JSON that comes in one read with the first events takes them with it, and then there is no stream yet.
        assert status == 200 or (status == 502 and fault == "fault=garbage" and after <= 20)
        if fault in ("fault=cut", "fault=garbage"):
            # A reset discards what is on its way, and what follows broken JSON in the same read is not trusted.
            assert numbered_text(after).startswith(text)
        else:
            assert text == numbered_text(after)
    assert elapsed_s < IN_TIME_S
    assert len(simulator.books) == len(cuts)
    assert not any(book.live for book in simulator.books)


async def test_silence_closes_the_connection_upstream(serve: Serve, simulator: Simulator) -> None:
    service = await serve(**DEADLINES)
    await outcome(service, "tokens=9 fault=silence after=3")
    book = simulator.books[0]
    await book.ended.wait()

    assert book.gone_at is not None
    assert 0.75 < book.gone_at - book.started_at < IN_TIME_S


async def test_pings_keep_a_long_silence_of_thinking_alive(serve: Serve) -> None:
    """Three idle deadlines without a word, but with pings and within the progress deadline."""
    service = await serve(idle_timeout_s=1.5, progress_timeout_s=30)
    status, text, last, _ = await outcome(service, "tokens=3 thinking=46 hidden rate=10 pings_s=0.1 text=numbered")

    assert (status, text) == (200, numbered_text(3))
    assert last["done"] is True


# --- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["http_429 retry_after_s=0.1", "http_529", "http_500", "cut after=0", "no_message_stop"]
)
async def test_a_failure_before_the_first_event_is_tried_again(fault: str, serve: Serve, simulator: Simulator) -> None:
    service = await serve()
    directive = f"tokens=5 text=numbered fault={fault} fault_times=1"
    if fault.startswith(("cut", "no_message")):
        # These strike after message_start, which was passed on: no second attempt.
        status, text, last, _ = await outcome(service, directive)
        assert (status, last["type"], len(simulator.books)) == (200, "upstream_cut", 1)
        return
    status, text, last, _ = await outcome(service, directive)

    assert (status, text, last.get("done")) == (200, numbered_text(5), True)
    assert [book.attempt for book in simulator.books] == [1, 2]


async def test_an_error_as_the_first_event_is_told_and_not_tried_again(serve: Serve, simulator: Simulator) -> None:
    """Bytes of an answer have come: asking again may buy a second one."""
    service = await serve()
    status, _, error, _ = await outcome(service, "tokens=5 fault=error_first fault_times=1")

    assert (status, error["type"], error["retryable"]) == (529, "overloaded_error", True)
    assert len(simulator.books) == 1


async def test_retries_are_bounded(serve: Serve, simulator: Simulator) -> None:
    service = await serve(retries=2, retry_after_max_s=0.05)
    status, _, error, _ = await outcome(service, "fault=http_529")

    assert (status, error["type"], len(simulator.books)) == (529, "overloaded_error", 3)


async def test_a_long_retry_after_is_told_and_not_waited_for(serve: Serve, simulator: Simulator) -> None:
    service = await serve(retries=2, retry_after_max_s=5)
    status, _, _, reader = await outcome(service, "fault=http_429 retry_after_s=6")

    assert (status, reader.headers["retry-after"], len(simulator.books)) == (429, "6", 1)


async def test_what_cannot_help_is_not_tried_again(serve: Serve, simulator: Simulator) -> None:
    service = await serve(retries=2)
    status, *_ = await outcome(service, "fault=http_400")

    assert (status, len(simulator.books)) == (400, 1)


# --- the secret --------------------------------------------------------------------------------------------------------


async def test_the_api_key_appears_in_no_output(
    serve: Serve, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    service = await serve(**DEADLINES | {"retries": 1, "retry_after_max_s": 0.05})
    seen: list[str] = []
    running_reader = await Reader.connect(service.url)
    await running_reader.ask("tokens=1000 rate=10")
    await running_reader.head()
    failed = await asyncio.gather(*(outcome(service, f"tokens=3 {one[0]}") for one in [*BEFORE, *MIDDLE]))
    seen += [f"{status} {text} {error} {reader.headers}" for status, text, error, reader in failed]
    for path in ("/streams", "/metrics", "/healthz"):
        async with client.get(service.admin_url + path) as response:
            seen.append(f"{response.headers} {await response.text()}")
    for path in ("/config.json", "/"):
        async with client.get(service.url + path) as response:
            seen.append(f"{response.headers} {await response.text()}")
    running_reader.leave()
    await eventually(lambda: not service.streams.live)
    printed = capfd.readouterr()
    seen += [caplog.text, printed.out, printed.err, repr(service)]

    assert "stream" in caplog.text
    assert not [text for text in seen if "secret-of-the-service" in text]
