"""Three hours of `app.metrics`, as a real ledger filled them: an afternoon with an incident.

Streams come at a steady rate; between 90 and 125 minutes Claude is overloaded, first tokens take long, readers leave;
at 140 minutes both workers are deployed anew. Random, but from a fixed seed and at fixed times.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from app import __version__
from app.answer.events import Delta, DeltaKind, Event
from app.errors import Refusal
from app.money.ledger import Account, Ledger, Outcome
from app.money.prices import SHIPPED, load_prices
from app.telemetry.callers import CALLER_REFUSALS, CallerMetrics
from app.telemetry.fleet import FleetMetrics
from app.telemetry.prometheus import Metrics

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("claude-sonnet-5-5", "claude-haiku-5-5")
ASKED = (*MODELS, "a-model-nobody-configured")
START_S = 1_790_000_000 - 1_790_000_000 % 7200  # on a boundary of Prometheus' blocks
CALLERS = ("acme", "globex")
STEP_S = 60
STEPS = 180
END_S = START_S + STEPS * STEP_S
INCIDENT = range(90, 125)
DEPLOY = 140
STREAMS_A_STEP = 15  # of each worker

_BLOCKS: tuple[tuple[str, DeltaKind], ...] = (("text", "text"), ("thinking", "thinking"), ("tool_use", "input_json"))
_WHY = (Outcome.DISCONNECTED, Outcome.STALLED, Outcome.VANISHED, Outcome.EXPIRED, Outcome.STOPPED)
_WHY_WEIGHTS = (60, 8, 6, 6, 20)
_RARE = (Outcome.TAKEN_OVER, Outcome.SHUTDOWN, Outcome.REJECTED, Outcome.INTERNAL_ERROR)

_WRONG = (Refusal.AUTH, Refusal.INVALID, Refusal.NOT_FOUND, Refusal.EXPIRED, Refusal.TOO_LARGE)


def _event(kind: str, **data: Any) -> Event:
    payload = {"type": kind, **data}
    return Event(type=kind, raw=json.dumps(payload).encode(), data=payload)


class Worker:
    """One worker: a registry with its metrics, and a ledger; `step` lives through a minute."""

    def __init__(self, name: str, seed: int, started_s: float, version: str) -> None:
        self.name, self.started_s, self.version = name, started_s, version
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, MODELS)
        self.callers = CallerMetrics(self.registry, names=CALLERS)
        self.fleet = FleetMetrics(self.registry)
        self._prices = load_prices(SHIPPED)
        self.metrics.show_prices(self._prices)
        self._ledger = Ledger(self._prices)
        self._random = random.Random(seed)
        self.cpu_s = 0.0

    def step(self, minute: int) -> None:
        """A minute's streams."""
        incident = minute in INCIDENT
        for _ in range(STREAMS_A_STEP):
            self._stream(START_S + minute * STEP_S, incident)
        for _ in range(20):
            self.metrics.loop_lag(self._random.expovariate(200 if not incident else 60))
        self._refuse(incident)
        self._spend(minute)
        self._share(minute)
        active = self._random.randint(25, 35) + (25 if incident else 0)
        stalled = self._random.randint(0, 3) + (14 if incident else 0)
        self.metrics.streams_active.set(active)
        self.metrics.upstreams_active.set(active - self._random.randint(0, 4))
        self.metrics.readers_stalled.set(stalled)
        self.metrics.saturation.set(active / 100)
        self.cpu_s += 3 + active * 0.1

    def _refuse(self, incident: bool) -> None:
        """Who is turned away: a few wrong requests always; for want of room while everybody waits."""
        for refusal, at_most in ((Refusal.FULL, 6), (Refusal.LAG, 2)) if incident else ():
            for _ in range(self._random.randint(0, at_most)):
                self.metrics.refused(refusal)
        if self._random.random() < 0.3:
            self.metrics.refused(self._random.choice(list(_WRONG)))

    def _spend(self, minute: int) -> None:
        """Two callers with budgets for the day, one of which is nearly spent at the end; both workers read the same."""
        for place, name in enumerate(CALLERS):
            usd = 0.02 + 0.02 * place
            self.callers.spent(name, usd)
            used = 2 * usd * minute
            self.callers.budget(name, "day", 15.0, max(0.0, 15.0 - used), warned=used > 12)
        self.callers.spent("", 0.06)
        self.callers.budget("", "month", 1000.0, 1000.0 - 0.12 * minute, warned=False)
        if self._random.random() < 0.2:
            self.callers.refused(CALLERS[1], self._random.choice(CALLER_REFUSALS))
        if self._random.random() < 0.05:
            self.callers.cut(CALLERS[1])
        if minute == DEPLOY + 5:
            self.callers.unsettled(0.05)

    def _share(self, minute: int) -> None:
        """Redis is away for three minutes, and comes back empty; at the deployment one worker dies."""
        away = 60 <= minute < 63
        self.fleet.redis_away(away)
        for _ in range(0 if away else 20):
            self.fleet.redis_took(self._random.expovariate(2000))
        back = 400 if minute == 63 else 0
        self.fleet.mirrored(60.0 * (minute - 59) if away else 0.0, back, back)
        self.fleet.relayed(self._random.randint(0, 3) - (minute % 4))
        self.fleet.copied((minute == DEPLOY) - (minute == DEPLOY + 1))
        if minute == 62:
            self.fleet.mirror_refused()
        if minute == DEPLOY:
            self.fleet.owner_lost()

    def _outcome(self, incident: bool) -> Outcome:
        dice = self._random.random()
        if dice < 0.004:
            return self._random.choice(_RARE)
        if dice < (0.03 if incident else 0.006):
            return Outcome.UPSTREAM_ERROR
        if dice < (0.48 if incident else 0.10):
            return self._random.choices(_WHY, _WHY_WEIGHTS)[0]
        return Outcome.COMPLETED

    def _stream(self, now: float, incident: bool) -> None:
        rng, metrics = self._random, self.metrics
        model = rng.choices(ASKED, (60, 38, 2))[0]
        tokens = max(20, int(rng.lognormvariate(6.2, 0.7)))
        outcome = self._outcome(incident)
        wait_s = rng.lognormvariate(1.7 if incident else -0.2, 0.5)
        account = self._ledger.open(model=model, max_tokens=4096, now=now, thinking_hidden=rng.random() < 0.02)
        completed = outcome is Outcome.COMPLETED
        share = 1.0 if completed else max(0.0, rng.uniform(-0.8 if incident else -0.2, 1.0))
        if share:
            metrics.first_token(wait_s)
            self._answer(account, int(tokens * share), completed)
        else:
            wait_s *= 0.7
        if outcome in _WHY:
            metrics.upstream_closed(rng.lognormvariate(-5.5, 0.8))
        if outcome is Outcome.UPSTREAM_ERROR:
            metrics.upstream_error(
                rng.choice(("overloaded_error", "overloaded_error", "rate_limit_error", "api_error"))
            )
            metrics.upstream_retry()
        if outcome is Outcome.REJECTED:
            metrics.upstream_error("invalid_request_error")
        self._flow(tokens * share, outcome)
        metrics.settled(account.settle(outcome, now + wait_s + tokens * share / 60))

    def _answer(self, account: Account, tokens: int, completed: bool) -> None:
        usage = {"input_tokens": 1200, "output_tokens": 1, "cache_read_input_tokens": 800}
        usage["cache_creation_input_tokens"] = 300
        account.see(_event("message_start", message={"id": "msg_1", "model": account.model, "usage": usage}))
        block, kind = self._random.choices(_BLOCKS, (70, 20, 10))[0]
        account.see(_event("content_block_start", index=0, content_block={"type": block}))
        account.see(Delta(0, kind, "four " * max(1, tokens * 4 // 5)))
        account.delivered(**{kind: int(tokens * 4 * self._random.uniform(0.9, 1.0))})
        if completed:
            account.see(_event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": tokens}))
            account.see(_event("message_stop"))
            account.delivered_all()

    def _flow(self, tokens: float, outcome: Outcome) -> None:
        rng, metrics = self._random, self.metrics
        for _ in range(int(tokens / 60) + 1):
            metrics.batch(rng.lognormvariate(-2.2, 0.3), int(rng.lognormvariate(5, 0.6)))
        metrics.ended(int(rng.lognormvariate(7, 1)))
        if outcome is Outcome.STALLED or rng.random() < 0.08:
            seconds = rng.lognormvariate(0.5, 1)
            metrics.stalled(seconds)
            metrics.paused(seconds * 0.8)

    def samples(self) -> Iterator[tuple[str, str, str, dict[str, str], float]]:
        """Family, its type, the sample's name, labels and value: `app.metrics`, and what a process and a scrape add."""
        for family in self.registry.collect():
            for sample in family.samples:
                labels = dict(sample.labels)
                if "version" in labels:
                    labels["version"] = self.version
                yield family.name, family.type, sample.name, labels, sample.value
        yield "up", "gauge", "up", {}, 1
        yield "process_start_time_seconds", "gauge", "process_start_time_seconds", {}, self.started_s
        memory = 70e6 + 2e6 * math.sin(self.cpu_s)
        yield "process_resident_memory_bytes", "gauge", "process_resident_memory_bytes", {}, memory
        yield "process_cpu_seconds", "counter", "process_cpu_seconds_total", {}, self.cpu_s


def _firing(minute: int) -> Iterator[str]:
    """What Prometheus itself writes while alerts fire: in the incident, and once a caller's budget is nearly spent."""
    for name, severity, fires in (
        ("SluicewaySlowFirstToken", "critical", minute in INCIDENT),
        ("SluicewayBudgetNearlySpent", "info", minute >= 150),
    ):
        if fires:
            yield f'ALERTS{{alertname="{name}",alertstate="firing",job="sluiceway",severity="{severity}"}}'


def story() -> str:
    """The afternoon as OpenMetrics text with timestamps."""
    workers = [
        Worker(name, seed, START_S - 5000, "0.0.9") for seed, name in enumerate(("127.0.0.1:9464", "127.0.0.1:9465"))
    ]
    types: dict[str, str] = {}
    series: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for minute in range(STEPS + 1):
        if minute == DEPLOY:
            now = START_S + minute * STEP_S
            workers = [Worker(old.name, seed + 7, now, __version__) for seed, old in enumerate(workers)]
        for line in _firing(minute):
            types["ALERTS"] = "gauge"
            series["ALERTS"][line].append(f"{line} 1 {START_S + minute * STEP_S}")
        for worker in workers:
            worker.step(minute)
            for family, kind, name, labels, value in worker.samples():
                types[family] = kind
                labels |= {"job": "sluiceway", "instance": worker.name}
                text = ",".join(f'{label}="{value}"' for label, value in labels.items())
                line = f"{name}{{{text}}}"
                series[family][line].append(f"{line} {value!r} {START_S + minute * STEP_S}")
    parts: list[str] = []
    for family, kind in types.items():
        parts.append(f"# TYPE {family} {kind}")
        for lines in series[family].values():
            parts += lines
    return "\n".join([*parts, "# EOF", ""])
