"""The service beside nginx's plain pass-through, in interleaved rounds: `python -m tests.bench.bench`.

Everything is relative to nginx in the same round, because machines drift and ratios hold. Run it on a machine that does
nothing else; about 20 minutes. `--quick` shows in a minute that all of it works, and measures nothing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from tests.bench.measures import MEMORY_STATES, cost, memory_kb, one_round
from tests.bench.processes import Contender, Upstream, nginx, peers, service, upstream
from tests.bench.ratios import Middle, Round, Summary, believable, summarise
from tests.bench.results import Results

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("paced", "alone", "bulk", "memory")
RATE = 50.0
WIDE = {"SLUICEWAY_WINDOW_S": "0.2"}
# The bounds promised at this many streams: CPU to nginx's, ms above nginx's, gaps in windows of 100 ms.
PROMISED_AT = 400
CPU_BOUND, TTFT_P50_MORE_MS, TTFT_P99_MORE_MS, GAP_P99_MS = 1.3, 3.0, 25.0, 150.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        rounds: that must count.
        spare_rounds: that may be thrown out.
        streams: of the paced rounds.
        tokens: of each answer there.
        alone: streams of the service alone, the last of `streams` among them for comparison.
        bulk: streams at full speed, and tokens of each.
        memory: streams held in each state.
    """

    rounds: int = 3
    spare_rounds: int = 3
    streams: tuple[int, ...] = (100, 400)
    tokens: int = 1000
    alone: int = 1000
    bulk: tuple[int, int] = (4, 20_000)
    memory: int = 400


QUICK = Size(rounds=1, spare_rounds=0, streams=(20,), tokens=100, alone=40, bulk=(2, 2000), memory=20)


class Benchmark:
    """One run.

    Args:
        size: how much is measured.
        results: where it is put.
    """

    def __init__(self, size: Size, results: Results) -> None:
        self._size = size
        self._results = results

    def run(self, parts: Iterable[str]) -> None:
        """Measures these parts, one after the other."""
        with ExitStack() as stack:
            above = stack.enter_context(upstream())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            base = stack.enter_context(nginx(above, folder))
            ours = stack.enter_context(service(above))
            if "paced" in parts:
                self._paced(above, base, ours)
            if "alone" in parts:
                self._alone(above, ours)
            if "bulk" in parts:
                streams, tokens = self._size.bulk
                self._results.bulk = self._rounds("full speed", [base, ours], above, streams, tokens, 0.0)
        if "memory" in parts:
            self._memory()

    def _paced(self, above: Upstream, base: Contender, ours: Contender) -> None:
        with service(above, "sluiceway, 200 ms window", WIDE) as wide, peers(above) as others:
            if not others:
                self._results.missing.append("peers (FastAPI, sse-starlette and uvicorn are not installed)")
            for place, streams in enumerate(self._size.streams):
                # Peers saturate early; they are shown at the smallest size only.
                contenders = [base, ours, wide, *(others if place == 0 else [])]
                name = f"{streams} streams"
                found = self._rounds(name, contenders, above, streams, self._size.tokens, RATE)
                if found:
                    self._results.paced[streams] = found

    def _alone(self, above: Upstream, ours: Contender) -> None:
        if self._size.alone in self._results.paced:
            return  # it has run at this size beside nginx
        rounds: list[Round] = []
        for number in range(self._size.rounds):
            _say(f"{self._size.alone} streams, the service alone, round {number + 1}")
            rounds.append({ours.name: cost(ours, above, self._size.alone, self._size.tokens, RATE)})
        self._results.paced[self._size.alone] = summarise(rounds)

    def _rounds(
        self, name: str, contenders: Sequence[Contender], above: Upstream, streams: int, tokens: int, rate: float
    ) -> list[Summary]:
        rounds: list[Round] = []
        kept = 0
        while kept < self._size.rounds and len(rounds) < self._size.rounds + self._size.spare_rounds:
            _say(f"{name}, round {len(rounds) + 1}")
            backwards = len(rounds) % 2 == 1
            rounds.append(one_round(contenders, above, streams, tokens, rate, backwards=backwards))
            kept += believable(rounds[-1])
        if kept < len(rounds):
            self._results.thrown_out[name] = len(rounds) - kept
        if kept < self._size.rounds:
            self._results.missing.append(f"{name} ({self._size.rounds - kept} rounds are lacking)")
        return summarise(rounds) if kept else []

    def _memory(self) -> None:
        for state in MEMORY_STATES:
            found = []
            for number in range(self._size.rounds):
                _say(f"memory, {self._size.memory} {state} streams, round {number + 1}")
                with upstream() as above, service(above) as fresh:
                    found.append(memory_kb(fresh, above, state, self._size.memory))
            self._results.memory_kb[state] = Middle.of(found)


def broken_promises(results: Results) -> list[str]:
    """The bounds that the results do not keep; empty where they were not measured."""
    broken = []
    for one in results.paced.get(PROMISED_AT, []):
        if one.contender != "sluiceway" or one.ratio is None or one.ttft_p50_more_ms is None:
            continue
        assert one.ttft_p99_more_ms is not None, "both are known, or neither"
        for name, value, bound in (
            ("CPU a token, × nginx", one.ratio.median, CPU_BOUND),
            ("TTFT p50 above nginx, ms", one.ttft_p50_more_ms.median, TTFT_P50_MORE_MS),
            ("TTFT p99 above nginx, ms", one.ttft_p99_more_ms.median, TTFT_P99_MORE_MS),
            ("gap p99, ms", one.figures["gap_p99_ms"].median, GAP_P99_MS),
        ):
            if value > bound:
                broken.append(f"{name}: {value:.3g}, bound {bound:g}")
        if one.figures["delivered"].low < 1:
            broken.append(f"delivered: {one.figures['delivered'].low:.4%}")
        for more, found in results.paced.items():
            if more > PROMISED_AT and (dearer := _cpu_us(found).median) > _cpu_us([one]).high:
                broken.append(f"CPU a token at {more} streams, µs: {dearer:.3g}, at 400 {_cpu_us([one])}")
    return broken


def _cpu_us(found: Sequence[Summary]) -> Middle:
    return next(one.figures["cpu_us"] for one in found if one.contender == "sluiceway")


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option("--quick", is_flag=True, help="A minute's smoke test instead of a measurement.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; may be repeated.")
@click.option("--streams", type=click.IntRange(1), multiple=True, help="Paced rounds at these sizes [100 400].")
@click.option("--rounds", type=click.IntRange(1), help="Rounds that must count [3].")
@click.option("--memory-streams", type=click.IntRange(1), help="Streams held for the memory [400].")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Folder of the results.")
def main(
    quick: bool,
    parts: tuple[str, ...],
    streams: tuple[int, ...],
    rounds: int | None,
    memory_streams: int | None,
    out: Path,
) -> None:
    """Measure the service beside nginx's pass-through; exit status 1 where a promised bound is not kept."""
    chosen = QUICK if quick else Size()
    size = Size(
        rounds=rounds or chosen.rounds,
        spare_rounds=chosen.spare_rounds,
        streams=streams or chosen.streams,
        tokens=chosen.tokens,
        alone=chosen.alone,
        bulk=chosen.bulk,
        memory=memory_streams or chosen.memory,
    )
    results = Results(datetime.now(UTC).isoformat(timespec="seconds"), quick)
    Benchmark(size, results).run(parts or PARTS)
    table = results.write(out)
    click.echo(results.table())
    click.echo(f"Written: {table} and beside it")
    broken = broken_promises(results)
    if broken:
        sys.exit("Not kept at 400 streams: " + "; ".join(broken))


if __name__ == "__main__":
    main()
