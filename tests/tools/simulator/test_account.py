"""The simulated account: its bucket, its other traffic, and what answers draw from it unread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tools.simulator.account import Account, AccountPlan, Draw, Exhausted
from app.tools.simulator.scenario import Scenario
from app.tools.simulator.server import Simulator
from tests.support import loopback
from tests.support.peer import Peer

NOW = 1_700_000_000.0


def opened(account: Account, now: float = NOW, max_tokens: int = 1000) -> Draw:
    return account.open(now, "claude-opus-5-5", input_tokens=10, max_tokens=max_tokens)


def remaining(account: Account, now: float) -> int:
    return int(dict(account.headers(now))["anthropic-ratelimit-output-tokens-remaining"])


def test_a_bucket_shows_thousands_and_refills_to_its_limit_in_a_minute() -> None:
    account = Account(AccountPlan(output_limit=60_000))
    account.generated(opened(account), NOW, 20_400)

    shown = [remaining(account, NOW + seconds) for seconds in (0, 1, 10, 20.4, 100)]
    assert shown == [40_000, 41_000, 50_000, 60_000, 60_000]
    assert dict(account.headers(NOW + 100))["anthropic-ratelimit-output-tokens-reset"] == "2023-11-14T22:15:00Z"


def test_tokens_in_advance_are_taken_at_the_start_and_adjusted_at_the_end() -> None:
    account = Account(AccountPlan(output_limit=60_000, reserve=True))
    draw = opened(account, max_tokens=30_000)
    account.generated(draw, NOW, 10_000)
    assert remaining(account, NOW) == 30_000

    account.close(draw, NOW)
    account.close(draw, NOW)
    assert (remaining(account, NOW), draw.consumed) == (50_000, 10_000)


@pytest.mark.parametrize(("reserve", "max_tokens"), [(False, 1), (True, 5_000)])
def test_an_empty_bucket_refuses_and_says_when_to_come_back(reserve: bool, max_tokens: int) -> None:
    account = Account(AccountPlan(output_limit=6_000, reserve=reserve))
    account.generated(opened(account, max_tokens=6_000), NOW, 6_000)

    with pytest.raises(Exhausted) as refused:
        opened(account, max_tokens=max_tokens)
    opened(account, NOW + refused.value.retry_after_s + 10, max_tokens)


def test_generation_that_runs_on_is_drawn_at_its_rate_and_stops_when_held() -> None:
    account = Account(AccountPlan(output_limit=600_000))
    draw = opened(account)
    account.generated(draw, NOW, 100)
    account.run_on(draw, NOW, until=500, rate=40.0, then_close=False)
    account.hold(draw, NOW + 5)
    assert draw.consumed == 300

    account.advance(NOW + 60)
    assert draw.consumed == 300
    account.generated(draw, NOW + 60, 250)
    assert draw.consumed == 300, "what was generated ahead does not count twice"


def test_other_traffic_comes_to_its_rate_and_is_in_the_usage_report() -> None:
    account = Account(AccountPlan(output_limit=60_000, noise=100.0, seed=3))
    account.advance(NOW)
    account.advance(NOW + 36_000)

    assert account.noise_tokens == pytest.approx(3_600_000, rel=0.1)
    report = account.usage_report(NOW + 36_000, NOW, NOW + 36_060, "claude-opus-5-5")
    told = sum(result["output_tokens"] for bucket in report["data"] for result in bucket["results"])
    assert told == pytest.approx(account.noise_tokens, rel=0.01)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 5_000), st.booleans()), max_size=20),
    st.booleans(),
    st.just(0.0) | st.floats(1, 200),
)
def test_the_level_never_passes_its_limit_and_every_token_is_reported_once(
    answers: list[tuple[float, int, bool]], reserve: bool, noise: float
) -> None:
    account = Account(AccountPlan(output_limit=100_000, reserve=reserve, noise=noise))
    now, draws = NOW, []
    for wait_s, tokens, runs_on in answers:
        now += wait_s
        try:
            draw = opened(account, now, max(1, tokens))
        except Exhausted:
            continue
        account.generated(draw, now, tokens // 2)
        account.run_on(draw, now, tokens if runs_on else 0, 100.0, then_close=True)
        draws.append((draw, tokens if runs_on else tokens // 2))
        assert account.level <= 100_000
    account.advance(now + 1000)

    assert [draw.consumed for draw, _ in draws] == [tokens for _, tokens in draws]
    assert not any(draw.reserved for draw, _ in draws)
    own = sum(draw.consumed for draw, _ in draws)
    # A noise answer is fractional here and whole in the report.
    assert sum(account.usage["output"].values()) - own == pytest.approx(account.noise_tokens, rel=0.01, abs=1)


@pytest.mark.real
@pytest.mark.parametrize(
    ("manner", "consumed"), [("stops", range(50, 80)), ("late", range(150, 180)), ("never", range(1000, 1001))]
)
def test_the_books_say_what_was_consumed_after_the_reader_left(manner: str, consumed: range) -> None:
    async def scene() -> None:
        async with Simulator(Scenario(tokens=1000, rate=100, on_abort=manner, late_s=0.6, late_tokens=40)) as simulator:
            peer = await Peer.connect(simulator)
            await peer.ask("text=numbered")
            await peer.read_until(b"token0050")
            peer.close()
            book = await simulator.book()
            await book.ended.wait()
            simulator.account.advance(simulator.epoch() + 60)
            assert book.tokens < 80
            assert book.consumed in consumed
            assert book.entry(0.0)["consumed"] == book.consumed

    loopback.run(scene())


@pytest.mark.real
@pytest.mark.parametrize(("manner", "ahead"), [("stops", 0), ("late", 60), ("never", None)])
def test_the_books_say_what_was_consumed_while_nobody_read(manner: str, ahead: int | None) -> None:
    async def scene() -> None:
        told = Scenario(tokens=20_000, on_pause=manner, late_tokens=60, padding_bytes=1000)
        async with Simulator(told) as simulator:
            peer = await Peer.connect(simulator, rcvbuf_bytes=4096)
            await peer.ask("")
            await peer.read_until(b"content_block_delta")
            book = await simulator.book()
            await book.is_blocked.wait()
            simulator.account.advance(simulator.epoch())
            assert book.consumed == (book.would_have if ahead is None else book.tokens + ahead)
            peer.close()
            await book.ended.wait()

    loopback.run(scene())
