"""The command line: `serve`, `simulate`, `load`, `doctor`, `keys`, `prove`, each imported when it is asked for."""

from __future__ import annotations

import importlib

import click

from . import __version__

# Each command is imported only when it is run. Here is where its `command()` is, and what it says of itself.
ELSEWHERE = {
    "simulate": (".tools.simulator.command", "Run a simulated Claude that streams made-up answers."),
    "load": (".tools.load", "Send many readers to a running service, and report what they met."),
    "doctor": (".tools.doctor", "Look for what on the way to a deployment breaks streaming."),
    "keys": (".tools.keys", "Make, list, revoke and rotate callers' keys."),
    "prove": (".tools.prove", "Find out what an aborted or unread answer costs, with your own key."),
}


class _Commands(click.Group):
    """Lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = importlib.import_module(ELSEWHERE[cmd_name][0], __package__).command()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        here = [(name, command.get_short_help_str(limit=100)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*here, *((name, told) for name, (_, told) in ELSEWHERE.items())])


class _Serve(click.Command):
    """Tells a wrong command line as every other wrong setting: in one line, with status 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise click.ClickException(error.format_message()) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sluiceway")
def main() -> None:
    """Sluiceway streams Claude to the browser with backpressure that is real from end to end."""


@main.command("serve", cls=_Serve)
@click.option("--host", help="Address to listen on; any but loopback demands callers' keys.")
@click.option("--port", metavar="INTEGER", help="TCP port; 0 takes a free one.")
@click.option("--unix", metavar="PATH", help="Path of a unix socket to listen on instead of TCP.")
@click.option("--take-over", is_flag=True, help="A restart: replace the live service on that unix socket.")
@click.option("--admin-port", metavar="INTEGER", help="Port of /metrics and the probes, on loopback.")
@click.option("--config", metavar="FILE", help="TOML file of settings.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Processes on the one port.")
@click.option("--worker", type=int, hidden=True, help="What ties this process to its parent; set by that.")
@click.option("--simulate", is_flag=True, help="Without an API key, start a simulated Claude beside the service.")
def _serve(
    host: str | None,
    port: str | None,
    unix: str | None,
    take_over: bool,
    admin_port: str | None,
    config: str | None,
    workers: int,
    worker: int | None,
    simulate: bool,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads everything again, new code too."""
    from .settings import SettingsError
    from .web.process import Command, serve

    given = {"host": host, "port": port, "unix": unix, "admin_port": admin_port}
    try:
        serve(Command(given, config, take_over, simulate), workers, worker)
    except (SettingsError, OSError) as error:
        told = f"it cannot be run: {error}" if isinstance(error, OSError) else str(error)
        raise click.ClickException(" ".join(told.split())) from None
