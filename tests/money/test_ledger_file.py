"""What the ledger learned survives a restart, is shared by workers, and never keeps the service from starting."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.answer.outcome import Outcome
from app.money import ledger_file
from app.money.ledger import Ledger
from app.money.ledger_file import LedgerFile
from app.money.prices import Prices
from tests.support.books import settled, start, text
from tests.support.clock import jumping
from tests.support.ledger_streams import finish_one

MODEL = "claude-opus-4-8"
NO_PRICES = Prices()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.json"


class Worker:
    """A ledger that has read the file, as a worker does at its start."""

    def __init__(self, path: Path, now: float = 0.0) -> None:
        self.ledger = Ledger(NO_PRICES)
        self.file = LedgerFile(path, self.ledger)
        self.file.load(now)

    def answers(self, count: int, *, tokens: int = 100, chars: int = 400, now: float = 0.0) -> Worker:
        for _ in range(count):
            finish_one(self.ledger, chars=chars, tokens=tokens, model=MODEL, now=now)
        return self

    def leave(self, count: int) -> Worker:
        """So many readers leave in mid-answer."""
        for _ in range(count):
            settled(self.ledger, Outcome.DISCONNECTED, start(MODEL), text(40), model=MODEL)
        return self

    def save(self, now: float = 0.0) -> Worker:
        assert self.file.save(now)
        return self

    @property
    def learned(self) -> tuple[int, int]:
        """How many answers its rates and its curve stand on."""
        return known(self.ledger.dump(0.0))


def known(dump: dict[str, Any]) -> tuple[int, int]:
    model = dump["models"].get(MODEL, {"rates": {"learned": 0}, "curves": []})
    finished = sum(row[0] for curve in model["curves"] for row in curve["bins"].values())
    return model["rates"]["learned"], round(finished)


def kept(path: Path) -> tuple[int, int]:
    """The same, of the file."""
    return known(json.loads(path.read_text())["ledger"])


def test_what_was_learned_is_back_after_a_restart(path: Path) -> None:
    before = Worker(path).answers(60, tokens=200).save(now=1000.0)
    after = Worker(path, now=5.0)
    assert after.ledger.tokens_each(MODEL) == pytest.approx(before.ledger.tokens_each(MODEL), rel=1e-3)
    assert after.ledger.tokens_each(MODEL) != Ledger(NO_PRICES).tokens_each(MODEL)


def test_a_missing_file_is_a_first_start(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Worker(path).learned == (0, 0)
    assert not caplog.records


def test_a_save_replaces_the_file_whole_and_leaves_nothing_beside_it(path: Path) -> None:
    worker = Worker(path)
    worker.save().save(1.0)
    assert json.loads(path.read_text())["ledger"]["version"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_link_to_the_file_stays_one(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    Worker(link).answers(3).save()
    assert link.is_symlink()
    assert kept(path) == (3, 3)


# Several workers.


def test_workers_do_not_overwrite_each_others_answers(path: Path) -> None:
    for worker in [Worker(path) for _ in range(3)]:
        worker.answers(20).save()
    assert kept(path) == (60, 60)


@pytest.mark.parametrize("seed", range(8))
def test_in_whatever_order_they_save_each_answer_is_kept_once_and_known_to_all(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    workers, came = [Worker(path) for _ in range(4)], 0
    for _ in range(40):
        count = rng.randint(0, 5)
        rng.choice(workers).answers(count)
        came += count
        rng.choice(workers).save()
    for worker in workers:
        worker.save()
    assert kept(path) == (came, came)
    for worker in workers:
        worker.save()
        assert worker.learned == (came, came)
        assert worker.ledger.tokens_each(MODEL) == pytest.approx(workers[-1].ledger.tokens_each(MODEL))


def test_of_all_workers_answers_the_rate_is_what_one_would_have_learned(path: Path) -> None:
    alone, rng = Worker(path.with_name("alone.json")), random.Random(4)
    workers = [Worker(path) for _ in range(3)]
    for number in range(300):
        tokens = rng.randint(80, 120)
        for worker in (alone, workers[number % 3]):
            worker.answers(1, tokens=tokens)
        if number % 30 == 0:
            workers[rng.randrange(3)].save()
    for worker in workers:
        worker.save()
    assert workers[-1].ledger.tokens_each(MODEL)[0] == pytest.approx(alone.ledger.tokens_each(MODEL)[0], rel=0.01)


def test_another_number_of_workers_next_time_loses_nothing(path: Path) -> None:
    for workers in (4, 1, 3):
        for worker in [Worker(path) for _ in range(workers)]:
            worker.answers(10).save()
    assert kept(path) == (80, 80)


def test_a_tokenizer_that_one_worker_saw_change_is_known_to_the_others(path: Path) -> None:
    one, two = Worker(path), Worker(path)
    one.answers(200).save()
    two.save()
    one.answers(60, tokens=20).save()
    two.answers(2, tokens=20).save()
    assert two.ledger.tokens_each(MODEL)[0] == pytest.approx(20 / 400, rel=0.05)
    one.save()
    assert one.ledger.tokens_each(MODEL)[0] == pytest.approx(20 / 400, rel=0.05)


def test_abandoned_answers_are_shared_too(path: Path) -> None:
    for worker in [Worker(path) for _ in range(2)]:
        worker.leave(5).save()
    curves = json.loads(path.read_text())["ledger"]["models"][MODEL]["curves"]
    assert sum(row[2] for curve in curves for row in curve["bins"].values()) == pytest.approx(10)


def test_a_save_that_fails_counts_nothing_twice_and_loses_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = Worker(path), Worker(path)
    in_the_way = path.with_name("ledger.json.new")
    one.answers(10).save()
    two.answers(20)
    in_the_way.mkdir()
    two.save()
    two.save()
    assert caplog.text.count("could not be saved") == 1, "said once, however often it is tried"
    assert (kept(path), two.learned) == ((10, 10), (30, 30))
    in_the_way.rmdir()
    one.answers(1).save()
    two.save()
    assert kept(path) == (31, 31)
    assert caplog.messages[-1] == f"what the ledger learned is saved in {path} again"


def test_a_disk_that_is_full_is_not_kept_full_by_what_was_written_until_then(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def half(self: Path, raw: bytes) -> int:
        with self.open("wb") as file:
            file.write(raw[: len(raw) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    worker = Worker(path).answers(10)
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", half)
        worker.save()
    assert list(path.parent.iterdir()) == []
    assert caplog.messages[-1].endswith("and is kept in memory: No space left on device")
    worker.save()
    assert kept(path) == (10, 10)


def test_what_is_old_in_the_file_fades_as_it_does_in_memory(path: Path) -> None:
    week = 7 * 86400.0
    one, two = Worker(path).answers(80), Worker(path)
    one.save()
    two.save()
    two.answers(10, now=2 * week).save(2 * week)
    one.save(2 * week)
    finished = sum(
        row[0] for curve in one.ledger.dump(2 * week)["models"][MODEL]["curves"] for row in curve["bins"].values()
    )
    assert finished == pytest.approx(80 / 4 + 10, rel=0.01)


@pytest.mark.real
def test_processes_that_save_at_once_keep_every_answer(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.money.test_ledger_file import Worker\n"
        "worker = Worker(Path(sys.argv[1]))\n"
        "for _ in range(6): worker.answers(5); worker.file.save_at_the_end(0.0)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, path]) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert kept(path) == (90, 90)


def saved(path: Path) -> bool:
    return path.exists()


def holding(path: Path) -> int:
    """The lock, as another process would hold it: a lock of its own for each time a folder is opened."""
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    return folder


def test_while_another_process_has_the_lock_nothing_is_written(path: Path) -> None:
    worker = Worker(path).answers(5)
    folder = holding(path)
    assert not worker.file.save(0.0)
    assert not saved(path)
    os.close(folder)
    assert worker.file.save(0.0)
    assert kept(path) == (5, 5)


def test_the_last_save_gives_up_on_a_lock_that_is_never_given_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger_file, "AT_THE_END_S", 0.0)
    folder = holding(path)
    Worker(path).file.save_at_the_end(0.0)
    os.close(folder)
    assert "another process holds" in caplog.text


async def test_it_is_saved_at_the_end(path: Path) -> None:
    now = asyncio.get_running_loop().time()  # for how long the machine has run, which is months for some
    worker = Worker(path, now)
    task = asyncio.create_task(worker.file.keep())
    await asyncio.sleep(0)  # it has begun to wait
    worker.answers(7, now=now)
    task.cancel()
    await asyncio.wait([task])
    assert kept(path) == (7, 7)


@jumping
async def test_it_is_saved_once_in_a_while(path: Path) -> None:
    worker = Worker(path)
    task = asyncio.create_task(worker.file.keep())
    worker.answers(3)
    await asyncio.sleep(ledger_file.SAVE_EVERY_S - 1)
    assert not saved(path)
    await asyncio.sleep(2)
    assert kept(path) == (3, 3)
    worker.answers(2)
    await asyncio.sleep(ledger_file.SAVE_EVERY_S)
    assert kept(path) == (5, 5)
    task.cancel()
    await asyncio.wait([task])


@jumping
async def test_a_save_that_meets_a_lock_is_made_up_for_soon_after(path: Path) -> None:
    worker = Worker(path).answers(3)
    task = asyncio.create_task(worker.file.keep())
    folder = holding(path)
    await asyncio.sleep(ledger_file.SAVE_EVERY_S + 5)
    assert not saved(path)
    os.close(folder)
    await asyncio.sleep(2 * ledger_file.BUSY_S)
    assert kept(path) == (3, 3)
    task.cancel()
    await asyncio.wait([task])


def test_the_last_save_waits_a_little_for_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, folder = Worker(path).answers(3), holding(path)
    slept: list[float] = []

    def meanwhile(seconds: float) -> None:
        slept.append(seconds)
        os.close(folder)  # the other process is done

    monkeypatch.setattr(time, "sleep", meanwhile)
    worker.file.save_at_the_end(0.0)
    assert slept == [ledger_file.BUSY_S]
    assert kept(path) == (3, 3)


def test_where_folders_cannot_be_locked_one_worker_alone_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_folder: int, _how: int) -> None:
        raise OSError("no locks on this file system")

    caplog.set_level("INFO")
    monkeypatch.setattr(fcntl, "flock", refused)
    Worker(path).answers(3).save()
    assert kept(path) == (3, 3)
    assert "without a lock, so for one worker alone" in caplog.text


def test_a_file_that_cannot_be_read_is_said_and_nothing_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(tmp_path / ("x" * 300))  # a name that no file system takes
    assert worker.learned == (0, 0)
    assert "cannot be read" in caplog.text


def test_what_another_worker_has_just_set_aside_is_not_said_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Worker(path).answers(3).save()

    def damaged(*_read: object) -> None:
        path.unlink()  # by the other one, in the meantime
        raise ValueError("damaged")

    ledger = Ledger(NO_PRICES)
    monkeypatch.setattr(ledger, "restore", damaged)
    LedgerFile(path, ledger).load(0.0)
    assert not caplog.records


def test_what_another_one_saved_long_ago_has_faded_when_it_is_joined(path: Path) -> None:
    late = Worker(path)
    Worker(path).answers(80).save()
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"saved_at": saved["saved_at"] - 70 * 86_400}))
    late.answers(1).save()
    assert kept(path)[1] == 1, "ten half-lives leave next to nothing of eighty"
    late.answers(1, now=7 * 86_400.0).save(7 * 86_400.0)
    assert kept(path)[1] == 2


# Files that cannot be used.


def dumped(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A file with one thing changed."""
    worker = Ledger(NO_PRICES)
    finish_one(worker, chars=400, tokens=100, model=MODEL)
    saved: dict[str, Any] = {"saved_at": 1.0, "ledger": worker.dump(0.0)}
    change(saved)
    return json.dumps(saved).encode()


def rates(saved: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = saved["ledger"]["models"][MODEL]["rates"]
    return found


def curve(saved: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = saved["ledger"]["models"][MODEL]["curves"][0]
    return found


WHOLE = dumped(lambda saved: None)
DAMAGED = {
    "empty": b"",
    "half written": WHOLE[: len(WHOLE) // 2],
    "not UTF-8": b"\xff\xfe" + WHOLE,
    "nought bytes": bytes(4096),
    "a list": b"[]",
    "a number": b"7",
    "without a ledger": b'{"saved_at": 1}',
    "another version": b'{"saved_at": 1, "ledger": {"version": 9}}',
    "deep": b'{"saved_at": 1, "ledger": ' + b"[" * 100_000,
    "deep and closed": b'{"saved_at": 1, "ledger": %b%b}' % (b'{"a":' * 50_000, b"1" + b"}" * 50_000),
    "endless digits": dumped(lambda saved: None).replace(b'"saved_at": 1.0', b'"saved_at": ' + b"9" * 5000),
    "saved at 10**400": dumped(lambda saved: saved.update(saved_at=10**400)),
    "a huge weight": dumped(lambda saved: rates(saved).update(seen=10**400)),
    "a weight of NaN": dumped(lambda saved: rates(saved).update(seen=math.nan)),
    "a weight of infinity": dumped(lambda saved: curve(saved)["bins"].update({"7": [math.inf, 1, 0, 0, 0]})),
    "a weight below nought": dumped(lambda saved: curve(saved)["bins"].update({"7": [-1, 1, 0, 0, 0]})),
    "too few weights": dumped(lambda saved: curve(saved)["bins"].update({"7": [1]})),
    "a bin that is none": dumped(lambda saved: curve(saved)["bins"].update({"99999": [1, 1, 0, 0, 0]})),
    "faded to a time to come": dumped(lambda saved: curve(saved).update(faded_to_s=-1e308)),
    "models in a list": dumped(lambda saved: saved["ledger"].update(models=[1])),
    "a model that is none": dumped(lambda saved: saved["ledger"]["models"].update(x=None)),
    "recent answers that are none": dumped(lambda saved: rates(saved).update(recent=[[["x"]], [], [], []])),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_set_aside_and_said_in_one_line(
    path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(DAMAGED[name])
    with caplog.at_level(logging.INFO):
        worker = Worker(path)
    assert worker.learned == (0, 0)
    (record,) = caplog.records
    assert "begins anew" in record.getMessage()
    assert len(record.getMessage()) < 600
    (aside,) = path.parent.glob("ledger.json.damaged-*")
    assert aside.read_bytes() == DAMAGED[name]
    worker.answers(4).save()
    assert kept(path) == (4, 4)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_damaged_while_it_runs_costs_nothing_that_is_known(
    path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(path).answers(30).save()
    path.write_bytes(DAMAGED[name])
    worker.answers(4).save()
    assert kept(path) == (34, 34)
    assert len(caplog.records) == 1


def test_a_folder_in_the_files_place_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path / "something").mkdir(parents=True)
    worker = Worker(path).answers(4)
    worker.save()
    assert kept(path) == (4, 4)
    (aside,) = path.parent.glob("ledger.json.damaged-*")
    assert (aside / "something").is_dir()
    assert len(caplog.records) == 1


def test_a_device_in_the_files_place_is_left_and_never_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(path)  # reading it would wait for ever
    Worker(path).answers(4).save()
    assert path.is_fifo()
    assert "is a device" in caplog.text
    assert "could not be saved" in caplog.text
    assert f"{path} is no plain file" in caplog.text
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_too_large_is_not_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with path.open("wb") as file:
        file.truncate(ledger_file.MOST_BYTES + 1)
    assert Worker(path).learned == (0, 0)
    assert "too large" in caplog.text


def test_workers_that_find_the_same_damage_say_it_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"{")
    Worker(path)
    Worker(path)
    assert len(caplog.records) == 1


def test_a_folder_that_is_not_there_is_said_and_nothing_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Worker(tmp_path / "none" / "ledger.json").save()
    assert "could not be saved" in caplog.text


def test_a_file_that_vanished_is_written_anew(path: Path) -> None:
    worker = Worker(path).answers(5).save()
    path.unlink()
    worker.answers(1).save()
    assert kept(path) == (6, 6)
