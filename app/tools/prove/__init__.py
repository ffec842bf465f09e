"""`python -m app prove`: does the provider stop generating, and charging, when a stream is aborted, or not read?

Read `inference.py` for why the answer can be believed, then `trial.py` for what is done on the wire.

    design.py ─▶ trial.py ─▶ experiment.py ─▶ report.py
    (how much)   (one arm)   (until it is decided, with inference.py)   (in words)
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import click

from ...money.prices import SHIPPED, Prices, load_prices
from ...settings.sections import UpstreamOptions
from ...upstream.claude import Claude
from .design import CannotPlan
from .experiment import Experiment, Findings, Options
from .report import as_json, words
from .usage_report import REPORT_DELAY_S, Reported, ReportError, fetch

# Small on purpose: what a paused stream can still take in on our side.
_RECEIVE_BUFFER_BYTES = 16_384
_CONNECT_TIMEOUT_S, _IDLE_TIMEOUT_S = 10.0, 60.0
# Nothing is sent twice.
UPSTREAM = UpstreamOptions(
    retries=0,
    retry_after_max_s=0.0,
    receive_buffer_bytes=_RECEIVE_BUFFER_BYTES,
    connect_timeout_s=_CONNECT_TIMEOUT_S,
    idle_timeout_s=_IDLE_TIMEOUT_S,
    progress_timeout_s=_IDLE_TIMEOUT_S,
)


def command() -> click.Command:
    """The command line's `prove`."""

    @click.command("prove")
    @click.option(
        "--cap-usd", type=click.FloatRange(min=0, min_open=True), required=True, help="Spend no more than this."
    )
    @click.option("--model", default="claude-haiku-5-5", show_default=True, help="Must be in the price table.")
    @click.option(
        "--blocks-max", type=click.IntRange(3, 50), default=12, show_default=True, help="Blocks of four trials."
    )
    @click.option("--streams-max", type=click.IntRange(1), default=400, show_default=True, help="Streams at once.")
    @click.option(
        "--thinking",
        type=click.Choice(["disabled", "omit"]),
        default="disabled",
        show_default=True,
        help="Say in the request that the model is not to think, or say nothing.",
    )
    @click.option("--prices", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=SHIPPED)
    @click.option("--report-delay-s", type=click.FloatRange(min=0), default=REPORT_DELAY_S, show_default=True)
    @click.option("--seed", default=0, show_default=True, help="Of the trials' order and of the dither.")
    @click.option("--json", "as_json_", is_flag=True, help="The findings as JSON on stdout.")
    def prove(
        cap_usd: float,
        model: str,
        blocks_max: int,
        streams_max: int,
        thinking: str,
        prices: Path,
        report_delay_s: float,
        seed: int,
        as_json_: bool,
    ) -> None:
        """Find out, with your own key, what an aborted or unread answer costs.

        Streams are aborted, and paused, at known points, beside complete ones of known length; the account's rate-limit
        headers say what was drawn. Takes a quarter to three quarters of an hour, and costs least in a workspace of its own with a
        limit of 20,000 to 40,000 output tokens a minute. ANTHROPIC_API_KEY is used; with ANTHROPIC_ADMIN_KEY the usage
        report is read as well.
        """
        key = os.environ.get("ANTHROPIC_API_KEY") or None
        if key is None and not os.environ.get("ANTHROPIC_AUTH_TOKEN"):
            raise click.ClickException("ANTHROPIC_API_KEY is not set, and this experiment needs a real account")
        chosen = Options(
            model,
            cap_usd,
            seed=seed,
            blocks_max=blocks_max,
            streams_max=streams_max,
            thinking={"type": "disabled"} if thinking == "disabled" else None,
        )
        admin_key = os.environ.get("ANTHROPIC_ADMIN_KEY") or None
        base_url = os.environ.get("ANTHROPIC_BASE_URL") or None

        async def run() -> tuple[Findings, Reported | None]:
            claude = Claude(UPSTREAM, 0.0, key, base_url)
            try:
                return await examine(
                    chosen,
                    claude,
                    load_prices(prices),
                    admin_key=admin_key,
                    base_url=base_url,
                    report_delay_s=report_delay_s,
                )
            finally:
                await claude.close()

        try:
            found, reported = asyncio.run(run())
        except (CannotPlan, ValueError) as error:
            raise click.ClickException(str(error)) from None
        click.echo(json.dumps(as_json(found, reported), indent=2) if as_json_ else words(found, reported))

    return prove


async def examine(
    chosen: Options,
    claude: Claude,
    prices: Prices,
    *,
    admin_key: str | None,
    base_url: str | None,
    report_delay_s: float,
    epoch: Callable[[], float] = time.time,
) -> tuple[Findings, Reported | None]:
    """The experiment, and the usage report of its time where there is an admin key. Cancelling is safe.

    Args:
        base_url: where the usage report is; None for the public API.
        report_delay_s: seconds until the report is complete.
        epoch: the time in seconds since the epoch.

    Raises:
        CannotPlan: the model has no price.
    """
    found = await Experiment(claude, prices, chosen, say=_say, epoch=epoch).run()
    if admin_key is None or not found.trials:
        return found, None
    _say(f"Waiting {report_delay_s:.0f} s for the usage report.")
    await asyncio.sleep(report_delay_s)
    try:
        return found, await fetch(admin_key, chosen.model, found.began_at, found.ended_at, base_url=base_url)
    except ReportError as error:
        found.why.append(f"{error}.")
        return found, None


def _say(line: str) -> None:
    click.echo(line, err=True)
