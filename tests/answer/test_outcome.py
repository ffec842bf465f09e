"""What ends a stream that failed: Claude's own 4xx for a wrong request is rejected, everything else is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.answer.outcome import Outcome
from app.answer.refusals import refusal
from app.errors import InternalError, SluicewayError, UpstreamCut, UpstreamTimeout, UpstreamUnreachable


def said(kind: str, **details: str) -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "message": "…"}
    return {"type": "error", "error": error | ({"details": details} if details else {})}


REJECTED = [
    pytest.param(said("invalid_request_error"), 400, id="a wrong field"),
    pytest.param(said("not_found_error"), 404, id="an unknown model"),
    pytest.param(said("request_too_large"), 413, id="too large"),
    pytest.param({}, 413, id="too large, said by what stands before Claude"),
    pytest.param({}, 400, id="refused without Claude's body"),
    pytest.param({}, 431, id="headers too large"),
    pytest.param(said("invalid_request_error"), 422, id="422"),
    pytest.param(said("invalid_request_error"), None, id="as the first event"),
]
OURS_OR_CLAUDES = [
    pytest.param(said("authentication_error"), 401, id="the operator's key"),
    pytest.param(said("billing_error"), 402, id="the operator's bill"),
    pytest.param(said("permission_error"), 403, id="what the operator's key may"),
    pytest.param({}, 404, id="a wrong base URL"),
    pytest.param(said("timeout_error"), 408, id="408"),
    pytest.param(said("conflict_error"), 409, id="409"),
    pytest.param(said("rate_limit_error"), 429, id="429"),
    pytest.param(said("rate_limit_error", error_code="enforced_spend_limit_reached"), 429, id="spend limit as 429"),
    pytest.param(said("invalid_request_error", error_code="enforced_spend_limit_reached"), 400, id="and as 400"),
    pytest.param(said("api_error"), 500, id="500"),
    pytest.param(said("overloaded_error"), 529, id="529"),
    pytest.param(said("overloaded_error"), None, id="overloaded in mid-stream"),
    pytest.param(said("a_new_error"), None, id="a new type in mid-stream"),
]


@pytest.mark.parametrize(("body", "status"), REJECTED)
def test_a_request_that_is_wrong_is_rejected(body: dict[str, Any], status: int | None) -> None:
    assert Outcome.of(refusal(json.dumps(body).encode(), status), began=False) is Outcome.REJECTED


@pytest.mark.parametrize(("body", "status"), OURS_OR_CLAUDES)
def test_what_no_caller_can_mend_is_an_error(body: dict[str, Any], status: int | None) -> None:
    assert Outcome.of(refusal(json.dumps(body).encode(), status), began=False) is Outcome.UPSTREAM_ERROR


@pytest.mark.parametrize(("body", "status"), [*REJECTED, *OURS_OR_CLAUDES])
def test_once_claude_has_begun_it_is_an_error_whatever_it_is_called(body: dict[str, Any], status: int | None) -> None:
    assert Outcome.of(refusal(json.dumps(body).encode(), status), began=True) is Outcome.UPSTREAM_ERROR


@pytest.mark.parametrize("error", [UpstreamCut(""), UpstreamTimeout(""), UpstreamUnreachable("")])
@pytest.mark.parametrize("began", [False, True])
def test_a_broken_way_is_an_error(error: SluicewayError, began: bool) -> None:
    assert Outcome.of(error, began=began) is Outcome.UPSTREAM_ERROR


def test_a_defect_of_ours_is_an_internal_error() -> None:
    assert Outcome.of(InternalError(""), began=False) is Outcome.INTERNAL_ERROR
