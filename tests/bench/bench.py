"""The service beside nginx's plain pass-through, in interleaved rounds: `python -m tests.bench.bench`.

Claude is behind TLS, as the real one is, and reached plainly beside it, in the same rounds. Everything is relative to nginx
in the same round, because machines drift and ratios hold. Run it on a machine that does nothing else; some 20 minutes.
`--quick` shows in two that all of it works, and measures nothing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from tests.bench.far import DISTANCES, Distance, far_away
from tests.bench.measures import MEMORY_STATES, cost, memory_kb, one_round
from tests.bench.peers.installed import peers
from tests.bench.picture import draw
from tests.bench.processes import BARE, TLS, WAYS, Contender, Upstream, nginx, service, upstream
from tests.bench.promises import broken_promises, placed
from tests.bench.ratios import Middle, Pair, Round, Summary, believable, summarise, summarise_far
from tests.bench.results import Results
from tests.support.long_link import can_be_made

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"
README = ROOT / "tests" / "README.md"
PARTS = ("paced", "alone", "bulk", "memory", "far")
RATE = 50.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        rounds: that must count.
        spare_rounds: that may be thrown out.
        streams: of the paced rounds.
        tokens: of each answer there.
        alone: streams of the service alone, reached plainly: more than two cores can drive in pairs.
        bulk: streams at full speed, and tokens of each.
        memory: streams held in each state.
        distances: of the Claudes that are far away.
    """

    rounds: int = 3
    spare_rounds: int = 3
    streams: tuple[int, ...] = (100, 400)
    tokens: int = 1000
    alone: int = 1000
    bulk: tuple[int, int] = (4, 20_000)
    memory: int = 1000
    distances: tuple[Distance, ...] = DISTANCES


QUICK = Size(
    rounds=1,
    spare_rounds=0,
    streams=(20,),
    tokens=100,
    alone=40,
    bulk=(2, 2000),
    memory=20,
    distances=(Distance(0.05, 400, 200),),
)


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
        chosen = set(parts)
        if chosen & {"paced", "alone", "bulk"}:
            self._beside_nginx(chosen)
        if "memory" in chosen:
            self._memory()
        if "far" in chosen:
            self._far()

    def _beside_nginx(self, parts: set[str]) -> None:
        with ExitStack() as stack:
            above = stack.enter_context(upstream())
            pairs: list[Contender] = []
            for way in WAYS:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                pairs.append(stack.enter_context(nginx(above, way, folder)))
                pairs.append(stack.enter_context(service(above, way)))
            if "paced" in parts:
                self._paced(above, pairs)
            if "alone" in parts:
                self._alone(above, next(one for one in pairs if one.way == BARE and one.name != "nginx"))
            if "bulk" in parts:
                streams, tokens = self._size.bulk
                self._results.bulk = self._rounds("full speed", pairs, above, streams, tokens, 0.0)

    def _paced(self, above: Upstream, pairs: list[Contender]) -> None:
        with tempfile.TemporaryDirectory() as folder, peers(above, TLS, Path(folder)) as others:
            if not others:
                self._results.missing.append("peers (`make bench PEERS=1` installs them)")
            for place, streams in enumerate(self._size.streams):
                # Peers saturate early; they are shown at the smallest size only, and as Claude is met: under TLS.
                contenders = [*pairs, *(others if place == 0 else [])]
                found = self._rounds(f"{streams} streams", contenders, above, streams, self._size.tokens, RATE)
                for way, those in found.items():
                    self._results.paced.setdefault(way, {})[streams] = those

    def _alone(self, above: Upstream, ours: Contender) -> None:
        found = self._results.paced.setdefault(ours.way, {})
        if self._size.alone in found:
            return  # it has run at this size beside nginx
        rounds: list[Round] = []
        for number in range(self._size.rounds):
            _say(f"{self._size.alone} streams, the service alone, round {number + 1}")
            rounds.append({ours.name: cost(ours, above, self._size.alone, self._size.tokens, RATE)})
        found[self._size.alone] = summarise(rounds)

    def _rounds(
        self, name: str, contenders: Sequence[Contender], above: Upstream, streams: int, tokens: int, rate: float
    ) -> dict[str, list[Summary]]:
        """By way; a round counts where both ways of it can be believed."""
        kept: list[Mapping[str, Round]] = []
        run = 0
        while len(kept) < self._size.rounds and run < self._size.rounds + self._size.spare_rounds:
            run += 1
            _say(f"{name}, round {run}")
            both = one_round(contenders, above, streams, tokens, rate, backwards=run % 2 == 0)
            if all(believable(round_) for round_ in both.values()):
                kept.append(both)
        if len(kept) < run:
            self._results.thrown_out[name] = run - len(kept)
        if len(kept) < self._size.rounds:
            self._results.missing.append(f"{name} ({self._size.rounds - len(kept)} rounds are lacking)")
        return {way: summarise([both[way] for both in kept]) for way in (kept[0] if kept else ())}

    def _memory(self) -> None:
        for way in WAYS:
            for state in MEMORY_STATES:
                found = []
                for number in range(self._size.rounds):
                    _say(f"memory, {self._size.memory} {state} streams, {way}, round {number + 1}")
                    with upstream() as above, service(above, way) as fresh:
                        found.append(memory_kb(fresh, above, state, self._size.memory))
                self._results.memory_kb.setdefault(way, {})[state] = Middle.of(found)

    def _far(self) -> None:
        if not can_be_made():
            self._results.missing.append("far away (a long link needs root and /dev/net/tun)")
            return
        for distance in self._size.distances:
            pairs: dict[str, list[Pair]] = {way: [] for way in WAYS}
            with far_away(distance) as far:
                for number in range(self._size.rounds):
                    for way in WAYS:
                        _say(f"{distance}, {way}, round {number + 1}")
                        pairs[way].append(far.pair(way, straight_first=number % 2 == 1))
            for way, found in pairs.items():
                self._results.far.setdefault(way, {})[str(distance)] = summarise_far(str(distance), found)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option("--quick", is_flag=True, help="Two minutes' smoke test instead of a measurement.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; may be repeated.")
@click.option("--streams", type=click.IntRange(1), multiple=True, help="Paced rounds at these sizes [100 400].")
@click.option("--rounds", type=click.IntRange(1), help="Rounds that must count [3].")
@click.option("--memory-streams", type=click.IntRange(1), help="Streams held for the memory [1000].")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Folder of the results.")
def main(
    quick: bool,
    parts: tuple[str, ...],
    streams: tuple[int, ...],
    rounds: int | None,
    memory_streams: int | None,
    out: Path,
) -> None:
    """Measure the service beside nginx's pass-through; exit status 1 where a promised bound is not kept.

    A whole run with the results in their own folder renews table and picture in `tests/README.md`.
    """
    chosen = QUICK if quick else Size()
    size = replace(
        chosen,
        rounds=rounds or chosen.rounds,
        streams=streams or chosen.streams,
        memory=memory_streams or chosen.memory,
    )
    results = Results(datetime.now(UTC).isoformat(timespec="seconds"), quick)
    Benchmark(size, results).run(parts or PARTS)
    table = results.write(out)
    draw(results, table.with_suffix(".png"))
    click.echo(results.table())
    click.echo(f"Written: {table} and beside it")
    if not quick and not parts and out == RESULTS:
        stem = str(table.with_suffix("").relative_to(README.parent))
        README.write_text(placed(README.read_text("utf-8"), results, stem), "utf-8")
    if broken := broken_promises(results):
        sys.exit("Not kept: " + "; ".join(broken))


if __name__ == "__main__":
    main()
