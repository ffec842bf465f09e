"""The command line of the simulated Claude: `python -m app simulate`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from .account import AccountPlan
from .scenario import KNOB_HELP, KnobError, Scenario
from .server import SNDBUF_BYTES, Simulator

# What a newcomer's playground shows: a readable pace, a moment's thought before it, and time to hold it still.
PLAYGROUND = Scenario(tokens=2400, rate=60, ttft_s=0.3, pings_s=5, tokens_per_delta=(1, 4))


def command() -> click.Command:
    """The command line's `simulate`: an option for every knob, with the playground's defaults."""

    def simulate(
        host: str,
        port: int,
        transcripts: Sequence[Path],
        sndbuf_bytes: int,
        output_limit: int,
        noise: float,
        reserve: bool,
        tie: int | None,
        **knobs: str,
    ) -> None:
        """Run a simulated Claude that streams made-up answers; see `GET /books` for what it generated."""
        try:
            defaults = PLAYGROUND.with_knobs(knobs)
        except KnobError as error:
            raise click.UsageError(str(error)) from error

        async def until_told() -> None:
            task = asyncio.current_task()
            assert task is not None, "run by a runner"
            loop = asyncio.get_running_loop()
            for sign in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(sign, task.cancel)
            if tie is not None:  # nothing is ever sent: it is readable when the process that has the other end is gone
                loop.add_reader(tie, lambda: (loop.remove_reader(tie), task.cancel()))
            simulator = Simulator(
                defaults,
                host=host,
                transcripts={path.stem: path for folder in transcripts for path in folder.glob("*.jsonl")},
                sndbuf_bytes=sndbuf_bytes or None,
                account=AccountPlan(output_limit=output_limit, noise=noise, reserve=reserve),
            )
            simulator.port = port
            with contextlib.suppress(asyncio.CancelledError):
                async with simulator:
                    print(f"simulated Claude on http://{host}:{simulator.port}", flush=True)
                    await loop.create_future()

        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            try:
                runner.run(until_told())
            except (OSError, OverflowError) as error:
                raise click.ClickException(f"port {port} on host {host}: {error}") from None

    options: list[click.Parameter] = [
        click.Option(["--host"], default="127.0.0.1", show_default=True, help="address to listen on"),
        click.Option(["--port"], default=0, type=int, show_default=True, help="0 takes a free one"),
        click.Option(
            ["--transcripts"],
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            multiple=True,
            help="folder of recorded answers, NAME.jsonl; may be given more than once",
        ),
        click.Option(["--sndbuf-bytes"], default=SNDBUF_BYTES, show_default=True, help="SO_SNDBUF; 0: the kernel's"),
        click.Option(["--output-limit"], default=0, show_default=True, help="account: output tokens a minute; 0: none"),
        click.Option(["--noise"], default=0.0, show_default=True, help="account: tokens a second of other traffic"),
        click.Option(
            ["--reserve"], is_flag=True, help="account: max_tokens is taken at the start, adjusted at the end"
        ),
        click.Option(["--tie"], type=int, hidden=True, help="what ties it to the process that started it"),
    ]
    for name, value in PLAYGROUND.knobs().items():
        option = f"--{name.replace('_', '-')}"
        options.append(click.Option([option], default=value, show_default=True, help=KNOB_HELP[name]))
    return click.Command("simulate", params=options, callback=simulate, help=simulate.__doc__)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
