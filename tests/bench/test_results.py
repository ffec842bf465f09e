"""What a bench's rounds amount to, and how they are shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.bench import broken_promises
from tests.bench.ratios import Cost, Middle, Round, Summary, believable, summarise
from tests.bench.results import Results

NGINX = Cost("nginx", 400, 15, 19_000, 1.0, 141, 3, 10, 20, 25, 2)
OURS = Cost("sluiceway", 400, 18, 19_000, 1.0, 20, 4, 20, 100, 110, 2)
LATE = replace(NGINX, gap_p50_ms=23.0)


def round_of(nginx_us: float, ours_us: float, base: Cost = NGINX) -> Round:
    return {"nginx": replace(base, cpu_us=nginx_us), "sluiceway": replace(OURS, cpu_us=ours_us)}


def kept_promises() -> Results:
    results = Results(
        "2026-11-22T10:00:00+00:00", quick=False, machine={"cpu": "An Ä/CPU", "cores": 2, "kernel": "6", "python": "3"}
    )
    results.paced[400] = summarise([round_of(15, 18), round_of(10, 13), round_of(20, 22)])
    return results


def ours(results: Results) -> Summary:
    return next(one for one in results.paced[400] if one.contender == "sluiceway")


def test_the_ratio_is_the_median_of_ratios_within_rounds() -> None:
    """Not the ratio of medians: a machine that is slow in one round is slow for both."""
    ratio = ours(kept_promises()).ratio
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.2, 1.1, 1.3))


def test_a_round_in_which_the_load_generator_fell_behind_does_not_count() -> None:
    found = summarise([round_of(15, 18), round_of(1, 100, LATE), round_of(15, 18)])
    assert {one.rounds for one in found} == {2}
    assert not believable(round_of(1, 1, LATE))
    with pytest.raises(ValueError, match="fell behind in every round"):
        summarise([round_of(1, 1, LATE)])


def test_without_nginx_there_is_no_ratio() -> None:
    [alone] = summarise([{"sluiceway": OURS}])
    assert (alone.ratio, alone.ttft_p50_more_ms) == (None, None)
    assert str(alone.figures["cpu_us"]) == "18"


def test_kept_promises_are_not_reported() -> None:
    assert broken_promises(kept_promises()) == []
    assert broken_promises(Results("2026", quick=True)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cpu_us": 19.6}, "× nginx: 1.31"),
        ({"ttft_p50_ms": 6.1}, "TTFT p50"),
        ({"ttft_p99_ms": 36.0}, "TTFT p99"),
        ({"gap_p99_ms": 151.0}, "gap p99"),
        ({"delivered": 0.9999}, "delivered"),
    ],
)
def test_a_broken_promise_is_told(change: dict[str, float], told: str) -> None:
    results = kept_promises()
    results.paced[400] = summarise([{"nginx": NGINX, "sluiceway": replace(OURS, **change)}])  # type: ignore[arg-type]
    [broken] = broken_promises(results)
    assert told in broken


def test_more_streams_must_not_make_a_token_dearer() -> None:
    results = kept_promises()
    for cpu_us, broken in ((18.0, 0), (23.0, 1)):
        results.paced[1000] = summarise([{"sluiceway": replace(OURS, streams=1000, cpu_us=cpu_us)}])
        assert len(broken_promises(results)) == broken


def test_results_are_written_as_json_table_and_picture(tmp_path: Path) -> None:
    results = kept_promises()
    results.bulk = summarise([{"nginx": NGINX, "sluiceway": OURS}])
    results.memory_kb["stalled"] = Middle.of([50, 60, 55])
    results.thrown_out["400 streams"] = 1
    table = results.write(tmp_path)
    assert table.name == "2026-11-22-2-core-an-cpu.md"
    text = table.read_text("utf-8")
    assert "| sluiceway | 18 (13–22) | 1.2 (1.1–1.3) | 100.00% |" in text
    assert "| stalled | 55 (50–60) |" in text
    assert "Thrown out at 400 streams: 1" in text
    assert json.loads(table.with_suffix(".json").read_text("utf-8"))["paced"]["400"][0]["contender"] == "nginx"
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
