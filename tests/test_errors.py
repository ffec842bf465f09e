"""The errors: a status and a wire code for each, and no more told than a caller may know."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from app import errors
from app.errors import BadRequest, SluicewayError, UpstreamRefused


def family(of: type[SluicewayError]) -> Iterator[type[SluicewayError]]:
    for child in of.__subclasses__():
        yield child
        yield from family(child)


EVERY: list[type[SluicewayError]] = [SluicewayError, *family(SluicewayError)]


@pytest.mark.parametrize("error", EVERY, ids=[error.__name__ for error in EVERY])
def test_each_has_a_status_a_wire_code_and_a_sentence(error: type[SluicewayError]) -> None:
    assert 400 <= error.status < 600
    assert re.fullmatch("[a-z]+(_[a-z]+)*", error.type)
    assert (error.__doc__ or "").strip().split("\n")[0].endswith(".")


def test_the_family_tree_on_the_page_is_the_family() -> None:
    tree = (errors.__doc__ or "").split("\n\n")[1]
    names = {error.__name__ for error in EVERY if error.__module__ == errors.__name__}
    assert names <= set(re.findall(r"\w+", tree))
    assert set(re.findall(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+", tree)) <= names


def test_the_statuses_on_the_page_are_the_statuses() -> None:
    told = re.findall(r"([A-Z]\w+) (\d{3})", errors.__doc__ or "")
    assert told
    for name, status in told:
        assert getattr(errors, name).status == int(status)


def test_the_callers_own_faults_are_not_to_be_tried_again() -> None:
    for error in family(errors.CallerError):
        assert error.status < 500
        assert error.retryable is (error.status == 429)


def test_an_error_is_told_by_message_code_and_whether_to_try_again() -> None:
    assert errors.UpstreamCut("cut").as_dict() == {
        "error": "cut",
        "type": "upstream_cut",
        "retryable": True,
        "source": "upstream",
    }


def test_the_field_at_fault_is_told_where_there_is_one() -> None:
    assert BadRequest("bad", field="model").as_dict() == {
        "error": "bad",
        "type": "invalid_request_error",
        "retryable": False,
        "source": "service",
        "field": "model",
    }


def test_what_claude_refused_keeps_its_status_and_code() -> None:
    error = UpstreamRefused(
        "busy", type="overloaded_error", status=529, retryable=True, retry_after_s=3, request_id="req_1"
    )
    assert (error.status, error.type, error.retry_after_s, error.request_id) == (529, "overloaded_error", 3, "req_1")
    assert error.as_dict() == {
        "error": "busy",
        "type": "overloaded_error",
        "retryable": True,
        "source": "upstream",
    }
    assert str(error) == "busy"
    assert (UpstreamRefused.status, UpstreamRefused.type) == (502, "api_error")  # the class is left as it is


def test_who_is_at_fault_before_anything_was_started_is_refused_for_a_reason_of_its_own() -> None:
    refused = [error for error in EVERY if error.refusal is not None]
    assert {*family(errors.CallerError), errors.Overloaded, errors.Lagging, errors.Draining} <= set(refused)
    assert not [error for error in (errors.UpstreamError, *family(errors.UpstreamError)) if error in refused]
    # A token whose issuer's keys cannot be had is, like a wrong one, nobody's.
    reasons = [error.refusal for error in refused if error is not errors.KeysUnreachable]
    assert len(set(reasons) - {errors.Refusal.INVALID}) == len([r for r in reasons if r is not errors.Refusal.INVALID])


def test_a_stream_that_was_ended_is_not_refused_too() -> None:
    """Its outcome counts it: `stopped`, `taken_over`, `shutdown`, `internal_error`."""
    for error in (errors.Stopped, errors.TakenOver, errors.ShuttingDown, errors.InternalError):
        assert error.refusal is None


def test_whose_word_an_error_is_is_told() -> None:
    """An operator's wrong key at Claude and a visitor's wrong key here have one code, and one may be mended here."""
    for error in EVERY:
        assert (error.source == "upstream") is issubclass(error, errors.UpstreamError)
