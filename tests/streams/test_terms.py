"""Whose a stream is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.access.callers import Caller, Token
from app.streams.terms import Terms, is_of

TERMS = Terms("st_1", "acme", "claude", subject="ann", token_id="t1")
ANN, BOB = Token("t1", "ann"), Token("t2", "bob")


@pytest.mark.parametrize(
    ("caller", "running", "ended"),
    [
        (Caller(name="acme"), True, True),
        (Caller(name="other"), False, False),
        (Caller(name="acme", token=ANN), True, True),
        (Caller(name="acme", token=replace(ANN, token_id="t9")), True, True),
        (Caller(name="acme", token=BOB), False, False),
        (Caller(name="other", token=ANN), False, False),
        (Caller(name="acme", token=replace(ANN, expired=True)), True, False),
        (Caller(name="acme", token=replace(ANN, token_id="t9", expired=True)), False, False),
        (Caller(name="other", token=replace(ANN, expired=True)), False, False),
    ],
    ids=[
        "its caller's key",
        "another caller's key",
        "its own token",
        "another token of its subject",
        "another subject's token",
        "another caller's token of that name",
        "its own token, expired",
        "another token of its subject, expired",
        "another caller's token of that name, expired",
    ],
)
def test_a_stream_is_its_callers_its_subjects_and_for_an_expired_token_its_own_while_it_runs(
    caller: Caller, running: bool, ended: bool
) -> None:
    assert (is_of(caller, TERMS, runs=True), is_of(caller, TERMS, runs=False)) == (running, ended)
