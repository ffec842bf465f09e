"""What processes share: draws that never pass a budget, and what a process that died had drawn, booked by whoever is next."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.access.limits import Late, Want
from app.streams import limits_file
from app.streams.state import Draft, SharedState, StateAway, Taking

DAY = ("acme", "day", "2026-11-26")
LIMIT = 1_000_000
NOW = 1_795_600_000.0


def draft(book: int = 0, keep: int = 0, least: int = 0, ahead: int = 0) -> Draft:
    return Draft(*DAY, LIMIT, book, keep, least, ahead)


def state(folder: Path, dead: list[int] | None = None) -> SharedState:
    return SharedState(folder / "state", lambda: NOW, (dead if dead is not None else []).append)


def rows(folder: Path, table: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "state" / "limits.sqlite3") as db:
        found = db.execute(f"SELECT * FROM {table}").fetchall()
    db.close()
    return found


def rows_or_none(folder: Path) -> list[tuple[object, ...]]:
    return rows(folder, "owed") if (folder / "state").exists() else []


def killed(process: SharedState) -> None:
    """As the kernel does it: the lock is free, and nothing else was done."""
    assert process._lock is not None
    os.close(process._lock)
    process._lock = None
    process._thread.submit(process._disconnect)
    process._thread.shutdown()


async def test_two_processes_draw_from_one_budget_and_never_more_than_it_has(tmp_path: Path) -> None:
    async with state(tmp_path) as one, state(tmp_path) as two:
        (mine,) = await one.draw([draft(least=600_000)])
        (theirs,) = await two.draw([draft(least=600_000)])
        assert (mine.granted, theirs.granted, theirs.others) == (600_000, 400_000, 600_000)
        (mine,) = await one.draw([draft(book=100_000, keep=500_000, least=1)])
        assert (mine.granted, mine.spent, mine.others) == (0, 100_000, 400_000)
        (theirs,) = await two.draw([draft(book=50_000, keep=0)])
        assert (theirs.granted, theirs.spent, theirs.others) == (0, 150_000, 500_000)
        (mine,) = await one.draw([draft(keep=500_000, least=1000, ahead=1_000_000)])
        assert mine.granted == 1000 + 34_900, "what it needs, and a tenth of the rest"


async def test_processes_that_make_the_file_at_the_same_time_all_get_in(tmp_path: Path) -> None:
    for attempt in range(60):  # one of ten met the other in the middle of it
        place = Taking("acme", 1, 1, None, 2)
        (tmp_path / str(attempt)).mkdir()
        async with state(tmp_path / str(attempt)) as one, state(tmp_path / str(attempt)) as two:
            assert set(await asyncio.gather(one.take([], place), two.take([], place))) == {None}


async def test_a_file_that_is_anothers_for_good_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_file, "_BUSY_S", 0.0)
    (tmp_path / "state").mkdir()
    other = sqlite3.connect(tmp_path / "state" / "limits.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    async with state(tmp_path) as one:
        with pytest.raises(StateAway, match="locked"):
            await one.draw([])
        other.close()
        await one.draw([])


async def test_what_a_killed_process_had_drawn_is_spent_and_its_places_are_free(tmp_path: Path) -> None:
    dead: list[int] = []
    place = Taking("acme", 1, 1, 1, None)
    gone = state(tmp_path)
    await gone.__aenter__()
    await gone.draw([draft(least=300_000)])
    await gone.draw([draft(book=100_000, keep=200_000)])
    assert await gone.take([], place) is None
    async with state(tmp_path, dead) as other:
        assert await other.take([], place) == "streams"
        await other.reap()
        assert dead == [], "it lives"
        killed(gone)
        await other.reap()
        assert dead == [200_000]
        assert rows(tmp_path, "spent") == [(*DAY, 300_000)]
        assert rows(tmp_path, "drawn") == rows(tmp_path, "places") == []
        assert await other.take([], place) is None
    async with state(tmp_path, dead):
        assert dead == [200_000], "booked once"


async def test_the_next_process_books_it_before_anything_else(tmp_path: Path) -> None:
    dead: list[int] = []
    gone = state(tmp_path)
    await gone.__aenter__()
    await gone.draw([draft(least=1000)])
    killed(gone)
    async with state(tmp_path, dead):
        assert dead == [1000]


async def test_a_process_that_ends_well_leaves_no_place_and_no_lock(tmp_path: Path) -> None:
    async with state(tmp_path) as one:
        await one.take([], Taking("acme", 1, 1, 5, 5))
        await one.draw([draft(book=0, keep=0)])
    assert rows(tmp_path, "places") == rows(tmp_path, "drawn") == []
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["limits.sqlite3"]


async def test_nothing_is_opened_before_it_is_asked(tmp_path: Path) -> None:
    async with state(tmp_path):
        assert not (tmp_path / "state").exists()


async def test_places_hold_for_all_processes_together_and_exactly(tmp_path: Path) -> None:
    async with state(tmp_path) as one, state(tmp_path) as two:
        taken = {one: 0, two: 0}

        async def ask(process: SharedState) -> bool:
            taken[process] += 1
            refused = await process.take([], Taking("acme", taken[process], taken[process], 100, None))
            if refused is not None:
                taken[process] -= 1
                process.note([("acme", taken[process])], [])
            return refused is None

        let_in = await asyncio.gather(*(ask(process) for _ in range(500) for process in (one, two)))
        assert sum(let_in) == 100
        one.note([("acme", taken[one] - 1)], [])
        taken[one] -= 1
        for process in (one, two):
            await process.reap()  # what was noted is written by then
        assert await ask(two)
        assert not await ask(two)


async def test_a_subject_has_a_bound_of_its_own_that_counts_nothing_twice(tmp_path: Path) -> None:
    ann = Taking("acme", 1, 1, 9, 3, "acme\nann", 1, 1)
    async with state(tmp_path) as one, state(tmp_path) as two:
        assert await one.take([], ann) is None
        assert await two.take([], ann) == "token streams"
        assert await two.take([], Taking("acme", 1, 1, 9, 3, "acme\nbob", 1, 1)) is None
        assert await two.take([], Taking("acme", 2, 2, 9, 3)) is None
        assert await two.take([], Taking("acme", 3, 3, 9, 3)) == "all streams"
        one.note([("acme", 0), ("acme\nann", 0)], [])
        await one.reap()  # what was noted is written by then
        assert await two.take([], ann) is None


async def test_what_a_token_spent_is_forgotten_the_day_after_it_expired(tmp_path: Path) -> None:
    spent = [("acme", "token", "2026-11-24 old"), ("acme", "token", "2026-11-25 new"), DAY]
    now = 1_795_651_200.0  # 2026-11-26
    async with SharedState(tmp_path / "state", lambda: now) as one:
        await one.draw([Draft(*key, limit=10, book=1, keep=0) for key in spent])
        now += 3600
        await one.draw([])
    assert [row[:3] for row in rows(tmp_path, "spent")] == sorted([spent[1], DAY])


async def test_all_callers_together_have_a_bound_too(tmp_path: Path) -> None:
    async with state(tmp_path) as one, state(tmp_path) as two:
        assert await one.take([], Taking("a", 1, 1, None, 2)) is None
        assert await two.take([], Taking("b", 1, 1, None, 2)) is None
        assert await two.take([], Taking("c", 1, 2, None, 2)) == "all streams"


async def test_rates_hold_for_all_processes_together_and_a_refusal_takes_nothing(tmp_path: Path) -> None:
    want, tokens = Want(("requests", "acme"), 3), Want(("output-tokens", "acme"), 1000, 200)
    async with state(tmp_path) as one, state(tmp_path) as two:
        for process in (one, two, one):
            assert await process.take([want, tokens], Taking("acme", 1, 1, None, None)) is None
        late = await two.take([want, tokens], Taking("acme", 2, 2, None, None))
        assert isinstance(late, Late)
        assert late.want == want
        assert late.wait_s == pytest.approx(20)
        assert ("acme", 2) not in [row[1:] for row in rows(tmp_path, "places")]
        one.note([], [Want(tokens.key, 1000, 5000)])
        await one.reap()  # it is written by then
        late = await two.take([tokens], Taking("acme", 1, 1, None, None))
        assert isinstance(late, Late)
        assert late.wait_s == pytest.approx(60 * 4.8)
        one.note([], [Want(tokens.key, 1000, -5600)])
        await one.reap()
        assert await two.take([tokens], Taking("acme", 1, 1, None, None)) is None


async def test_a_clock_that_was_ahead_makes_nobody_wait_for_it_not_even_after_a_restart(tmp_path: Path) -> None:
    want, place = Want(("requests", "acme"), 1), Taking("acme", 1, 1, None, None)
    for late_s in (60.0, 21.0):
        async with state(tmp_path) as one:
            if not rows_or_none(tmp_path):
                one._now = lambda: NOW + 3_459_526
                assert await one.take([want], place) is None
            one._now = lambda at=NOW + 60 - late_s: at  # type: ignore[misc]
            late = await one.take([want], place)
            assert isinstance(late, Late)
            assert late.wait_s == pytest.approx(late_s), "it is seen once, though it was refused"


async def test_a_file_that_cannot_be_used_is_said_once_and_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    folder.touch()
    async with state(tmp_path) as one:
        for _ in range(3):
            with pytest.raises(StateAway):
                await one.draw([draft(least=1)])
        one.note([("acme", 1)], [])
        folder.unlink()
        (balance,) = await one.draw([draft(least=1)])
        assert balance.granted == 1
    told = [record.levelno for record in caplog.records if "limits.sqlite3" in record.message]
    assert told == [logging.ERROR, logging.WARNING]


@pytest.mark.parametrize("lost", ["folder", "file"])
async def test_a_file_that_is_removed_is_made_anew_and_what_is_spent_kept_there(
    lost: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead: list[int] = []
    async with state(tmp_path, dead) as one, state(tmp_path, dead) as two:
        for process in (one, two):
            await process.draw([draft(book=1000, keep=50)])
        if lost == "folder":
            shutil.rmtree(tmp_path / "state")
        else:
            (tmp_path / "state" / "limits.sqlite3").unlink()
        for process in (one, two, one, two):
            await process.draw([draft(book=10, keep=50)])
        assert rows(tmp_path, "spent") == [(*DAY, 40)]
        for process in (one, two):
            await process.reap()
        assert dead == [], "both are known to live"
        assert len(rows(tmp_path, "drawn")) == 2
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(": ")[0] for line in told] == [
        f"{tmp_path}/state/limits.sqlite3 was removed or replaced"
    ] * 2


async def test_a_file_that_is_moved_over_it_is_the_one_that_counts(tmp_path: Path) -> None:
    file = tmp_path / "state" / "limits.sqlite3"
    async with state(tmp_path) as one, state(tmp_path) as two:
        await one.draw([draft(book=1000)])
        await two.draw([draft(book=1000)])
        with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(file)) as db:
            db.backup(copy)
        for process in (one, two):
            await process.draw([draft(book=500_000, keep=7)])  # stands beside the file that is replaced
        (tmp_path / "copy").rename(file)
        (balance,) = await one.draw([draft(book=10, keep=7)])
        assert balance.spent == 2010
        (balance,) = await two.draw([draft(book=10, keep=7)])
        assert (balance.spent, balance.others) == (2020, 7)
        assert (await one.draw([draft()]))[0].spent == 2020
    assert rows(tmp_path, "spent") == [(*DAY, 2020)]
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "state" / "limits.sqlite3"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE spent (something TEXT)")
        db.execute("PRAGMA user_version = 2")
    before = file.read_bytes()
    async with state(tmp_path) as one:
        for _ in range(2):
            with pytest.raises(StateAway, match=r"it is of version 2, .* this one reads version 1"):
                await one.draw([draft(least=1)])
    assert file.read_bytes() == before
    (told,) = caplog.records
    assert told.getMessage().startswith(f"{file}: budgets and shared limits cannot be kept")


async def test_a_full_disk_writes_nothing_and_heals(tmp_path: Path) -> None:
    async with state(tmp_path) as one:
        await one.draw([draft(least=10)])
        assert one._connection is not None
        one._connection.execute("PRAGMA max_page_count = 1")
        names = [Draft(f"caller{n:050}", "day", "2026-11-26", LIMIT, 1, 1) for n in range(500)]
        with pytest.raises(StateAway):
            await one.draw(names)
        assert rows(tmp_path, "spent") == []
        await one.draw(names)  # on a connection of its own, which knows no such bound
        assert len(rows(tmp_path, "spent")) == 500


async def test_what_is_long_past_is_forgotten(tmp_path: Path) -> None:
    async with state(tmp_path) as one:
        await one.draw(
            [Draft("acme", "day", "2024-01-01", LIMIT, 5, 0), Draft("acme", "month", "2025-11", LIMIT, 5, 0)]
        )
        await one.take([Want(("requests", "acme"), 60)], Taking("acme", 1, 1, None, None))
        assert len(rows(tmp_path, "owed")) == 1
        one._now = lambda: NOW + 120
        await one.reap()
        assert rows(tmp_path, "spent") == [("acme", "month", "2025-11", 5)]
        assert rows(tmp_path, "owed") == []


async def test_its_folder_and_file_are_its_owners_alone(tmp_path: Path) -> None:
    async with state(tmp_path) as one:
        await one.draw([draft(least=1)])
        folder = tmp_path / "state"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "limits.sqlite3").stat().st_mode & 0o777 == 0o600
