"""The log has the first refusal of each reason and then at most a line a minute; every one is counted."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp import web

from app.errors import BadRequest, Draining, Lagging, Overloaded, Refusal, ShuttingDown, SluicewayError, UpstreamCut
from app.web.refusals import Refusals, refusal_of
from tests.support.clock import jumping, loop


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "app.web.refusals")
    return caplog


class Counted(list[Refusal]):
    """Every refusal that was counted."""

    def __init__(self) -> None:
        self.refusals = Refusals(self.append)


@jumping
async def test_a_thousand_refusals_a_second_are_a_line_a_minute(log: pytest.LogCaptureFixture) -> None:
    counted = Counted()
    for _ in range(150):
        for _ in range(20):
            counted.refusals.refused(Refusal.FULL)
        await asyncio.sleep(1)
    counted.refusals.close()
    assert len(counted) == 3000
    assert log.messages == [
        "turned a request away: full",
        "1199 more turned away: full",
        "1200 more turned away: full",
        "600 more turned away: full",
    ]


@jumping
async def test_each_reason_has_its_own_lines_and_ours_are_warnings(log: pytest.LogCaptureFixture) -> None:
    counted = Counted()
    for refusal in (*Refusal, *Refusal):
        counted.refusals.refused(refusal)
    assert log.messages == [f"turned a request away: {refusal.value}" for refusal in Refusal]
    assert {record.getMessage().rpartition(" ")[2] for record in log.records if record.levelno == logging.WARNING} == {
        "budget_away",
        "full",
        "lag",
        "failed",
    }
    counted.refusals.close()
    assert len(log.messages) == 2 * len(Refusal)


@jumping
async def test_after_a_quiet_minute_the_next_one_is_told_at_once_and_nothing_is_remembered(
    log: pytest.LogCaptureFixture,
) -> None:
    counted = Counted()
    counted.refusals.refused(Refusal.AUTH)
    await asyncio.sleep(Refusals.QUIET_S + 1)
    assert loop().timers() == 0
    counted.refusals.refused(Refusal.AUTH)
    counted.refusals.close()
    assert log.messages == ["turned a request away: auth"] * 2


@jumping
async def test_what_was_not_told_is_told_when_the_service_ends(log: pytest.LogCaptureFixture) -> None:
    counted = Counted()
    for _ in range(3):
        counted.refusals.refused(Refusal.LAG)
    for _ in range(2):
        counted.refusals.close()
    assert log.messages == ["turned a request away: lag", "2 more turned away: lag"]
    assert loop().timers() == 0


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (BadRequest("a field is wrong"), Refusal.INVALID),
        (Overloaded("all in use"), Refusal.FULL),
        (Lagging("late"), Refusal.LAG),
        (Draining("going down"), Refusal.DRAINING),
        (ShuttingDown("a stream that was started"), None),
        (UpstreamCut("a stream that was started"), None),
        (web.HTTPNotFound(), Refusal.NOT_FOUND),
        (web.HTTPMethodNotAllowed("PUT", ["GET"]), Refusal.METHOD),
        (web.HTTPRequestEntityTooLarge(5), Refusal.TOO_LARGE),
        (web.HTTPExpectationFailed(), Refusal.INVALID),
        (web.HTTPFound("/elsewhere"), None),
        (web.HTTPInternalServerError(), None),
    ],
)
def test_an_error_that_comes_before_anything_was_started_is_a_refusal(
    error: SluicewayError | web.HTTPException, refusal: Refusal | None
) -> None:
    assert refusal_of(error) is refusal
