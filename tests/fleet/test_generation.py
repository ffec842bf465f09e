"""A generation of workers: all are ready or none serves, one that hangs is ended, and who leaves is not replaced."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, cast

import pytest

from app.fleet.generation import Generation, Worker
from tests.support.clock import jumping, loop


class FakeChild:
    """A process that says what the test lets it say, and ends by any signal."""

    def __init__(self) -> None:
        self.tie = self
        self.status = 3
        self.says: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.told: list[object] = []

    async def hear(self) -> dict[str, Any] | None:
        return await self.says.get()

    async def wait(self) -> int:
        return self.status

    def tell(self, message: object, _sockets: object = ()) -> None:
        self.told.append(message)
        if isinstance(message, signal.Signals):
            self.says.put_nowait(None)

    def close(self) -> None:
        pass


def worker(child: FakeChild, silence_s: float = 0.0) -> Worker:
    return Worker(cast("Any", child), 0, silence_s)


def generation(children: list[FakeChild]) -> Generation:
    left = iter(children)

    async def start(_place: int) -> Worker | None:
        child = next(left, None)
        return worker(child) if child is not None else None

    return Generation(2, start)


@jumping
async def test_one_that_cannot_start_ends_the_other_which_could() -> None:
    good, bad = FakeChild(), FakeChild()
    both = generation([good, bad])
    keeping = [asyncio.create_task(both.keep(place)) for place in range(2)]
    good.says.put_nowait({"ready": True})
    bad.says.put_nowait(None)
    await both.decided.wait()
    assert (both.failed, both.ending.is_set()) == (True, True)
    both.begun.set()
    await asyncio.gather(*keeping)
    assert good.told == [signal.SIGTERM, {"begin": True}]
    assert both.running == {}


@pytest.mark.parametrize(("status", "told"), [(-9, ["worker 1 was ended by SIGKILL before it served"]), (1, [])])
def test_one_that_is_killed_while_it_starts_is_spoken_of_since_it_cannot_say_why_itself(
    status: int, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        good, bad = FakeChild(), FakeChild()
        bad.status = status
        both = generation([good, bad])
        keeping = [asyncio.create_task(both.keep(place)) for place in range(2)]
        bad.says.put_nowait(None)
        await asyncio.gather(*keeping)

    jumping(scene)()
    assert caplog.messages == told


@jumping
async def test_who_leaves_is_told_so_and_not_replaced_and_who_was_being_replaced_is_ended() -> None:
    children = [FakeChild() for _ in range(3)]
    both = generation(children)
    keeping = [asyncio.create_task(both.keep(place)) for place in range(2)]
    for child in children[:2]:
        child.says.put_nowait({"ready": True})
    await both.decided.wait()
    both.begun.set()
    children[1].says.put_nowait(None)  # it dies, and the third one starts in its place
    await asyncio.sleep(10)
    assert [id(worker.child) for worker in both.running.values()] == [id(children[0]), id(children[2])]
    both.leave()
    children[0].says.put_nowait(None)  # once all that it had has ended
    await asyncio.gather(*keeping)
    assert children[0].told == [{"begin": True}, {"leave": True}]
    assert children[2].told == [signal.SIGTERM]


@jumping
async def test_one_that_hangs_is_ended_and_one_that_only_lives_is_not() -> None:
    child = FakeChild()
    serving = asyncio.create_task(worker(child, silence_s=10).serve())
    for _ in range(5):
        await asyncio.sleep(9)
        child.says.put_nowait({"beat": True})
    assert child.told == [{"begin": True}]
    since = loop().time()
    assert await serving == 3
    assert (loop().time() - since, child.told) == (10, [{"begin": True}, signal.SIGKILL])


@jumping
async def test_one_that_hangs_while_it_starts_is_ended_too() -> None:
    hung, other = FakeChild(), FakeChild()
    both = generation([hung, other])
    keeping = [asyncio.create_task(both.keep(place)) for place in range(2)]
    other.says.put_nowait({"ready": True})
    await both.decided.wait()
    both.begun.set()
    await asyncio.gather(*keeping)
    assert (both.failed, hung.told) == (True, [signal.SIGKILL])
    assert other.told[0] == signal.SIGTERM


@jumping
async def test_what_it_is_told_before_it_has_begun_it_hears_then() -> None:
    child = FakeChild()
    early = worker(child)
    early.tell({"admin": True})
    assert child.told == []
    serving = asyncio.create_task(early.serve())
    await asyncio.sleep(1)
    early.tell({"leave": True})
    assert child.told == [{"begin": True}, {"admin": True}, {"leave": True}]
    child.says.put_nowait(None)
    await serving
