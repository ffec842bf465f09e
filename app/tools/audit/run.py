"""Audits the ledger's estimates against simulated streams whose truth is known: `python -m app.tools.audit`.

Pure simulation, seeded, without sockets or waiting: the real `Ledger` is fed the events of answers of known lengths, some
of which are abandoned on the way. The truth (tokens generated, tokens that would have come) is never shown to it.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import click

from ...answer.decoding import EventDecoder
from ...answer.events import ClaudeEvent, Delta, DeltaKind, Event
from ...answer.outcome import Outcome
from ...money.entry import Entry, Total
from ...money.ledger import Ledger
from ...money.prices import PriceFile, Prices, Upstream
from ...money.survival import ENOUGH_FINISHED
from .report import picture, report

MODEL = "simulated"
# Targets, as shares of the truth, and repetitions of a hundred whose 90 % interval covers it.
GENERATED_WITHIN = 0.05
AVOIDED_WITHIN = 0.10
COVERED_OF_100 = (85, 95)

# The provider that stops when it is told to; another would leave nothing to avoid.
PRICES = Prices(PriceFile(upstream={"anthropic": Upstream(bills="until_abort", source="", date=date.min)}))

# Seeds 0 to 99 served to choose the interval's factor (survival.T_90), so they are no evidence for it. These were seen
# too, by an earlier form of it: a fresh `--seed` is the cleanest check.
FIRST_SEED = 1000

# Characters a token, what text is made of, and how common: English, German, code, Russian, Chinese.
_LANGUAGES = ((4.2, "e", 0.55), (3.5, "d", 0.15), (3.0, "c", 0.15), (2.3, "я", 0.08), (1.4, "字", 0.07))
_MAX_DELTAS = 20  # joined deltas an answer: what the relay hands to the ledger are runs, not single tokens
_ENDINGS = ("message_delta", "message_stop")
_TOOL_SHARE = 0.25
_TOOL_FRAME_TOKENS = 40
_JSON_CHARS_A_TOKEN = 2.8


@dataclass(frozen=True, slots=True)
class Kind:
    """One distribution of lengths and one habit of leaving.

    Attributes:
        length: draws an answer's natural length in tokens.
        leaves: draws after how many tokens the reader leaves, given the answer's length.
        assumption_holds: leaving does not depend on the answer's length; targets are set only then.
    """

    name: str
    max_tokens: int
    length: Callable[[random.Random], float]
    leaves: Callable[[random.Random, float], float]
    assumption_holds: bool = True


def _humps(rng: random.Random) -> float:
    return rng.lognormvariate(4.4, 0.5) if rng.random() < 0.6 else rng.lognormvariate(7.4, 0.35)


def _patience(mean: float) -> Callable[[random.Random, float], float]:
    """Leaving at random: one in twenty before the first token, the others at a constant risk a token."""
    return lambda rng, _: 0.0 if rng.random() < 0.05 else rng.expovariate(1 / mean)


def _fed_up_by_length(mean: float, middle: float) -> Callable[[random.Random, float], float]:
    """Readers of long answers leave earlier (a rambling answer shows it from the start)."""
    return lambda rng, length: rng.expovariate(1 / mean * max(0.5, min(2.0, length / middle)))


def _held_by_length(mean: float, middle: float) -> Callable[[random.Random, float], float]:
    """Readers of long answers stay longer (a thorough answer is what they came for)."""
    return lambda rng, length: rng.expovariate(1 / mean * max(0.5, min(2.0, middle / length)))


KINDS = (
    Kind("short", 1024, lambda rng: rng.lognormvariate(4.8, 0.7), _patience(300)),
    Kind("long", 8192, lambda rng: rng.lognormvariate(7.7, 0.6), _patience(5000)),
    Kind("two-humped", 4096, _humps, _patience(1500)),
    Kind("two-humped, long answers are left sooner", 4096, _humps, _fed_up_by_length(1500, 500), False),
    Kind("two-humped, long answers are left later", 4096, _humps, _held_by_length(1500, 500), False),
)


@dataclass(slots=True)
class Run:
    """One repetition: sums over the streams aborted after warm-up, the ledger's and the truth's; tokens.

    Attributes:
        naive: the sum of "mean length of the finished, less generated, at least 0" over the same streams.
        path: cumulated (truth, expected, low, high, naive) after each stream; kept for the picture's run only.
    """

    streams: int = 0
    generated: int = 0
    generated_truth: int = 0
    avoided_truth: int = 0
    naive: float = 0.0
    total: Total = field(default_factory=Total)
    path: list[tuple[float, float, float, float, float]] = field(default_factory=list)

    @property
    def covered(self) -> bool:
        return self.total.low <= self.avoided_truth <= self.total.high

    def error(self, estimate: float) -> float:
        """How far an estimate of the avoided tokens is off, as a share of the truth."""
        return estimate / self.avoided_truth - 1

    def add(self, entry: Entry, generated: int, avoided: int, naive: float, *, keep_path: bool) -> None:
        """Adds an aborted stream and its truth."""
        self.streams += 1
        self.generated += entry.generated
        self.generated_truth += generated
        self.avoided_truth += avoided
        self.naive += naive
        self.total = self.total.plus(entry.avoided)
        if keep_path:
            total = self.total
            self.path.append((self.avoided_truth, total.expected, total.low, total.high, self.naive))


def _pieces(total: int, parts: int) -> list[int]:
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _run_of(kind: DeltaKind, tokens: int, chars_a_token: float, letter: str, rng: random.Random) -> Iterator[Delta]:
    """Deltas that hold so many tokens; how many the wire's single ones held varies by answer."""
    a_delta = rng.randint(1, 8)
    for piece in _pieces(tokens, max(1, min(_MAX_DELTAS, tokens // a_delta))):
        chars = round(piece * chars_a_token * rng.gauss(1, 0.05))
        if chars > 0:
            yield Delta(0, kind, letter * chars, max(1, piece // a_delta))


def events_of(length: int, until: int, rng: random.Random, stop_reason: str = "end_turn") -> Iterator[ClaudeEvent]:
    """The events of an answer of `length` tokens, cut after `until` of them; usage comes only at the whole's end."""
    yield Event("message_start", b"", {"message": {"model": MODEL, "usage": {"input_tokens": 100, "output_tokens": 1}}})
    chars_a_token, letter = rng.choices([row[:2] for row in _LANGUAGES], [row[2] for row in _LANGUAGES])[0]
    chars_a_token *= rng.lognormvariate(0, 0.08)
    tool = length // 3 if length > 3 * _TOOL_FRAME_TOKENS and rng.random() < _TOOL_SHARE else 0
    text = length - tool
    yield Event("content_block_start", b"", {"content_block": {"type": "text"}})
    yield from _run_of("text", min(text, until), chars_a_token, letter, rng)
    if until - text >= _TOOL_FRAME_TOKENS:
        yield Event("content_block_start", b"", {"content_block": {"type": "tool_use"}})
        json_tokens = until - text - _TOOL_FRAME_TOKENS
        yield from _run_of("input_json", json_tokens, _JSON_CHARS_A_TOKEN * rng.gauss(1, 0.05), "j", rng)
    if until == length:
        yield Event("message_delta", b"", {"delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": length}})
        yield Event("message_stop", b"", {})


def simulate(kind: Kind, streams: int, seed: int, *, keep_path: bool = False) -> Run:
    """One repetition: so many streams, one after the other, a second each."""
    rng = random.Random(f"{kind.name}/{seed}")
    ledger, run = Ledger(PRICES), Run()
    finished = finished_tokens = 0
    for i in range(streams):
        natural = max(1, round(kind.length(rng)))
        length = min(natural, kind.max_tokens)
        stays = int(kind.leaves(rng, length))
        account = ledger.open(model=MODEL, max_tokens=kind.max_tokens, now=float(i))
        reason = "max_tokens" if natural > length else "end_turn"
        for event in events_of(length, min(stays, length), rng, reason):
            account.see(event)
        if stays >= length:
            account.delivered_all()
            account.settle(Outcome.COMPLETED, i + 1.0)
            finished, finished_tokens = finished + 1, finished_tokens + length
            continue
        entry = account.settle(Outcome.DISCONNECTED, i + 1.0)
        if finished >= ENOUGH_FINISHED:
            naive = max(0.0, finished_tokens / finished - entry.generated)
            run.add(entry, stays, length - stays, naive, keep_path=keep_path)
    return run


@dataclass(frozen=True, slots=True)
class KindResult:
    """What the repetitions of one kind say; errors as shares of the truth, positive for too much.

    Attributes:
        generated, expected, naive: error of the sum over all repetitions.
        worst_generated, worst_expected: the largest error of one repetition, without its sign.
        covered_of_100: repetitions whose 90 % interval holds the truth.
        half_width: half of the interval's width, as a share of the expected; the mean of the repetitions.
        upper: the upper bound, in multiples of the truth.
        passed: the targets are met; where the method's assumption fails there are none, and it is None.
    """

    name: str
    repeats: int
    aborted: int
    generated: float
    worst_generated: float
    expected: float
    worst_expected: float
    within_target_of_100: float
    naive: float
    covered_of_100: float
    half_width: float
    upper: float
    passed: bool | None


def judge(kind: Kind, runs: Sequence[Run]) -> KindResult:
    """Holds the runs against the targets."""
    truth = sum(run.avoided_truth for run in runs)
    generated = sum(run.generated for run in runs) / sum(run.generated_truth for run in runs) - 1
    expected = sum(run.total.expected for run in runs) / truth - 1
    naive = sum(run.naive for run in runs) / truth - 1
    covered = 100 * sum(run.covered for run in runs) / len(runs)
    passed = (
        abs(generated) <= GENERATED_WITHIN
        and abs(expected) <= AVOIDED_WITHIN
        and COVERED_OF_100[0] <= covered <= COVERED_OF_100[1]
        and abs(expected) < abs(naive)
    )
    return KindResult(
        name=kind.name,
        repeats=len(runs),
        aborted=sum(run.streams for run in runs),
        generated=generated,
        worst_generated=max(abs(run.generated / run.generated_truth - 1) for run in runs),
        expected=expected,
        worst_expected=max(abs(run.error(run.total.expected)) for run in runs),
        within_target_of_100=100
        * statistics.fmean(abs(run.error(run.total.expected)) <= AVOIDED_WITHIN for run in runs),
        naive=naive,
        covered_of_100=covered,
        half_width=statistics.fmean((run.total.high - run.total.low) / 2 / run.total.expected for run in runs),
        upper=sum(run.total.upper for run in runs) / truth,
        passed=passed if kind.assumption_holds else None,
    )


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer, estimated by what the others taught; tokens."""

    name: str
    exact: int
    estimated: int
    exact_when_seen: bool
    broken: bool


def leave_one_out(paths: Iterable[Path]) -> list[Recording]:
    """Estimates each recording without its usage, having learned from all others, whatever their models."""
    answers = [(path.name, _recorded(path)) for path in paths]
    results = []
    for name, events in answers:
        ledger = Ledger(PRICES)
        for _, taught in answers:
            # A recording that begins twice is deliberately broken: it teaches nothing and its error is not counted.
            if taught is not events and not _begins_twice(taught):
                _play(ledger, taught, Outcome.COMPLETED)
        cut = [event for event in events if isinstance(event, Delta) or event.type not in _ENDINGS]
        estimated = _play(ledger, cut, Outcome.DISCONNECTED)
        whole = _play(ledger, events, Outcome.COMPLETED)
        usages = [event.data["usage"] for event in events if isinstance(event, Event) and event.type == "message_delta"]
        exact = int(usages[-1]["output_tokens"])
        is_exact = whole.basis == "exact" and whole.generated == exact
        results.append(Recording(name, exact, estimated.generated, is_exact, _begins_twice(events)))
    return results


def _recorded(path: Path) -> list[ClaudeEvent]:
    decoder = EventDecoder()
    events: list[ClaudeEvent] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            kind = json.loads(line)["type"]
            events += decoder.feed(f"event: {kind}\ndata: {line}\n\n".encode())
    return events


def _begins_twice(events: Iterable[ClaudeEvent]) -> bool:
    return sum(isinstance(event, Event) and event.type == "message_start" for event in events) > 1


def _play(ledger: Ledger, events: Iterable[ClaudeEvent], outcome: Outcome) -> Entry:
    account = ledger.open(model="recorded", max_tokens=64000, now=0.0)
    for event in events:
        account.see(event)
    return account.settle(outcome, 0.0)


@click.command()
@click.option("--streams", default=2000, show_default=True, help="Streams in a repetition.")
@click.option("--repeats", default=100, show_default=True, help="Repetitions of each kind.")
@click.option(
    "--seed", default=FIRST_SEED, show_default=True, help="Seed of the first repetition; the others count up."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("build/audit"), show_default=True)
@click.option(
    "--transcripts",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="Folder of recorded answers, estimated too; may be given more than once.",
)
def main(streams: int, repeats: int, seed: int, out: Path, transcripts: Sequence[Path]) -> None:
    """Holds the ledger's estimates against simulated truth; writes audit.md, audit.json and audit.png."""
    results, paths = [], {}
    for kind in KINDS:
        runs = [simulate(kind, streams, seed + i, keep_path=i == 0) for i in range(repeats)]
        results.append(judge(kind, runs))
        paths[kind.name] = runs[0].path
        click.echo(f"{kind.name}: done", err=True)
    recordings = leave_one_out(path for folder in transcripts for path in sorted(folder.glob("*.jsonl")))
    out.mkdir(parents=True, exist_ok=True)
    text = report(results, recordings, streams=streams, seed=seed)
    (out / "audit.md").write_text(text, encoding="utf-8")
    data = {"kinds": [asdict(result) for result in results], "recordings": [asdict(r) for r in recordings]}
    (out / "audit.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    picture(paths, results, out / "audit.png")
    click.echo(text)
    if any(result.passed is False for result in results) or not all(r.exact_when_seen for r in recordings):
        sys.exit("the audit missed a target")


if __name__ == "__main__":
    main()
