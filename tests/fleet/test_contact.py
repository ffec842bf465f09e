"""When Redis counts as away, and who may judge others by it."""

from __future__ import annotations

import logging

import pytest

from app.fleet.contact import FAILURES, Contact, RedisAway, RedisRefused, RedisUnfit


def test_redis_is_away_until_it_first_answers_and_then_after_three_failures_in_a_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: list[bool] = []
    caplog.set_level(logging.INFO)
    contact = Contact(changes.append)
    away = [contact.away]
    contact.succeeded(1.0, 0.001)
    for _ in range(FAILURES - 1):
        contact.failed(RedisAway("it did not answer in time"))
    away.append(contact.away)
    contact.succeeded(2.0, 0.001)
    for _ in range(FAILURES + 3):
        contact.failed(RedisAway("connection refused"))
    away.append(contact.away)
    contact.succeeded(3.0, 0.001)
    away.append(contact.away)
    assert away == [True, False, True, False]
    assert changes == [False, True, False]
    assert len(caplog.messages) == 3, "one line a change"


def test_a_redis_that_is_not_there_at_the_start_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    contact = Contact()
    for _ in range(3):
        contact.failed(RedisAway("connection refused"))
    assert len(caplog.messages) == 1
    assert "connection refused" in caplog.messages[0]


def test_a_redis_that_comes_back_and_lets_nobody_in_is_told_of_once_besides(caplog: pytest.LogCaptureFixture) -> None:
    contact = Contact()
    contact.failed(RedisAway("connection refused"))
    for _ in range(3):
        contact.failed(RedisUnfit("it does not take redis_url"))
        contact.failed(RedisAway("it did not answer in time"))
    assert len(caplog.messages) == 2
    assert "redis_url" in caplog.messages[1]
    contact.succeeded(1.0, 0.001)
    for _ in range(FAILURES + 1):
        contact.failed(RedisUnfit("it does not take redis_url"))
    assert len(caplog.messages) == 4, "one as it goes away"


def test_one_late_answer_begins_the_time_anew_for_which_there_was_contact() -> None:
    contact = Contact()
    assert contact.steady_s(10.0) == 0
    contact.succeeded(10.0, 0.001)
    contact.succeeded(11.0, 0.001)
    assert contact.steady_s(14.0) == 4
    contact.failed(RedisAway("it did not answer in time"))
    assert contact.steady_s(14.0) == 0
    contact.succeeded(15.0, 0.001)
    assert contact.steady_s(16.0) == 1


def test_a_refusal_is_an_answer_and_leaves_open_who_lives() -> None:
    contact = Contact()
    assert contact.heard_s(10.0) == 0
    contact.succeeded(10.0, 0.001)
    contact.took_nothing("OOM")
    contact.succeeded(13.0, 0.001)
    assert (contact.heard_s(14.0), contact.steady_s(14.0)) == (4, 1)
    contact.failed(RedisAway("it did not answer in time"))
    assert contact.heard_s(14.0) == 0


def test_a_redis_that_takes_nothing_of_what_a_process_says_of_itself_is_told_once_a_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: list[bool] = []
    contact = Contact(changes.append)
    contact.succeeded(1.0, 0.001)
    contact.took_all()
    contact.took_nothing("NOPERM")
    contact.took_nothing("OOM")
    contact.refused("OOM")
    assert (contact.refuses_us, contact.troubled, contact.away) == ("OOM", True, False)
    contact.accepted()
    contact.took_all()
    contact.took_all()
    assert not contact.troubled
    assert changes == [False, True, True, True, False]
    assert ["(NOPERM)" in message for message in caplog.messages] == [True, False, False, False]


def test_how_long_answers_took_is_told() -> None:
    took: list[float] = []
    Contact(took=took.append).succeeded(1.0, 0.25)
    assert took == [0.25]


def test_a_redis_that_answers_and_refuses_is_told_once_a_change_also_where_it_goes_away_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: list[bool] = []
    contact = Contact(changes.append)
    contact.succeeded(1.0, 0.001)
    contact.accepted()
    contact.refused("OOM")
    contact.refused("MISCONF")
    assert (contact.refuses, contact.away) == ("MISCONF", False)
    for _ in range(FAILURES):
        contact.failed(RedisAway("connection refused"))
    contact.succeeded(2.0, 0.001)
    contact.accepted()
    contact.accepted()
    assert not contact.refuses
    assert changes == [False, True, True, True, False]
    assert ["(OOM)" in message for message in caplog.messages] == [True, False, False, False]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:2.", "OOM"),
        ("ERR Error running script (call to f_1f): @user_script:2: -OOM command not allowed", "OOM"),
        ("NOPERM User SECRET has no permissions to run the 'eval' command", "NOPERM"),
        ("ERR ACL failure in script: User SECRET has no permissions to run the 'expire' command", "NOPERM"),
        ("ERR The user executing the script can't run this command or subcommand script: 1f", "NOPERM"),
        ("MISCONF Redis is configured to save RDB snapshots, but", "MISCONF"),
        ("ERR value is not an integer", "ERR"),
        ("", "ERR"),
    ],
)
def test_why_redis_refuses_is_one_word_of_its_own(words: str, code: str) -> None:
    assert RedisRefused(words).code == code
