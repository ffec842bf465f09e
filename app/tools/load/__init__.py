"""`python -m app load`: many readers of every kind against a running service, and a report of what they met.

presets.py ─▶ plan.py ─▶ run.py ─▶ readers.py ─▶ connection.py, reply.py     what is done, and how on the wire
                          └─▶ frontdoor.py, admin.py ─▶ service.py           what the service tells of it
figures.py ─▶ subject.py ─▶ findings.py ─▶ report.py                         what was met, judged and told
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import math
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from ...money.prices import SHIPPED, load_prices
from .connection import Target
from .figures import Figures
from .findings import MOST_ERRORS, Findings, Measure, exit_status, judge
from .frontdoor import FrontDoor
from .plan import Kind, Plan, PlanError, parse_mix
from .presets import PRESETS, WantedAnswer, planned
from .protocols import MESSAGES, PROTOCOLS, Question
from .report import page, running, side_by_side, tables
from .run import Progress, run
from .service import Sample
from .spend import most_usd
from .subject import Subject

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_ADMIN = "http://127.0.0.1:9464"
MESSAGES_MODEL = "claude-opus-4-8"
_SPARE_FILES = 64
# Where there is no terminal: a line of progress now and then, and tables as wide as they need.
_PLAIN_EVERY_S, _PLAIN_COLUMNS = 10, 120


def _name(measure: Measure) -> str:
    return f"limit_{measure.value.replace('-', '_')}"


_OPTIONS: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
    click.argument("url", required=False),
    click.option("--url", "at", metavar="URL", help=f"The same as the argument [{DEFAULT_URL}]."),
    click.option(
        "--admin",
        "--metrics",
        "admin",
        multiple=True,
        help=f"URL of an admin port, one a worker [{DEFAULT_ADMIN}].",
    ),
    click.option(
        "--against",
        metavar="URL",
        help="Another service: the same readers ask it afterwards, and the two are compared.",
    ),
    click.option("--against-admin", multiple=True, metavar="URL", help="URL of an admin port of that one."),
    click.option(
        "--against-key", envvar="SLUICEWAY_AGAINST_KEY", help="Key there; also from SLUICEWAY_AGAINST_KEY [--key]."
    ),
    click.option("--preset", type=click.Choice(list(PRESETS)), help="A load test with a name, as above."),
    click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default="plain", show_default=True),
    click.option("--streams", type=click.IntRange(1), help="Readers at once [100]."),
    click.option("--ramp", "ramp_s", type=click.FloatRange(0), help="Seconds until all are there [2]."),
    click.option(
        "--duration",
        "duration_s",
        type=click.FloatRange(0),
        help="Seconds until all is cut; 0: each comes once [0].",
    ),
    click.option(
        "--arrivals",
        "arrivals_per_s",
        type=click.FloatRange(0, min_open=True),
        metavar="PER_S",
        help="So many readers a second for the duration, each once, however many are still there.",
    ),
    click.option("--mix", help="Kinds of readers with weights [fast]."),
    click.option("--slow", "slow_bytes_per_s", type=click.IntRange(1), help="Bytes/s of slow readers [200]."),
    click.option("--stall", "stall_s", type=click.FloatRange(0), help="Seconds that stalling ones pause [10]."),
    click.option("--vanish", "vanish_s", type=click.FloatRange(0), help="Seconds that vanished ones stay [20]."),
    click.option("--turn", "turn_s", type=(float, float), help="When readers leave, stall, vanish [0.5 5.0]."),
    click.option("--seed", type=int, help="Of everything random [0]."),
    click.option("--prompt", help="The question; a simulated Claude takes {{tokens=500 rate=50}}."),
    click.option("--model", help="Model; the service's own where it has one."),
    click.option("--max-tokens", type=click.IntRange(1), help="Of an answer [the preset's, or 1024]."),
    click.option("--key", envvar="SLUICEWAY_KEY", help="Caller's key; also from SLUICEWAY_KEY."),
    click.option("--header", "headers", multiple=True, help="Further header, NAME: VALUE; may be repeated."),
    click.option("--insecure", is_flag=True, help="Take any certificate."),
    click.option("--timeout", type=click.FloatRange(0.1), default=300.0, help="Seconds for one stream [300]."),
    click.option(
        "--spend", type=click.FloatRange(0), metavar="USD", help="The most that answers of a real Claude may cost."
    ),
    click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML report there."),
    click.option("--json", type=click.Path(dir_okay=False, path_type=Path), help="Write the findings there."),
    *(click.option(f"--max-{measure.value}", _name(measure), type=float, help=measure.about) for measure in Measure),
]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed: a thousand readers then take a fraction of a core."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def command() -> click.Command:
    """The command line's `load`."""
    presets = "\n".join(f"{name:<18} {preset.about}" for name, preset in PRESETS.items())

    def load(**given: Any) -> None:
        """Send many readers to the service at URL (http://HOST:PORT, https://HOST or unix:PATH) and report.

        \b
        Readers: fast, slow, stalling, leaving, vanishing, resuming; for example --mix fast=5,slow=4,stalling=1.
        Ctrl-C ends the test early, with its report.
        Exit status: 0 all is well, 1 a threshold was exceeded, of errors in any case, 2 it could not begin, 4 the preset's subject did not happen, 3 it could not be
        told (not measured, or the load tester itself was the bottleneck).

        \b
        A preset brings the readers and the answers that show its subject:
        """
        preset = PRESETS[given["preset"]] if given["preset"] is not None else None
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            try:
                if given["url"] and given["at"]:
                    raise PlanError("url: given twice")
                plan = planned(preset, _of_plan(given))
                wanted = preset.answer if preset is not None else WantedAnswer()
                tests = [_test(runner, plan, wanted, place) for place in _places(given)]
            except (PlanError, ValueError, OSError) as error:
                raise click.UsageError(str(error)) from None
            _raise_open_files(plan.streams)
            gc.collect()
            gc.freeze()
            subject = preset.subject if preset is not None else None
            over = asyncio.Event()
            found: list[Findings] = []
            with _shown(Console(stderr=True)) as progress:
                while len(found) < len(tests) and not over.is_set():
                    each = _until_over(plan, tests[len(found)], subject, given["timeout"], over, progress)
                    found.append(runner.run(each))
        limits = {measure: given[_name(measure)] for measure in Measure if given[_name(measure)] is not None}
        limits.setdefault(Measure.ERRORS, MOST_ERRORS)
        _tell(found, limits, given["report"], given["json"])

    for option in reversed(_OPTIONS):
        load = option(load)
    return click.command("load", help=f"{inspect.getdoc(load)}\n{presets}")(load)


@dataclass(frozen=True, slots=True)
class _Test:
    """One service, and what is asked there.

    Attributes:
        where: its URL, as it was given.
        target: where readers connect.
        question: what they ask.
        admin: its admin ports.
        most_answers: how many answers may be asked for; None: any number.
    """

    where: str
    target: Target
    question: Question
    admin: tuple[str, ...]
    most_answers: int | None


def _places(given: dict[str, Any]) -> list[dict[str, Any]]:
    """What is given for each service: its URL, its admin ports, its key, and what is the same for all."""
    places = [given | {"where": given["url"] or given["at"] or DEFAULT_URL}]
    if given["against"]:
        own = {"admin": given["against_admin"], "key": given["against_key"] or given["key"]}
        places.append(given | own | {"where": given["against"]})
    return places


def _test(runner: asyncio.Runner, plan: Plan, wanted: WantedAnswer, given: dict[str, Any]) -> _Test:
    """What is asked at one URL, once that was looked at: whether its Claude is simulated, and so costs nothing."""
    target = Target.of(given["where"], trusts_any=given["insecure"])
    question = _question(target, plan, given)
    try:
        config = runner.run(_config(target, question))
    except ConnectionError as error:
        raise click.UsageError(f"{given['where']} cannot be connected: {error}") from None
    simulated = config.get("simulated") is True
    question = _asked(question, wanted, given, simulated=simulated)
    most_answers = None
    if not simulated:
        most_answers = _most_answers(plan, question, str(question.model or config.get("model")), given["spend"])
    admin = tuple(given["admin"]) or ((DEFAULT_ADMIN,) if target.loopback else ())
    return _Test(given["where"], target, question, admin, most_answers)


def _most_answers(plan: Plan, question: Question, model: str, spend_usd: float | None) -> int:
    """How many answers may be asked for; asks what they may cost where that was not said.

    Raises:
        click.UsageError: it was not said and nobody can be asked, or not even one answer may be asked for.
    """
    prices = load_prices(SHIPPED)
    each_usd = most_usd(prices, model, question.prompt, question.max_tokens)
    all_usd = math.ceil(each_usd * plan.streams * 100) / 100
    again = f", and they come again for {plan.duration_s:g} s" if plan.duration_s else ""
    warning = (
        f"This service does not say that its Claude is simulated. An answer of {question.max_tokens:,} tokens may cost "
        f"{each_usd:.4f} USD, one for each of {plan.streams:,} readers {all_usd:,.2f} USD{again}."
    )
    if spend_usd is None and not sys.stdin.isatty():
        raise click.UsageError(f"{warning} --spend says what all of them may cost.")
    if spend_usd is None:
        click.echo(warning, err=True)
        spend_usd = click.prompt("The most to spend, in USD", type=click.FloatRange(0), default=all_usd, err=True)
    most = int(spend_usd / each_usd)
    if not most:
        raise click.UsageError(f"{warning} {spend_usd:g} USD is not enough for one.")
    return most


async def _until_over(
    plan: Plan, test: _Test, subject: Subject | None, timeout_s: float, over: asyncio.Event, progress: Progress
) -> Findings:
    """A run that the first SIGINT ends early, with its findings; the second one is as ever."""
    loop = asyncio.get_running_loop()

    def end_early() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        over.set()

    loop.add_signal_handler(signal.SIGINT, end_early)
    return await run(
        plan,
        test.target,
        test.question,
        where=test.where,
        admin=test.admin,
        subject=subject,
        timeout_s=timeout_s,
        most_answers=test.most_answers,
        over=over,
        progress=progress,
    )


async def _config(target: Target, question: Question) -> dict[str, Any]:
    async with FrontDoor(target, question.credentials) as door:
        return await door.config()


def _of_plan(given: dict[str, Any]) -> dict[str, Any]:
    names = (
        "streams",
        "ramp_s",
        "duration_s",
        "slow_bytes_per_s",
        "stall_s",
        "vanish_s",
        "turn_s",
        "seed",
        "arrivals_per_s",
    )
    mix = given["mix"]
    return {name: given[name] for name in names} | {"mix": None if mix is None else parse_mix(mix)}


def _question(target: Target, plan: Plan, given: dict[str, Any]) -> Question:
    protocol = PROTOCOLS[given["protocol"]]
    if plan.mix.get(Kind.RESUMING) and not protocol.resumes:
        raise PlanError(f"mix: a lost stream of the protocol {protocol.name} cannot be resumed")
    headers = {}
    for header in given["headers"]:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or "\n" in header or "\r" in header:
            raise PlanError(f"header: {header!r} is not NAME: VALUE")
        headers[name.strip().lower()] = value.strip()
    model = given["model"] or (MESSAGES_MODEL if protocol is MESSAGES else None)
    return Question(protocol, target.host, "", model, 0, given["key"], headers, target.base_path)


def _asked(question: Question, answer: WantedAnswer, given: dict[str, Any], *, simulated: bool) -> Question:
    """The question with what it asks."""
    if given["max_tokens"] is not None:
        answer = replace(answer, tokens=given["max_tokens"])
    prompt = given["prompt"] if given["prompt"] is not None else answer.prompt(simulated=simulated)
    return replace(question, prompt=prompt, max_tokens=answer.tokens)


def _raise_open_files(streams: int) -> None:
    """Every reader is an open file; the soft limit of a shell is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = streams + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise click.UsageError(f"{streams} readers need {wanted} open files, and this machine allows {hard}: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[Progress]:
    """Progress: redrawn once a second on a terminal, else a line now and then."""
    if not console.is_terminal:
        next_s = 0.0

        def line(elapsed_s: float, figures: Figures, sample: Sample | None) -> None:
            nonlocal next_s
            if elapsed_s >= next_s:
                next_s = elapsed_s + _PLAIN_EVERY_S
                click.echo(f"{elapsed_s:.0f} s: {figures.live} streams, {figures.errors} errors", err=True)

        yield line
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda elapsed_s, figures, sample: live.update(running(elapsed_s, figures, sample), refresh=True)


def _tell(found: Sequence[Findings], limits: dict[Measure, float], report: Path | None, as_json: Path | None) -> None:
    """Tells of the first service, judges it, and holds the second one against it where there is one."""
    first, against = found[0], found[1] if len(found) > 1 else None
    judged = judge(first, limits)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_COLUMNS)
    console.print(tables(first, judged))
    if against is not None:
        console.print(side_by_side(first, against))
    if report is not None:
        report.write_text(page(first, judged, against), "utf-8")
        click.echo(f"Report: {report}")
    if as_json is not None:
        verdicts = [
            {"measure": one.measure.value, "limit": one.limit, "value": one.value, "verdict": one.verdict.name.lower()}
            for one in judged
        ]
        told = first.as_json() | {"thresholds": verdicts}
        if against is not None:
            told["against"] = against.as_json()
        as_json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    sys.exit(exit_status(judged, first.shown[0] if first.subject is not None else None))
