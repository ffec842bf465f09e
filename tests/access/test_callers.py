"""The callers file: what each table means, and how a wrong one is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.access.callers import Caller, Limits, Roster, lost_tables, parse_callers

ROOT = Path(__file__).resolve().parent.parent.parent
WHOLE = """
[limits]
streams = 1000
budget_usd_per_month = 3000

[default]
max_tokens = 32_000
grace_max_s = 90

[callers.acme]
models = ["claude-haiku-*"]
max_tokens = 8000
streams = 20
requests_per_minute = 60
output_tokens_per_minute = 80_000
budget_usd_per_day = 5.00
budget_usd_per_month = 0.000000001
policies = ["abort", "grace"]
grace_max_s = 60.5
upstream_passthrough = false

[callers.other]
"""


def test_a_callers_table_says_all_that_it_may() -> None:
    assert parse_callers(WHOLE).callers["acme"] == Caller(
        name="acme",
        models=("claude-haiku-*",),
        max_tokens=8000,
        streams=20,
        requests_per_minute=60,
        output_tokens_per_minute=80_000,
        budget_nano_usd_per_day=5_000_000_000,
        budget_nano_usd_per_month=1,
        policies=frozenset({"abort", "grace"}),
        grace_max_s=60.5,
        upstream_passthrough=False,
    )


def test_what_it_does_not_say_the_default_says() -> None:
    roster = parse_callers(WHOLE)
    other = roster.callers["other"]
    assert (other.max_tokens, other.grace_max_s, other.streams, other.models) == (32_000, 90.0, None, None)
    assert (roster.default.name, roster.default.max_tokens) == ("", 32_000)


def test_what_bounds_all_together_stands_for_itself() -> None:
    assert parse_callers(WHOLE).limits == Limits(streams=1000, budget_nano_usd_per_month=3000 * 10**9)


def test_an_empty_file_knows_nobody_and_lets_nobody_drain() -> None:
    roster = parse_callers("")
    assert (roster.callers, roster.limits) == ({}, Limits())
    assert roster.default == Caller(policies=frozenset({"abort", "grace"}))


@pytest.mark.parametrize("named", ["abort", "grace", "drain"])
def test_a_policy_is_there_where_it_is_named_and_abort_always(named: str) -> None:
    (caller,) = parse_callers(f'[callers.a]\npolicies = ["{named}"]').callers.values()
    assert caller.policies == {"abort", named}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("[callers.a]", True),
        ("[callers.a]\nbudget_usd_per_day = 1", False),
        ("[callers.a]\nbudget_usd_per_month = 0", False),
        ("[limits]\nbudget_usd_per_month = 1\n[callers.a]", False),
        ("[limits]\nbudget_usd_per_month = 1\n[callers.a]\nupstream_passthrough = true", True),
        ("[default]\nupstream_passthrough = false\n[callers.a]", False),
    ],
)
def test_what_is_not_booked_passes_only_where_no_budget_is_gone_around(text: str, passes: bool) -> None:
    assert parse_callers(text).callers["a"].upstream_passthrough is passes
    assert parse_callers(text).callers["a"].budget_closes is (not passes and "upstream_passthrough" not in text)


@pytest.mark.parametrize("usd", ["0.1", "25.000000000000004", "4.35"])
def test_a_budget_is_no_float(usd: str) -> None:
    table = f"[callers.a]\nbudget_usd_per_day = {usd}"
    if len(usd) > 15:
        with pytest.raises(ValueError, match=r"^\[callers\.a\] budget_usd_per_day: .*9 decimal places"):
            parse_callers(table)
    else:
        assert parse_callers(table).callers["a"].budget_nano_usd_per_day == {"0.1": 10**8, "4.35": 435 * 10**7}[usd]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[callers.a]\nstreams = 0", "[callers.a] streams: Input should be greater than or equal to 1"),
        ("[callers.a]\nstreams = 1.5", "[callers.a] streams: "),
        ("[callers.a]\nstreams = true", "[callers.a] streams: "),
        ('[callers.a]\nstreams = "5"', "[callers.a] streams: "),
        (
            "[callers.a]\nmax_tokens = 1_000_001",
            "[callers.a] max_tokens: Input should be less than or equal to 1000000",
        ),
        ("[callers.a]\nbudget_usd_per_day = -1", "[callers.a] budget_usd_per_day: Input should be greater than or eq"),
        ("[callers.a]\nbudget_usd_per_day = nan", "[callers.a] budget_usd_per_day: "),
        ("[callers.a]\nbudget_usd_per_day = inf", "[callers.a] budget_usd_per_day: "),
        ("[callers.a]\nbudget_usd_per_day = true", "[callers.a] budget_usd_per_day: it must be a number, "),
        (
            '[callers.a]\nbudget_usd_per_day = "5"',
            "[callers.a] budget_usd_per_day: it must be a number, such as 5 or 0.25",
        ),
        ('[callers.a]\ngrace_max_s = "5"', "[callers.a] grace_max_s: it must be a number, "),
        ("[callers.a]\nbudget_usd_per_day = []", "[callers.a] budget_usd_per_day: it must be a number, "),
        ("[callers.a]\ngrace_max_s = 0", "[callers.a] grace_max_s: Input should be greater than 0"),
        ("[callers.a]\nmodels = []", "[callers.a] models: "),
        ('[callers.a]\nmodels = "claude-*"', "[callers.a] models: "),
        ('[callers.a]\nmodels = ["a", 5]', "[callers.a] models[1]: "),
        ("[callers.a]\npolicies = []", "[callers.a] policies: "),
        ('[callers.a]\npolicies = ["keep"]', "[callers.a] policies[0]: Input should be 'abort', 'grace' or 'drain'"),
        ('[callers.a]\nupstream_passthrough = "no"', "[callers.a] upstream_passthrough: "),
        ("[callers.a]\nmax_token = 5", "[callers.a] unknown field 'max_token'; did you mean max_tokens?"),
        ("[callers.a]\nname = 5", "[callers.a] unknown field 'name'"),
        ("[callers.a.b]\nstreams = 5", "[callers.a] unknown field 'b'"),
        ("[limits]\nmax_tokens = 5", "[limits] unknown field 'max_tokens'"),
        ("[limits]\nstreams = 0", "[limits] streams: "),
        ("[default]\nstreams = 0", "[default] streams: "),
        ("[defaults]\nstreams = 5", "unknown field 'defaults'; did you mean default?"),
        ("streams = 5", "unknown field 'streams'"),
        ("[callers]\na = 5", "[callers.a]: it must be a table"),
        ("callers = 5", "[callers]: it must be a table"),
        ('[callers."a b"]', "[callers.'a b']: a caller's name has 1 to 64 letters"),
        ('[callers.""]', "[callers.'']: a caller's name"),
        ('[callers."-a"]', "[callers.'-a']: a caller's name"),
        (f"[callers.{'a' * 65}]", "[callers.'aaa"),
        ("[callers.a", "Expected ']'"),
    ],
)
def test_a_wrong_file_is_refused_by_table_field_and_bound(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        parse_callers(text)


def test_all_that_is_wrong_in_a_table_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"^\[callers\.a\] streams: .*; \[callers\.a\] max_tokens: "):
        parse_callers("[callers.a]\nstreams = 0\nmax_tokens = 0")


def test_a_value_that_is_refused_is_not_repeated() -> None:
    """It may be a key that was put into the wrong place."""
    with pytest.raises(ValueError, match=r"^\[callers\.a\] streams: ") as refused:
        parse_callers('[callers.a]\nstreams = "slw_secret"')
    assert "secret" not in str(refused.value)


def test_as_many_callers_as_a_file_may_have() -> None:
    tables = "\n".join(f"[callers.c{number}]" for number in range(10_001))
    with pytest.raises(ValueError, match=r"^\[callers\]: it has 10001 tables, and at most 10000"):
        parse_callers(tables)


def test_the_shipped_example_can_be_read_as_it_is_and_with_all_its_comments_taken() -> None:
    text = (ROOT / "config" / "callers.toml").read_text("utf-8")
    assert parse_callers(text).callers["acme"].models == ("claude-haiku-*",)
    lines = [
        line.removeprefix("# ") if (" = " in line and "callers_file" not in line) or line.startswith("# [") else line
        for line in text.splitlines()
    ]
    assert parse_callers("\n".join(lines)).limits.streams == 1000


BOUNDED = "[limits]\nstreams = 9\n[default]\nstreams = 2\n[callers.a]\n[callers.b]\n"


@pytest.mark.parametrize(
    ("before", "after", "names", "lost"),
    [
        (BOUNDED, BOUNDED, ["a", "b"], []),
        (BOUNDED, BOUNDED.removesuffix("[callers.b]\n"), ["a", "b"], ["[callers.b]"]),
        (BOUNDED, BOUNDED.removesuffix("[callers.b]\n"), ["a"], []),  # made keys of b are refused without a table
        (BOUNDED, "[limits]\nstreams = 1\n[default]\nstreams = 1\n", [], ["[callers]"]),
        (BOUNDED, "", [], ["[callers]", "[limits]", "[default]"]),
        (BOUNDED, "[callers.b]", ["c"], ["[limits]", "[default]"]),
        (BOUNDED, "[limits]\nbudget_usd_per_day = 1\n[callers.b]", [], ["[default]"]),
        ("[limits]\nbudget_usd_per_day = 1\n[callers.b]", "[callers.b]", [], ["[limits]"]),
        ("", "", ["a"], []),
        ("[callers.a]", "[callers.b]", [], []),
        ("", BOUNDED, ["a"], []),
    ],
)
def test_what_a_file_has_lost_is_what_bounded_callers_who_may_still_call(
    before: str, after: str, names: list[str], lost: list[str]
) -> None:
    assert lost_tables(parse_callers(before).tables, parse_callers(after).tables, names) == lost
    assert lost_tables(Roster().tables, parse_callers(after).tables, names) == []
