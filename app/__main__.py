"""The command line: `python -m app serve | simulate | load | prove`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from . import __version__, settings
from .fleet.supervisor import parse_place, supervise
from .tools import load, prove
from .tools.simulator import server as simulator
from .web import compose as server

# Stands where a key would, for a Claude that takes any.
SIMULATED_KEY = "simulated"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sluiceway")
def main() -> None:
    """Sluiceway streams Claude to the browser with backpressure that is real from end to end."""


@main.command()
@click.option("--host", help="Address to listen on; any but loopback demands callers' keys.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one.")
@click.option("--unix", help="Path of a unix socket to listen on instead of TCP.")
@click.option("--admin-port", type=int, help="Port of /metrics and the probes, on loopback.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="TOML file of settings.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Processes on the one port.")
@click.option("--worker", hidden=True, help="This process's place among them; set by the parent.")
@click.option("--simulate", is_flag=True, help="Without an API key, start a simulated Claude beside the service.")
def serve(
    host: str | None,
    port: int | None,
    unix: str | None,
    admin_port: int | None,
    config: Path | None,
    workers: int,
    worker: str | None,
    simulate: bool,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    overrides = {"host": host, "port": port, "unix": unix, "admin_port": admin_port}
    try:
        loaded = settings.load(config, overrides=overrides)
        server.check_exposure(loaded)
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from None
    logging.basicConfig(
        level=loaded.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # The SDK's and httpx2's own request lines say nothing that our one line a stream does not.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    place = parse_place(worker) if worker else None
    with _credentials(simulate) as credentials:
        if workers > 1:
            given = overrides | {"config": config}
            arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
            main_coroutine = supervise(loaded, workers, arguments, _environment(credentials))
        else:
            main_coroutine = server.serve_until_signal(loaded, credentials, place)
        # What is alive now lives for ever: the collector need not look at it again. And streams make next to no cycles but
        # many objects, some 250 each: it is to come seldom, and in short steps, because everybody waits for it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 10)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            try:
                runner.run(main_coroutine)
            except OSError as error:
                raise click.ClickException(f"cannot listen: {error}") from None


def _environment(credentials: server.Credentials) -> dict[str, str]:
    """What a worker needs to reach the simulated Claude that its parent started; else nothing."""
    if not credentials.simulated or credentials.base_url is None:
        return {}
    return {"ANTHROPIC_API_KEY": SIMULATED_KEY, "ANTHROPIC_BASE_URL": credentials.base_url}


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextmanager
def _credentials(simulate: bool) -> Iterator[server.Credentials]:
    """The SDK's own environment variables; or a simulated Claude, where that was asked for and there is no key."""
    key = os.environ.get("ANTHROPIC_API_KEY") or None
    if key or os.environ.get("ANTHROPIC_AUTH_TOKEN") or not simulate:
        if key is None and not os.environ.get("ANTHROPIC_AUTH_TOKEN"):
            click.echo("ANTHROPIC_API_KEY is not set: Claude will refuse every request.", err=True)
        base_url = os.environ.get("ANTHROPIC_BASE_URL") or None
        yield server.Credentials(api_key=key, base_url=base_url, simulated=key == SIMULATED_KEY)
        return
    command = [sys.executable, "-m", __package__, "simulate", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None, "it was asked for"
            url = process.stdout.readline().strip().rpartition(" ")[2]
            if not url.startswith("http"):
                raise click.ClickException("the simulated Claude did not start")
            click.echo(f"No ANTHROPIC_API_KEY: answers come from a simulated Claude on {url}. They cost nothing.")
            yield server.Credentials(api_key=SIMULATED_KEY, base_url=url, simulated=True)
        finally:
            process.terminate()


main.add_command(simulator.command())
main.add_command(load.command())
main.add_command(prove.command())

if __name__ == "__main__":
    main()
