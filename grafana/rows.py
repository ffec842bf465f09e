"""What the dashboard shows, row by row: each function is a row, each `yield` a panel with its words and its queries.

Measured figures and estimates never share a panel, except where its title says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from panels import (
    BYTES,
    COUNT,
    SECONDS,
    SHARE,
    STREAMS_PER_SECOND,
    TIMES_PER_SECOND,
    TOKENS_PER_SECOND,
    USD,
    Query,
    bars_panel,
    gauge,
    heatmap_panel,
    lines_panel,
    metric,
    quantile,
    quantiles,
    rate,
    stat_panel,
    table_panel,
    total,
)

Panel = Builder[models.Panel]

# A reader who leaves is neither an error nor a success; nor is what we refused, were told to stop, or shut down.
ERRORS = "upstream_error|internal_error"
JUDGED = f"completed|{ERRORS}"
LEFT = ("disconnected", "stalled", "vanished", "expired", "stopped")
OUTCOMES = (
    "completed", "disconnected", "stalled", "vanished", "expired", "stopped", "budget", "fenced", "taken_over", "shutdown",
    "rejected", "upstream_error", "internal_error",
)  # fmt: skip
# Turned away by us: for want of room, since we go down, or by a defect; the other reasons lie with the request.
TURNED_AWAY = "full|lag|draining|failed|budget_away|fleet_away"
REASONS = (
    "full", "lag", "draining", "failed", "auth", "forbidden", "invalid", "malformed", "media_type", "method",
    "not_found", "not_served", "expired", "head_too_large", "too_large", "slow", "connections",
    "rate", "places", "budget", "budget_held", "budget_away", "fleet_away",
)  # fmt: skip
PHASES = ("before_first_event", "thinking", "text", "tool_use", "done")
SPENDING_TYPES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "fee")

ERROR_BUDGET = 0.005  # share of judged streams that may fail, over 30 days; the alerts burn the same
FIRST_TOKEN_OBJECTIVE_S = 2.5

COMPLETED, REJECTED = 'outcome="completed"', 'outcome="rejected"'
ERROR = f'outcome=~"{ERRORS}"'
JUDGE = f'outcome=~"{JUDGED}"'
LEAVE = f'outcome=~"{"|".join(LEFT)}"'
STARTED = 'outcome!="rejected"'
AWAY = f'reason=~"{TURNED_AWAY}"'
DAY, TODAY = 'span="day"', "now/d"
EXACT, ESTIMATED = 'basis="exact"', 'basis="estimated"'


def share(part: str, whole: str, matching: str = "") -> str:
    """A ratio that is absent, not NaN, where there is nothing to divide by; `matching` is PromQL's vector matching."""
    return f"{part} / {matching}({whole} > 0)"


def unless_too_early(estimate: str, unestimated: str) -> str:
    """An estimate, absent where it is zero only because too few answers have finished to expect anything."""
    return f"{estimate} > 0 or ({estimate} unless {unestimated} > 0)"


def today() -> Iterator[Panel]:
    """What the answers that readers left cost this day, where that went, and what else is wrong."""
    left = "left_usd_total"
    yield stat_panel(
        "Left today (estimate)",
        "What was spent since midnight on answers that their reader left, the prompts too: measured where Claude "
        "reported it, else estimated.", USD, total(left), colour="#FF9830", span=5, since=TODAY,
    )  # fmt: skip
    yield stat_panel(
        "Same hours, yesterday", "The same, measured or estimated, of the day before and until the same time.", USD,
        total(left, ago="1d"), span=5, since=TODAY, absent="not known",
    )  # fmt: skip
    yield stat_panel(
        "Share of today's money", "What left answers cost, of all that was spent since midnight, measured or estimated.", SHARE,
        share(total(left), total("spent_usd_total")), span=5, since=TODAY, absent="nothing spent",
    )  # fmt: skip
    yield stat_panel(
        "Least day's budget left", "How much of today's budget is left to the caller who is nearest to its end; below a fifth the alert fires.", SHARE,
        f"min(min by (caller) ({metric('budget_left_usd', DAY)}) / (min by (caller) ({metric('budget_usd', DAY)}) > 0))",
        limit=0.2, good_above=True, span=5, absent="no budgets",
    )  # fmt: skip
    yield stat_panel(
        "Whose money",
        "Whether Claude itself answers, or a simulated one: then no money on this page is real, and no alert speaks of it.",
        COUNT, f"max({metric('simulated')})", limit=1, span=4, words={"0": "real", "1": "simulated"},
    )  # fmt: skip
    yield bars_panel(
        "Left today, by reason (estimate)", "Where that money went, measured or estimated: how readers left.", USD,
        [Query(f"sort_desc({total(left, by='outcome')} > 0)", "{{outcome}}")], names=LEFT, span=8, since=TODAY,
    )  # fmt: skip
    yield bars_panel(
        "Left today, by phase (estimate)",
        "Where in the answer they left, measured or estimated: in thinking they paid for what nobody saw. What Claude began and "
        "never told of, before its first event, nobody knows.",
        USD, [Query(f"sort_desc({total(left, by='phase')} > 0)", "{{phase}}")], names=PHASES, span=8, since=TODAY,
    )  # fmt: skip
    yield table_panel(
        "Alerts that fire", "Now, by Prometheus' own series; each name leads to its place in the runbook.", COUNT,
        Query('count by (alertname, severity) (ALERTS{alertstate="firing", alertname=~"Sluiceway.+"})', "how many"),
        ("alertname", "severity"), span=8, link="${runbook}#${__value.text}",
    )  # fmt: skip


def requests() -> Iterator[Panel]:
    """Rate, errors, duration: is the service well?"""
    yield stat_panel(
        "Streams",
        "Streams that ended within the time range, however they ended, without the rejected ones.", COUNT,
        total("streams_total", STARTED), span=3,
    )  # fmt: skip
    yield stat_panel(
        "Errors",
        "Share of failed streams (upstream or internal error) among those that completed or failed. Readers who "
        "leave count on neither side. Red above the objective's 0.5 %.", SHARE,
        share(total("streams_total", ERROR), total("streams_total", JUDGE)), limit=ERROR_BUDGET, span=3,
    )  # fmt: skip
    away = total("refused_total", AWAY)
    yield stat_panel(
        "Turned away",
        "Share of requests that we turned away for want of room (full, lag), since we go down (draining), or by a defect "
        "(failed, budget_away), among those and all streams. Nothing was started for them: no other figure here has them.", SHARE,
        share(away, f"{away} + {total('streams_total')}"), limit=0.01, span=3,
    )  # fmt: skip
    yield stat_panel(
        "Error budget left (30 d)",
        "What is left of the errors that the objective, 99.5 % over 30 days, allows; below zero it is overspent. "
        "Looks back 30 days whatever the time range, or as far as Prometheus remembers.", SHARE,
        f"1 - sum(increase({metric('streams_total', ERROR)}[30d]))"
        f" / (sum(increase({metric('streams_total', JUDGE)}[30d])) > 0)"
        f" / {ERROR_BUDGET}", limit=0, good_above=True, span=4,
    )  # fmt: skip
    yield stat_panel(
        "First token within 2.5 s",
        "Share of streams whose first token came within 2.5 s; the objective is 95 %.", SHARE,
        share(total("time_to_first_token_seconds_bucket", f'le="{FIRST_TOKEN_OBJECTIVE_S}"'),
              total("time_to_first_token_seconds_count")), limit=0.95, good_above=True, span=4,
    )  # fmt: skip
    yield stat_panel(
        "Streams now", "Sessions at this moment, with or without a reader.", COUNT, gauge("streams_active"), span=3
    )
    yield stat_panel(
        "Left by the reader",
        "Share of streams that the reader left: disconnected, stalled, vanished, gone beyond the grace period, "
        "or stopped. A symptom of slow or unwanted answers rather than an error.", SHARE,
        share(total("streams_total", LEAVE), total("streams_total", STARTED)), colour="#FF9830", span=4,
    )  # fmt: skip
    yield lines_panel(
        "Streams by outcome",
        "Streams ended per second, by how they ended. Green completed, red failed, warm colours left by the "
        "reader, blue ended on purpose.", STREAMS_PER_SECOND,
        [Query(rate("streams_total", by="outcome"), "{{outcome}}")], stacked=True, names=OUTCOMES, span=8,
    )  # fmt: skip
    yield lines_panel(
        "Error share",
        "Failed streams among those that completed or failed; the line is the objective's 0.5 %. Empty while "
        "nothing completes or fails.", SHARE,
        [Query(share(rate("streams_total", ERROR), rate("streams_total", JUDGE)), "errors")],
        limit=ERROR_BUDGET, names=("errors",), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Turned away, by reason",
        "Requests per second for which nothing was started: for want of room or by a defect of ours (reds), since we go "
        "down, or for what is wrong with them. `rejected` are streams that Claude itself refused for the request's sake.",
        STREAMS_PER_SECOND,
        [Query(rate('refused_total', by='reason'), "{{reason}}"),
         Query(f"{rate('streams_total', REJECTED)} > 0", "rejected")],
        stacked=True, names=(*REASONS, "rejected"), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Time to first token",
        "From the request's arrival to the first token for the reader. Quantiles are interpolated within the "
        "buckets; the line is the objective's 2.5 s.", SECONDS, quantiles("time_to_first_token_seconds"),
        names=("p50", "p95", "p99"), limit=FIRST_TOKEN_OBJECTIVE_S,
    )  # fmt: skip
    yield heatmap_panel(
        "Time to first token, every stream",
        "How many streams got their first token after how long: a second hump is a second kind of request, or a "
        "second upstream.", SECONDS, "time_to_first_token_seconds",
    )  # fmt: skip


def abandonment() -> Iterator[Panel]:
    """What is left, where in the answer, and why; and does the upstream stop at once?"""
    yield lines_panel(
        "Left, by reason",
        "Streams per second that the reader left: disconnected (closed), stalled (accepts nothing), vanished "
        "(acknowledges nothing), expired (did not return within the grace period), stopped (asked for it).",
        STREAMS_PER_SECOND,
        [Query(rate("streams_total", LEAVE, by="outcome"), "{{outcome}}")], stacked=True, names=LEFT,
    )  # fmt: skip
    yield lines_panel(
        "Left, by phase of the answer",
        "Where in the answer readers leave. Before the first event: they would not wait. Thinking: they saw "
        "nothing yet. Text: they had read enough, or it was wrong.", STREAMS_PER_SECOND,
        [Query(rate("streams_total", LEAVE, by="phase"), "{{phase}}")], stacked=True, names=PHASES,
    )  # fmt: skip
    yield lines_panel(
        "Share left by the reader",
        "Of all streams that were not rejected. The alert compares it with its own last day.", SHARE,
        [Query(share(rate("streams_total", LEAVE, by="outcome"), rate("streams_total", STARTED),
                     "ignoring(outcome) group_left() "), "{{outcome}}")],
        stacked=True, names=LEFT, most=1, span=8,
    )  # fmt: skip
    yield bars_panel(
        "Phase and reason",
        "How many streams readers left within the time range, by phase and reason together.", COUNT,
        [Query(f"sort_desc({total('streams_total', LEAVE, by='phase, outcome')} > 0)", "{{phase}} · {{outcome}}")],
        span=8,
    )  # fmt: skip
    yield lines_panel(
        "From leaving to upstream closed",
        "How long the upstream connection lived on after its reader was lost. This service's promise: at once, "
        "that is 0.1 s.", SECONDS, quantiles("disconnect_to_upstream_close_seconds"),
        names=("p50", "p95", "p99"), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Tokens generated by streams then cut short (estimated in part)",
        "Output tokens of aborted streams, by what ended them; most are estimated from the text received, since "
        "an aborted answer brings no final count.", TOKENS_PER_SECOND,
        [Query(rate("aborted_tokens_total", by="reason"), "{{reason}}")], stacked=True, estimate=True, names=OUTCOMES,
    )  # fmt: skip
    yield lines_panel(
        "Tokens thrown away (estimated in part)",
        "Generated, and so paid for, but never handed to a reader's connection.",
        TOKENS_PER_SECOND, [Query(rate("wasted_tokens_total", by="model"), "{{model}}")], stacked=True, estimate=True,
    )  # fmt: skip


def money_measured() -> Iterator[Panel]:
    """Money from usage that Claude itself reported."""
    yield stat_panel(
        "Spent, measured",
        "Cost of usage that Claude reported exactly, from the price table, over the time range. Prometheus "
        "extrapolates at the range's ends, so cents may differ from the ledger.", USD,
        total("spent_usd_total", EXACT), span=5,
    )  # fmt: skip
    yield stat_panel(
        "Spent on abandoned, measured",
        "Of the spending that Claude reported exactly, what went to streams that their reader left: their prompts, mostly, "
        "since an aborted answer reports its input alone.", USD,
        total("spent_usd_total", EXACT, LEAVE), colour="#FF9830", span=5,
    )  # fmt: skip
    yield stat_panel(
        "Spent per stream, measured",
        "Exactly reported cost of completed streams over their number.", USD,
        share(total("spent_usd_total", EXACT, COMPLETED), total("streams_total", COMPLETED)), span=5,
    )  # fmt: skip
    yield stat_panel(
        "Tokens generated, measured",
        "Output tokens that Claude itself counted, over the time range.", COUNT,
        total("output_tokens_total", EXACT), span=5,
    )  # fmt: skip
    yield stat_panel(
        "Tokens without a price",
        "Tokens of models, tiers of service and iterations that the price table does not state: they are counted, their "
        "money is in no figure here. The log names each once.", COUNT, total("unpriced_tokens_total"), limit=1, span=4,
    )  # fmt: skip
    yield lines_panel(
        "Spent per hour by model, measured",
        "Rate of spending on exactly reported usage, in dollars an hour.", USD,
        [Query(f"{rate('spent_usd_total', EXACT, by='model')} * 3600", "{{model}}")], stacked=True, span=8,
    )  # fmt: skip
    yield lines_panel(
        "Spent per hour by type, measured",
        "The same money by what was paid for: prompt, answer, cache reads and writes, fees for web searches.", USD,
        [Query(f"{rate('spent_usd_total', EXACT, by='type')} * 3600", "{{type}}")], stacked=True, names=SPENDING_TYPES,
        span=8,
    )  # fmt: skip
    yield lines_panel(
        "Spent per hour by outcome, measured",
        "The same money by how the streams ended: what went to answers that were read to their end, and what to those "
        "that were left.", USD,
        [Query(f"{rate('spent_usd_total', EXACT, by='outcome')} * 3600", "{{outcome}}")], stacked=True, names=OUTCOMES,
        span=8,
    )  # fmt: skip


def money_estimated() -> Iterator[Panel]:
    """Money that rests on an estimate: streams cut short report no usage, and what was avoided never happened."""
    unestimated = total("avoided_unestimated_streams_total")
    unestimated_rate = rate("avoided_unestimated_streams_total")
    caveat = "Whether the provider stops billing at the abort is its own affair; here it is assumed as configured."
    yield stat_panel(
        "Spent on streams cut short (estimate)",
        "Cost of usage estimated from what was received, where the stream ended before Claude reported it. Comes "
        "on top of the measured money.", USD,
        total("spent_usd_total", ESTIMATED), colour="#C7D0D9", span=6,
    )  # fmt: skip
    yield stat_panel(
        "Wasted (estimate)",
        "Cost of tokens that were generated, but never handed to a reader. Part of what was spent, not on top of "
        "it.",
        USD, total("wasted_usd_total"), colour="#FFB357", span=6,
    )  # fmt: skip
    yield stat_panel(
        "Saved by stopping (estimate)",
        "What the rest of the abandoned answers would have cost: a counterfactual, expected from how long "
        f"finished answers are. At least 0. {caveat}", USD, unless_too_early(total("saved_usd_total"), unestimated),
        colour="#73BF69", span=6, absent="too early to tell",
    )  # fmt: skip
    yield stat_panel(
        "Saved at most (upper bound)",
        f"As if each abandoned answer had run to its max_tokens. {caveat}", USD,
        total("saved_usd_upper_total"), colour="#C8F2C2", span=6,
    )  # fmt: skip
    yield lines_panel(
        "Saved per hour: expected and at most (estimate)",
        f"The truth lies between zero and the upper line. {caveat}", USD,
        [Query(unless_too_early(f"{rate('saved_usd_total')} * 3600", unestimated_rate), "expected"),
         Query(f"{rate('saved_usd_upper_total')} * 3600", "at most")],
        estimate=True, names=("expected", "at most"), span=12,
    )  # fmt: skip
    spread = f"1.8125 * sqrt({total('avoided_tokens_variance_total')})"
    expected = f"({unless_too_early(total('avoided_tokens_total'), unestimated)})"
    yield bars_panel(
        "Tokens avoided within the range (estimate)",
        "Expected, with the 90 % interval of the total around it, and the upper bound of every answer running to "
        "its max_tokens. The lower bound is 0. With too few finished answers to expect anything, the bound stands alone.",
        COUNT,
        [Query(f"clamp_min({expected} - {spread}, 0)", "90 % low"), Query(expected, "expected"),
         Query(f"{expected} + {spread}", "90 % high"), Query(total("avoided_tokens_upper_total"), "at most")],
        names=("expected", "at most"), span=12,
    )  # fmt: skip
    yield lines_panel(
        "Wasted per hour by model (estimate)",
        "Rate at which money goes to tokens nobody received, in dollars an hour.", USD,
        [Query(f"{rate('wasted_usd_total', by='model')} * 3600", "{{model}}")], stacked=True, estimate=True, span=12,
    )  # fmt: skip
    yield lines_panel(
        "Saved as share of would-be spend (estimate over measured plus estimate)",
        "Expected savings over savings plus all that was spent. A ratio of an estimate to measured and estimated "
        "money: a direction, no accounting figure.", SHARE,
        [Query(share(f"({unless_too_early(rate('saved_usd_total'), unestimated_rate)})",
                     f"{rate('saved_usd_total')} + {rate('spent_usd_total')}"), "saved")],
        estimate=True, most=1, span=12,
    )  # fmt: skip


def callers() -> Iterator[Panel]:
    """Who spends, what is left to them, and who is refused or cut for it."""
    yield bars_panel(
        "Spent, by caller (charged)",
        "US dollars charged to each caller's budgets over the time range, by usage where it came, else as estimated; `*` is "
        "the budget of all callers. Callers without a budget are not in it, nor those beyond `named_callers` by name.", USD,
        [Query(f"sort_desc({total('caller_spent_usd_total', by='caller')} > 0)", "{{caller}}")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "Left of each budget",
        "What is not spent of a day's or a month's budget; it begins anew with the day or the month in UTC. The workers "
        "share a budget: it is the same in each.", USD,
        [Query(f"min by (caller, span) ({metric('budget_left_usd')})", "{{caller}} {{span}}")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "Share of each budget spent",
        "Answers warn in a header from `budget_warn_share` on, and so does the alert.", SHARE,
        [Query(f"1 - min by (caller, span) ({metric('budget_left_usd')})"
               f" / (min by (caller, span) ({metric('budget_usd')}) > 0)", "{{caller}} {{span}}")], limit=0.8, span=8,
    )  # fmt: skip
    yield lines_panel(
        "Refused for a limit, by caller and reason",
        "Requests per second: more a minute (`rate`) or at once (`places`) than the caller may, a budget that is spent "
        "(`budget`) or held for streams that run (`budget_held`), or one that nobody can read (`budget_away`).",
        STREAMS_PER_SECOND,
        [Query(rate('caller_refused_total', by='caller, reason'), "{{caller}} {{reason}}")], stacked=True,
        span=12,
    )  # fmt: skip
    yield lines_panel(
        "Answers cut",
        "Answers per second that were cut because a budget was spent; `*` is the budget of all callers.",
        STREAMS_PER_SECOND,
        [Query(rate('budget_cuts_total', by='caller'), "{{caller}}")], stacked=True, span=4,
    )  # fmt: skip
    yield stat_panel(
        "Booked for dead workers",
        "What workers that died had drawn from budgets: it counts as spent, because nobody knows how much of it was.", USD,
        total("budget_unsettled_usd_total"), limit=1, span=4,
    )  # fmt: skip
    yield stat_panel(
        "Budgets that nearly are spent", "Budgets from whose warning share on answers warn.", COUNT,
        f"count(max by (caller, span) ({metric('budget_warned')}) > 0)", limit=1, span=2, absent="none",
    )  # fmt: skip
    yield stat_panel(
        "Budgets that can be read",
        "Whether the file of budgets can be used; while it cannot, callers with a budget are refused.", COUNT,
        f"max({metric('budget_state_away')})", limit=1, span=2, words={"0": "yes", "1": "no"},
    )  # fmt: skip


def backpressure() -> Iterator[Panel]:
    """Do slow readers hold Claude still, and what does it cost in memory?"""
    yield lines_panel(
        "Streams, upstreams, stalled readers",
        "Sessions, open upstream connections, and readers that accept nothing. More upstreams than sessions "
        "would be orphans that still cost money.", COUNT,
        [Query(gauge("streams_active"), "streams"), Query(gauge("upstreams_active"), "upstreams"),
         Query(gauge("readers_stalled"), "stalled readers")],
        names=("streams", "upstreams", "stalled readers"), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Producers held still",
        "Producers waiting for room in the queue, on average: seconds paused per second. This bounds memory and "
        "holds back delivery; only aborting saves money.", COUNT,
        [Query(rate("producer_paused_seconds_total"), "held still")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "Pauses",
        "How often per second a producer found its queue full.",
        TIMES_PER_SECOND,
        [Query(rate("producer_pauses_total"), "pauses")],
        span=8,
    )
    yield lines_panel(
        "Fullest queue of a stream",
        "The most that a stream's queue ever held, over streams that ended. Bounded by the high water.", BYTES,
        quantiles("queue_peak_bytes"), names=("p50", "p95", "p99"), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Stalls",
        "How long a reader accepted nothing, when that happened.", SECONDS, quantiles("stall_seconds"),
        names=("p50", "p95", "p99"), span=8,
    )  # fmt: skip
    yield heatmap_panel(
        "Every stall", "How many stalls of which length: few and long is another trouble than many and short.", SECONDS,
        "stall_seconds", span=8)  # fmt: skip


def details() -> Iterator[Panel]:
    """What one looks at second."""
    yield lines_panel(
        "Gap between batches",
        "Time between two writes to the same reader; the batching window is 0.1 s unless configured.", SECONDS,
        quantiles("batch_gap_seconds"), names=("p50", "p95", "p99"), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Batch size",
        "Bytes of one write to a reader.",
        BYTES,
        quantiles("batch_bytes"),
        names=("p50", "p95", "p99"),
        span=8,
    )
    yield lines_panel(
        "Duration of a stream",
        "From the request to the stream's end.", SECONDS, quantiles("stream_duration_seconds"),
        names=("p50", "p95", "p99"), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Event-loop lag (p99) by worker",
        "How late the loop ran what was due: above some 50 ms every stream of the worker stutters.", SECONDS,
        [Query(quantile(0.99, "event_loop_lag_seconds", by="instance"), "{{instance}}")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "Saturation by worker",
        "How full each worker is: the fullest of its places for streams, the bodies that are arriving, and its event loop's "
        "lag against `max_lag_s`. At 1 it turns requests away; scale out from some 0.6 on.", SHARE,
        [Query(f"max by (instance) ({metric('saturation')})", "{{instance}}")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "Upstream errors and retries",
        "Errors of the Messages API by its own type, whoever is at fault, retries before the first event, and values of "
        "usage that could not be read.", TIMES_PER_SECOND,
        [Query(rate("upstream_errors_total", by="type"), "{{type}}"),
         Query(rate("upstream_retries_total"), "retries"),
         Query(rate("usage_unreadable_total"), "unreadable usage")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "What the figures do not see",
        "Streams per second whose hidden thinking is unknown (paid for, not shown), whose model has no price, or "
        "that were cut short before enough answers had finished to say what was avoided.", STREAMS_PER_SECOND,
        [Query(rate("hidden_thinking_streams_total"), "hidden thinking"),
         Query(rate("unpriced_streams_total"), "no price"),
         Query(rate("avoided_unestimated_streams_total"), "too early to estimate")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "Tokens avoided: expected and at most (estimate)",
        "Tokens that abandoned answers would still have had.", TOKENS_PER_SECOND,
        [Query(unless_too_early(rate("avoided_tokens_total"), rate("avoided_unestimated_streams_total")), "expected"),
         Query(rate("avoided_tokens_upper_total"), "at most")],
        estimate=True, names=("expected", "at most"), span=8,
    )  # fmt: skip
    yield lines_panel(
        "Memory by worker",
        "Resident memory of each worker's process.", BYTES,
        [Query('sum by (instance) (process_resident_memory_bytes{job=~"$job", instance=~"$instance"})',
               "{{instance}}")], span=8,
    )  # fmt: skip
    yield lines_panel(
        "CPU by worker",
        "Processor time per second; one worker uses at most one core.", SHARE,
        [Query('sum by (instance) (rate(process_cpu_seconds_total{job=~"$job", instance=~"$instance"}'
               "[$__rate_interval]))",
               "{{instance}}")], span=8,
    )  # fmt: skip
    yield table_panel(
        "Prices in use",
        "The price table that all money above rests on, in dollars per million tokens (base tier).", USD,
        Query(f"max by (model, type) ({metric('price_usd_per_mtok')})", "USD per million tokens"), ("model", "type"),
        span=8,
    )  # fmt: skip
    yield table_panel(
        "Versions",
        "Workers by version.",
        COUNT,
        Query(f"count by (version) ({metric('build_info')})", "workers"),
        ("version",),
        span=8,
    )
