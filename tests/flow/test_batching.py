"""Coalescing: what comes out means what went in, and it comes out when it is due."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.answer.events import ClaudeEvent, Delta, DeltaKind
from app.flow.batching import Batch, Window
from tests.support.fakes import event, joined, text

HIGH, LOW = "\ud83d", "\ude00"  # the halves of one code point, as two deltas may bring them

kinds: st.SearchStrategy[DeltaKind] = st.sampled_from(["text", "thinking", "input_json"])
texts = st.text(max_size=4) | st.sampled_from([HIGH, LOW, "a" + HIGH, LOW + "b", HIGH + HIGH, LOW + LOW, "", "é"])
raws = st.sampled_from([None, None, b'{"brand_new": 1}', b""])
deltas = st.builds(Delta, st.integers(0, 1), kinds, texts, st.integers(1, 3), raws)
events = st.lists(deltas | st.sampled_from([event("a"), event("b", 64)]) | st.sampled_from([text(HIGH), text(LOW)]))
# After each event, whether the batch is taken.
moments = st.lists(st.booleans(), max_size=60)


def batches_of(incoming: list[ClaudeEvent], taken: list[bool]) -> list[list[ClaudeEvent]]:
    batch, out = Batch(), []
    for place, item in enumerate(incoming):
        batch.add(item)
        if place < len(taken) and taken[place]:
            out.append(batch.take())
    return [*out, batch.take(everything=True)]


@settings(deadline=None)
@given(events, moments)
@example([text(HIGH), text(HIGH), text(LOW)], [True, True, True])
@example([text("a" + HIGH), event("a"), text(LOW)], [True, False, True])
def test_what_comes_out_means_what_went_in_whenever_it_is_taken(incoming: list[ClaudeEvent], taken: list[bool]) -> None:
    out = [item for batch in batches_of(incoming, taken) for item in batch]
    assert joined(out) == joined(incoming)


@settings(deadline=None)
@given(events, moments)
def test_every_delta_of_the_wire_is_counted_once(incoming: list[ClaudeEvent], taken: list[bool]) -> None:
    out = [item for batch in batches_of(incoming, taken) for item in batch]
    assert sum(item.count for item in out if isinstance(item, Delta)) == sum(
        item.count for item in incoming if isinstance(item, Delta)
    )


@settings(deadline=None)
@given(st.text(max_size=20), st.lists(st.integers(0, 80), max_size=8), moments)
def test_a_code_point_is_never_split_over_two_batches(whole: str, cuts: list[int], taken: list[bool]) -> None:
    units = [whole.encode("utf-16-le")[place : place + 2] for place in range(0, len(whole.encode("utf-16-le")), 2)]
    edges = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    pieces = [
        b"".join(units[start:end]).decode("utf-16-le", "surrogatepass")
        for start, end in zip(edges, edges[1:], strict=False)  # noqa: RUF007
    ]
    said: list[ClaudeEvent] = [text(piece) for piece in pieces]
    out = batches_of(said, taken)
    for batch in out:
        for item in batch:
            assert isinstance(item, Delta)
            item.text.encode()  # no half is left alone: UTF-8 can carry each frame
    assert "".join(item.text for batch in out for item in batch if isinstance(item, Delta)) == whole


@settings(deadline=None)
@given(events, moments)
def test_nothing_that_could_join_goes_out_apart(incoming: list[ClaudeEvent], taken: list[bool]) -> None:
    for batch in batches_of(incoming, taken):
        for first, second in zip(batch, batch[1:], strict=False):  # noqa: RUF007
            if isinstance(first, Delta) and isinstance(second, Delta) and first.raw is second.raw is None:
                assert (first.index, first.kind) != (second.index, second.kind)


def test_a_delta_with_more_in_it_joins_with_nothing_and_is_never_cut() -> None:
    more = Delta(0, "text", HIGH, raw=b"{}")
    assert batches_of([text("a"), more, text(LOW), more], [False, False, False, True]) == [
        [text("a"), more, text(LOW), more],
        [],
    ]


def test_blocks_and_kinds_stay_apart_and_in_order() -> None:
    stop = event("content_block_stop")
    sent: list[ClaudeEvent] = [text("a"), text("b"), Delta(0, "thinking", "c"), text("d", 1), stop, text("e", 1)]
    assert batches_of(sent, []) == [
        [text("ab", 0, 2), Delta(0, "thinking", "c"), text("d", 1), stop, text("e", 1)],
    ]


def test_half_a_code_point_waits_for_its_other_half() -> None:
    batch = Batch()
    batch.add(text("a" + HIGH))
    assert batch.take() == [text("a")]
    assert batch
    assert batch.take() == []
    batch.add(text(LOW + "b"))
    assert batch.take() == [text("😀b")]
    assert not batch


def test_half_a_code_point_goes_as_it_is_once_something_else_follows() -> None:
    batch = Batch()
    batch.add(text(HIGH))
    batch.add(event("a"))
    assert batch.take() == [text(HIGH), event("a")]


def test_half_a_code_point_goes_as_it_is_at_the_end() -> None:
    batch = Batch()
    batch.add(text(HIGH))
    assert batch.take() == []
    assert batch.take(everything=True) == [text(HIGH)]


def test_a_batch_knows_how_many_bytes_wait() -> None:
    batch = Batch()
    assert (batch.size_bytes, bool(batch)) == (0, False)
    batch.add(text("abc"))
    batch.add(event("a", 64))
    assert (batch.size_bytes, bool(batch)) == (67, True)
    batch.take()
    assert (batch.size_bytes, bool(batch)) == (0, False)
    batch.add(text("ab" + HIGH))
    batch.take()
    assert batch.size_bytes == 3  # half of a pair, as `surrogatepass` encodes it


@pytest.mark.parametrize(
    ("characters", "size_bytes"), [("abc", 3), ("é", 2), ("漢字", 6), ("🙂", 4), (HIGH, 3), ("", 0)]
)
def test_a_batch_counts_a_characters_bytes_as_utf_8(characters: str, size_bytes: int) -> None:
    batch = Batch()
    batch.add(text(characters))
    batch.add(text(characters))
    assert batch.size_bytes == 2 * size_bytes


# The window

windows = st.floats(0, 5)
drains = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=40)  # (pause before, time to drain)


def test_the_first_batch_is_due_at_once() -> None:
    assert Window(0.1, 1).due_at < 0


@settings(deadline=None)
@given(windows, windows, drains)
def test_the_window_stays_within_its_bounds(window_s: float, max_s: float, times: list[tuple[float, float]]) -> None:
    window, now = Window(window_s, max_s), 0.0
    for pause_s, drain_s in times:
        now += pause_s
        window.sent(now, now + drain_s)
        assert window_s <= window.window_s <= max(window_s, max_s)
        assert now <= window.due_at <= now + window.window_s
        now += drain_s


@settings(deadline=None)
@given(st.floats(0.01, 1), drains)
def test_the_window_grows_only_when_a_drain_took_longer(window_s: float, times: list[tuple[float, float]]) -> None:
    window, now = Window(window_s, 60), 0.0
    for pause_s, drain_s in times:
        now += pause_s
        before = window.window_s
        window.sent(now, now + drain_s)
        took = (now + drain_s) - now
        assert (window.window_s > before) == (took > before)
        now += drain_s


@settings(deadline=None)
@given(st.floats(0.01, 1), drains)
def test_a_reader_that_catches_up_gets_the_short_window_back(window_s: float, times: list[tuple[float, float]]) -> None:
    window, now = Window(window_s, 60), 0.0
    for _, drain_s in times:
        window.sent(now, now + drain_s)
        now += drain_s
    for _ in range(14):  # 0.01 s is doubled at most 13 times on the way to 60
        window.sent(now, now)
    assert window.window_s == window_s


def test_the_window_doubles_while_the_reader_lags_and_halves_after() -> None:
    window = Window(0.1, 0.5)
    seen = []
    for drain_s in (1, 1, 1, 1, 0, 0, 0, 0):
        window.sent(0, drain_s)
        seen.append(window.window_s)
    assert seen == [0.2, 0.4, 0.5, 0.5, 0.25, 0.125, 0.1, 0.1]


def test_without_a_window_each_batch_is_due_at_once() -> None:
    window = Window(0, 0)
    window.sent(5, 6)
    assert window.due_at == 5


def test_a_window_of_zero_grows_from_a_millisecond_while_the_reader_lags() -> None:
    window = Window(0, 1)
    window.sent(5, 6)
    assert window.window_s == 0.001


def test_a_largest_window_below_the_window_means_no_growth() -> None:
    window = Window(0.1, 0)
    window.sent(0, 60)
    assert window.window_s == 0.1
