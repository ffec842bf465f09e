"""What a bench's rounds amount to, what is promised of them, and how they are shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.bench import README, RESULTS
from tests.bench.far import text_of
from tests.bench.picture import draw
from tests.bench.processes import BARE, TLS
from tests.bench.promises import BEGIN, END, FAR, NEAR, broken_promises, placed, readme_table
from tests.bench.ratios import Answer, Cost, Middle, Round, Summary, believable, summarise, summarise_far
from tests.bench.results import Results

NGINX = Cost("nginx", 400, 0, 15, 19_000, 1.0, 141, 3, 10, 20, 25, 2)
OURS = Cost("sluiceway", 400, 0, 15, 19_000, 1.0, 20, 4, 20, 100, 110, 2)
LATE = replace(NGINX, gap_p50_ms=23.0)
KIND = {"cpu": "An Ä/CPU", "cores": 2, "kernel": "6", "python": "3", "load": 0.1}
STRAIGHT = {"straight": Answer(0.6, 5.6), "sluiceway": Answer(0.2, 5.25)}


def round_of(nginx_us: float, ours_us: float, base: Cost = NGINX) -> Round:
    return {"nginx": replace(base, cpu_us=nginx_us), "sluiceway": replace(OURS, cpu_us=ours_us)}


def kept_promises() -> Results:
    """Everything measured, both ways, and every bound kept."""
    results = Results("2026-11-22T10:00:00+00:00", quick=False, machine=dict(KIND))
    for way in (TLS, BARE):
        results.paced[way] = {
            100: summarise([round_of(20, 24)]),
            400: summarise([round_of(15, 16.5), round_of(10, 10), round_of(20, 21)]),
        }
        results.memory_kb[way] = {state: Middle.of([44, 45]) for state in ("idle", "streaming", "stalled")}
        results.far[way] = {name: summarise_far(name, [STRAIGHT]) for name in (FAR, NEAR)}
    return results


def ours(results: Results) -> Summary:
    return next(one for one in results.paced[TLS][400] if one.contender == "sluiceway")


def test_the_ratio_is_the_median_of_ratios_within_rounds() -> None:
    """Not the ratio of medians: a machine that is slow in one round is slow for both."""
    ratio = ours(kept_promises()).ratio
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.05, 1.0, 1.1))


def test_a_round_in_which_the_load_generator_fell_behind_does_not_count() -> None:
    found = summarise([round_of(15, 18), round_of(1, 100, LATE), round_of(15, 18)])
    assert {one.rounds for one in found} == {2}
    assert not believable(round_of(1, 1, LATE))
    assert not believable(round_of(1, 1, replace(NGINX, failed=1)))
    with pytest.raises(ValueError, match="fell behind in every round"):
        summarise([round_of(1, 1, LATE)])


def test_without_nginx_there_is_no_ratio() -> None:
    [alone] = summarise([{"sluiceway": OURS}])
    assert (alone.ratio, alone.ttft_p50_more_ms) == (None, None)
    assert str(alone.figures["cpu_us"]) == "15"


def test_far_answers_are_compared_pair_by_pair() -> None:
    """In all, and from the first byte on: a warm connection must not hide a slow flow."""
    slow = {"straight": Answer(0.6, 5.6), "sluiceway": Answer(0.2, 6.2)}
    found = summarise_far(FAR, [STRAIGHT, slow, slow])
    assert found.ratio.median == pytest.approx(6.2 / 5.6)
    assert found.flow_ratio.median == pytest.approx(6.0 / 5.0)
    assert found.first_s["sluiceway"].median == 0.2


def test_kept_promises_are_not_reported() -> None:
    assert broken_promises(kept_promises()) == []
    assert broken_promises(Results("2026", quick=True)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cpu_us": 16.6}, "× nginx, 400 streams, plain: 1.11, bound 1.1"),
        ({"ttft_p50_ms": 6.1}, "first token, median"),
        ({"ttft_p99_ms": 36.0}, "first token, 99th"),
        ({"gap_p99_ms": 151.0}, "gap, 99th"),
        ({"delivered": 0.9999}, "delivered at 400 streams, plain"),
        ({"failed": 1}, "failed at 400 streams, plain: 1"),
    ],
)
def test_a_broken_promise_is_told_with_its_way(change: dict[str, float], told: str) -> None:
    results = kept_promises()
    results.paced[BARE][400] = summarise([{"nginx": NGINX, "sluiceway": replace(OURS, **change)}])  # type: ignore[arg-type]
    [broken] = broken_promises(results)
    assert told in broken


def test_the_bound_of_memory_is_another_one_under_tls() -> None:
    results = kept_promises()
    for way in (TLS, BARE):
        results.memory_kb[way]["stalled"] = Middle.of([70])
    [broken] = broken_promises(results)
    assert "stalled one, kB, plain: 70, bound 52" in broken


def test_a_slow_answer_from_afar_is_told() -> None:
    results = kept_promises()
    results.far[TLS][NEAR] = summarise_far(NEAR, [{"straight": Answer(0.2, 4.0), "sluiceway": Answer(0.1, 4.3)}])
    [broken] = broken_promises(results)
    assert "80 ms away, TLS: 1.07, bound 1.05" in broken


def test_more_streams_must_not_make_a_token_dearer() -> None:
    results = kept_promises()
    for cpu_us, broken in ((18.0, 0), (23.0, 1)):
        results.paced[BARE][1000] = summarise([{"sluiceway": replace(OURS, streams=1000, cpu_us=cpu_us)}])
        assert len(broken_promises(results)) == broken


def test_results_are_written_as_json_table_and_picture(tmp_path: Path) -> None:
    results = kept_promises()
    results.bulk[TLS] = summarise([{"nginx": NGINX, "sluiceway": OURS}])
    results.memory_kb[TLS]["stalled"] = Middle.of([50, 60, 55])
    results.thrown_out["400 streams"] = 1
    table = results.write(tmp_path)
    assert table.name == "2026-11-22-2-core-an-cpu.md"
    text = table.read_text("utf-8")
    assert "| sluiceway | 16.5 (10–21) | 1.05 (1–1.1) | 100.00% | 0 |" in text
    assert "| stalled | 55 (50–60) | 44.5 (44–45) |" in text
    assert "| 400 tokens/s, 200 ms away, TLS | sluiceway | 0.2 | 5.25 | 0.938 | 1.01 |" in text
    assert "Thrown out at 400 streams: 1" in text
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_results_can_be_read_again(tmp_path: Path) -> None:
    written = kept_promises()
    written.bulk[BARE] = summarise([{"nginx": NGINX, "sluiceway": OURS}])
    table = written.write(tmp_path)
    assert Results.from_json(json.loads(table.with_suffix(".json").read_text("utf-8"))) == written


def test_a_machine_that_is_not_quiet_is_told() -> None:
    busy = replace(kept_promises(), machine=KIND | {"load": 6.1})
    assert "not quiet: its load was 6.1 before it began" in busy.about
    assert "not quiet" not in kept_promises().about


def test_the_readme_has_the_promises_peers_and_the_picture() -> None:
    results = kept_promises()
    peer = replace(OURS, contender="Peer", cpu_us=150)
    results.paced[TLS][100] = summarise([{"nginx": NGINX, "sluiceway": OURS, "Peer": peer}])
    page = placed(f"before\n{BEGIN}\nold\n{END}\nafter", results, "folder/stem")
    assert "| memory of a stalled one, kB | ≤ 90 / 52 | 44.5 (44–45) | 44.5 (44–45) |" in page
    assert "| Peer: CPU a token, × nginx, 100 streams | | 10 | – |" in page
    assert page.startswith("before\n")
    assert page.endswith("![The bench's figures](folder/stem.png)\n<!-- /bench -->\nafter")


def test_the_readme_says_what_the_newest_results_say() -> None:
    newest = max(path for path in RESULTS.glob("20*.json") if not path.stem.endswith("-quick"))
    results = Results.from_json(json.loads(newest.read_text("utf-8")))
    page = README.read_text("utf-8")
    assert placed(page, results, str(newest.with_suffix("").relative_to(README.parent))) == page
    assert readme_table(results) in page
    assert newest.with_suffix(".png").exists()


def test_the_text_of_both_protocols_is_read() -> None:
    plain = b'id: 1\ndata: {"text":" a"}\n\n: keep-alive\n\nid: 2\ndata: {"text":"b"}\n\nid: 3\ndata: {"done":true}\n\n'
    messages = b'event: x\ndata: {"type": "content_block_delta", "delta": {"type": "text_delta", "text": " ab"}}\n\n'
    assert text_of(plain) == text_of(messages) == " ab"
