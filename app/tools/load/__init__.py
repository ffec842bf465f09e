"""`python -m app load`: many readers of every kind against a running service, and a report of what they met.

plan.py ─▶ run.py ─▶ readers.py ─▶ connection.py, reply.py     what is done, and how on the wire
             └─▶ figures.py, service.py ─▶ findings.py ─▶ report.py     what was met, judged and told
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.live import Live

from .connection import Target
from .figures import Figures
from .findings import Findings, Measure, exit_status, judge
from .plan import PRESETS, Kind, Plan, PlanError, parse_mix, planned
from .protocols import MESSAGES, PROTOCOLS, Question
from .report import page, running, tables
from .run import Progress, run
from .service import Sample

PROMPT = "Tell me how a sluice works, at length."
MESSAGES_MODEL = "claude-opus-4-8"
_SPARE_FILES = 64
# Where there is no terminal: a line of progress now and then, and tables as wide as they need.
_PLAIN_EVERY_S, _PLAIN_COLUMNS = 10, 120


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed: a thousand readers then take a fraction of a core."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def command() -> click.Command:
    """The command line's `load`."""
    presets = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())

    def load(url: str, **given: Any) -> None:
        """Send many readers to the service at URL (http://HOST:PORT, https://HOST or unix:PATH) and report.

        \b
        Readers: fast, slow, stalling, leaving, vanishing, resuming; for example --mix fast=5,slow=4,stalling=1.
        Exit status: 0 all thresholds kept, 1 one was exceeded, 3 it could not be told (not measured, or the load
        tester itself was the bottleneck).
        """
        try:
            plan = planned(given["preset"], _of_plan(given))
            target = Target.of(url, trusts_any=given["insecure"])
            question = _question(target, plan, given)
        except (PlanError, ValueError, OSError) as error:
            raise click.UsageError(str(error)) from None
        limits = {measure: given[_name(measure)] for measure in Measure if given[_name(measure)] is not None}
        metrics = given["metrics"] or (("http://127.0.0.1:9464/metrics",) if target.loopback else ())
        _raise_open_files(plan.streams)
        console = Console(stderr=True)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            if not given["spend"] and not runner.run(_is_simulated(url, target)):
                _confirm(plan, question)
            gc.collect()
            gc.freeze()
            with _shown(console) as progress:
                found = runner.run(
                    run(
                        plan,
                        target,
                        question,
                        where=url,
                        metrics=metrics,
                        timeout_s=given["timeout"],
                        progress=progress,
                    )
                )
        _tell(found, limits, given["report"], given["json"])

    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.argument("url", default="http://127.0.0.1:8080"),
        click.option("--preset", type=click.Choice(list(PRESETS)), help=presets),
        click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default="plain", show_default=True),
        click.option("--streams", type=click.IntRange(1), help="Readers at once [100]."),
        click.option("--ramp", "ramp_s", type=click.FloatRange(0), help="Seconds until all are there [2]."),
        click.option("--duration", "duration_s", type=click.FloatRange(0), help="Seconds; 0: each comes once [0]."),
        click.option("--mix", help="Kinds of readers with weights [fast]."),
        click.option("--slow", "slow_bytes_per_s", type=click.IntRange(1), help="Bytes/s of slow readers [400]."),
        click.option("--stall", "stall_s", type=click.FloatRange(0), help="Seconds that stalling ones pause [10]."),
        click.option("--vanish", "vanish_s", type=click.FloatRange(0), help="Seconds that vanished ones stay [20]."),
        click.option("--turn", "turn_s", type=(float, float), help="When readers leave, stall, vanish [0.5 5.0]."),
        click.option("--seed", type=int, help="Of everything random [0]."),
        click.option("--prompt", default=PROMPT, help="The question; a simulated Claude takes {{tokens=500 rate=50}}."),
        click.option("--model", help="Model; the service's own where it has one."),
        click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True),
        click.option("--key", envvar="SLUICEWAY_KEY", help="Caller's key; also from SLUICEWAY_KEY."),
        click.option("--header", "headers", multiple=True, help="Further header, NAME: VALUE; may be repeated."),
        click.option("--insecure", is_flag=True, help="Take any certificate."),
        click.option("--metrics", multiple=True, help="URL of /metrics, one a worker [loopback: port 9464]."),
        click.option("--timeout", type=click.FloatRange(0.1), default=300.0, help="Seconds for one stream [300]."),
        click.option("--spend", is_flag=True, help="Do not ask whether the answers may cost money."),
        click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML report there."),
        click.option("--json", type=click.Path(dir_okay=False, path_type=Path), help="Write the findings there."),
        *(
            click.option(f"--max-{measure.value}", _name(measure), type=float, help=measure.about)
            for measure in Measure
        ),
    ]
    for option in reversed(options):
        load = option(load)
    return click.command("load")(load)


def _confirm(plan: Plan, question: Question) -> None:
    """Asks before money is spent; where nobody can be asked, refuses."""
    warning = (
        f"This service does not say that its Claude is simulated. {plan.streams} streams of up to "
        f"{question.max_tokens} tokens may cost money."
    )
    if not sys.stdin.isatty():
        raise click.UsageError(f"{warning} --spend says that this is meant.")
    click.confirm(f"{warning} Go on?", abort=True, err=True)


def _name(measure: Measure) -> str:
    return f"limit_{measure.value.replace('-', '_')}"


def _of_plan(given: dict[str, Any]) -> dict[str, Any]:
    names = ("streams", "ramp_s", "duration_s", "slow_bytes_per_s", "stall_s", "vanish_s", "turn_s", "seed")
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
    return Question(
        protocol, target.host, given["prompt"], model, given["max_tokens"], given["key"], headers, target.base_path
    )


def _raise_open_files(streams: int) -> None:
    """Every reader is an open file; the soft limit of a shell is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = streams + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise click.UsageError(f"{streams} readers need {wanted} open files, and this machine allows {hard}: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _is_simulated(url: str, target: Target) -> bool:
    """Whether the service says that its Claude costs nothing."""
    unix = target.address if isinstance(target.address, str) else None
    connector = aiohttp.UnixConnector(unix) if unix is not None else aiohttp.TCPConnector()
    base = "http://localhost" if unix is not None else url.rstrip("/")
    how: dict[str, Any] = {"ssl": target.tls} if target.tls is not None else {}
    try:
        async with (
            asyncio.timeout(5),
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"{base}/config.json", **how) as response,
        ):
            told = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False
    return isinstance(told, dict) and told.get("simulated") is True


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


def _tell(found: Findings, limits: dict[Measure, float], report: Path | None, as_json: Path | None) -> None:
    judged = judge(found, limits)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_COLUMNS)
    console.print(tables(found, judged))
    if report is not None:
        report.write_text(page(found, judged), "utf-8")
        click.echo(f"Report: {report}")
    if as_json is not None:
        verdicts = [
            {"measure": one.measure.value, "limit": one.limit, "value": one.value, "verdict": one.verdict.name.lower()}
            for one in judged
        ]
        as_json.write_text(json.dumps(found.as_json() | {"thresholds": verdicts}, indent=2) + "\n", "utf-8")
    sys.exit(exit_status(judged))
