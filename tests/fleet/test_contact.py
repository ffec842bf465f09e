"""When Redis counts as away, and who may judge others by it."""

from __future__ import annotations

import logging

import pytest

from app.fleet.contact import FAILURES, Contact


def test_redis_is_away_until_it_first_answers_and_then_after_three_failures_in_a_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: list[bool] = []
    caplog.set_level(logging.INFO)
    contact = Contact(changes.append)
    away = [contact.away]
    contact.succeeded(1.0, 0.001)
    for _ in range(FAILURES - 1):
        contact.failed("it did not answer in time")
    away.append(contact.away)
    contact.succeeded(2.0, 0.001)
    for _ in range(FAILURES + 3):
        contact.failed("connection refused")
    away.append(contact.away)
    contact.succeeded(3.0, 0.001)
    away.append(contact.away)
    assert away == [True, False, True, False]
    assert changes == [False, True, False]
    assert len(caplog.messages) == 3, "one line a change"


def test_a_redis_that_is_not_there_at_the_start_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    contact = Contact()
    for _ in range(3):
        contact.failed("connection refused")
    assert len(caplog.messages) == 1
    assert "connection refused" in caplog.messages[0]


def test_one_late_answer_begins_the_time_anew_for_which_there_was_contact() -> None:
    contact = Contact()
    assert contact.steady_s(10.0) == 0
    contact.succeeded(10.0, 0.001)
    contact.succeeded(11.0, 0.001)
    assert contact.steady_s(14.0) == 4
    contact.failed("it did not answer in time")
    assert contact.steady_s(14.0) == 0
    contact.succeeded(15.0, 0.001)
    assert contact.steady_s(16.0) == 1


def test_how_long_answers_took_is_told() -> None:
    took: list[float] = []
    Contact(took=took.append).succeeded(1.0, 0.25)
    assert took == [0.25]
