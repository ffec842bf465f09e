"""What counting costs on the way of the tokens: `python tests/bench/bench_metrics.py`, at most 3 µs a batch.

CPU time, so that a busy machine disturbs less. A batch is: the account sees one joined delta, the reader's characters are added, and two histograms observe.
"""

from __future__ import annotations

import sys
import time
import timeit

from prometheus_client import CollectorRegistry

from app.answer.events import Delta, Event
from app.answer.outcome import Outcome
from app.money.ledger import Ledger
from app.money.prices import SHIPPED, load_prices
from app.telemetry.prometheus import Metrics

LIMIT_US = 3.0
ROUNDS, TIMES = 7, 50_000
MODEL = "claude-sonnet-5-5"


def best_us(statement: object) -> float:
    assert callable(statement)
    return min(timeit.repeat(statement, timer=time.process_time, number=TIMES, repeat=ROUNDS)) / TIMES * 1e6


def main() -> None:
    prices = load_prices(SHIPPED)
    metrics, ledger = Metrics(CollectorRegistry(), [MODEL]), Ledger(prices)
    account = ledger.open(model=MODEL, max_tokens=4096, now=0.0)
    delta = Delta(0, "text", "five tokens of ordinary text ", 5)

    def batch() -> None:
        account.see(delta)
        account.delivered(text=29)
        metrics.batch(0.1, 180)

    def stream() -> None:
        own = ledger.open(model=MODEL, max_tokens=4096, now=0.0)
        own.see(Event("message_start", b"", {"message": {"model": MODEL, "usage": {"input_tokens": 9}}}))
        own.see(delta)
        if stops[0]:
            usage = {"output_tokens": 7}
            own.see(Event("message_delta", b"", {"delta": {"stop_reason": "end_turn"}, "usage": usage}))
        metrics.settled(own.settle(Outcome.COMPLETED if stops[0] else Outcome.DISCONNECTED, 1.0))

    batch_us = best_us(batch)
    print(f"a batch        {batch_us:6.2f} µs (limit {LIMIT_US})")
    for stops in ([True], [False]):
        times = 400
        seconds = min(timeit.repeat(stream, timer=time.process_time, number=times, repeat=3)) / times
        print(
            f"a stream, {'finished' if stops[0] else 'aborted '} {seconds * 1e6:6.0f} µs, open to settled and counted"
        )
    if batch_us > LIMIT_US:
        sys.exit("counting costs too much")


if __name__ == "__main__":
    main()
