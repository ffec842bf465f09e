"""The mirror against a real Redis that loses writes, answers, its memory and its newest seconds: never a silent hole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis
from redis.exceptions import ResponseError

from app.answer.sse import numbered
from app.fleet.contact import RedisAway, RedisRefused
from app.fleet.log_commands import Command, Gap, after, entries_of, read
from app.fleet.mirror import Mirror
from app.fleet.mirror_rules import END_ID, Ending
from app.fleet.names import Keys, id_prefix
from app.streams.delivery import Frames
from app.streams.replay import Replay, ReplayBudget
from app.streams.terms import Policy, Terms
from app.wire.plain import PlainFormat, framed
from tests.support.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.real

ID = id_prefix(0, "abcdefgh") + "x"
KEYS = Keys("t").stream(ID)
TERMS = Terms(ID, "acme", "claude-opus-4-8", Policy.GRACE, 30.0, stop_token="token")
# A small memory, so that old frames fall out of it.
CAP_BYTES = 1500
# The same walks each time: each takes a tenth of a second of a real Redis.
HOW = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


class FaultyLink:
    """A connection that fails as it is told: before Redis has heard, after it has, or so that it hears much later."""

    def __init__(self, port: int) -> None:
        self.client: Redis = Redis(port=port)
        self.connection: Any = self.client.connection_pool.get_connection()
        self.epoch = 1
        self.fault = ""
        self.late: list[Command] = []

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def exchange(self, commands: Sequence[Command], _timeout_s: float) -> list[Any]:
        fault, self.fault = self.fault, ""
        if fault:
            self.epoch += 1
            if fault == "late":
                self.late += commands
            elif fault == "answer lost":
                self.do(commands)
            raise RedisAway(fault)
        return self.do(commands)

    def do(self, commands: Sequence[Command]) -> list[Any]:
        self.connection.send_packed_command(self.connection.pack_commands(commands))
        return [self._reply() for _ in commands]

    def _reply(self) -> Any:
        try:
            return self.connection.read_response(disable_decoding=True)
        except ResponseError as refused:
            return RedisRefused(str(refused))


class Told:
    def mirrored(self, lag_s: float, lost: int, healed: int) -> None:
        assert min(lag_s, lost, healed) >= 0

    def mirror_refused(self) -> None:
        raise AssertionError("nothing is refused here")


def frame(frame_id: int) -> bytes:
    return numbered(frame_id, framed({"text": f"{frame_id} " * (frame_id % 40)}))


class Machine(RuleBasedStateMachine):
    port = 0
    gaps: ClassVar[set[int]] = set()  # the servers whose readers were told that frames are gone

    def __init__(self) -> None:
        super().__init__()
        self.link = FaultyLink(self.port)
        self.link.do([("FLUSHALL",)])
        self.fenced: list[Terms] = []
        self.mirror = Mirror(self.link, Keys("t"), (0.25, 60.0), self.fenced.append, Told())
        self.replay = Replay(CAP_BYTES, ReplayBudget(10**9))
        self.mirror.began(TERMS, Frames(PlainFormat(thinking=False), self.replay))
        self.expired = self.tombstoned = False

    def teardown(self) -> None:
        self.settle()
        self.link.client.close()

    @property
    def runs(self) -> bool:
        return not (self.replay.ended or self.expired)

    def flush(self, *, whole: bool = True) -> bool:
        self.mirror.due(ID)
        return asyncio.run(self.mirror.flush(whole=whole))

    @precondition(lambda self: self.runs)
    @rule(count=st.integers(1, 12))
    def grow(self, count: int) -> None:
        self.replay.extend([frame(self.replay.last_id + n) for n in range(1, count + 1)])

    # What ends a stream ends the story, so it comes late.
    @precondition(lambda self: self.runs and self.replay.last_id > 25)
    @rule()
    def finish(self) -> None:
        self.replay.extend([frame(self.replay.last_id + 1)])
        self.replay.ended = True
        self.mirror.ended(TERMS)

    @precondition(lambda self: self.runs and self.replay.last_id > 25)
    @rule()
    def expire(self) -> None:
        self.replay.clear()
        self.expired = True
        self.mirror.ended(TERMS)

    @rule(
        steps=st.integers(1, 6),
        whole=st.booleans(),
        fault=st.sampled_from(["", "", "not heard", "answer lost", "late"]),
    )
    def round(self, steps: int, whole: bool, fault: str) -> None:
        """So many steps that go well, if there is as much to do, then perhaps one that does not."""
        while steps and self.flush(whole=whole):
            steps -= 1
        self.link.fault = fault
        try:
            self.flush()
        except RedisAway:
            assert fault
        self.link.fault = ""

    @precondition(lambda self: self.link.late)
    @rule()
    def hear_at_last(self) -> None:
        """What was sent on a connection that is gone is done after all, behind what was sent since."""
        self.link.do(self.link.late)
        self.link.late, self.link.fault = [], ""

    @rule()
    def lose_everything(self) -> None:
        self.link.do([("FLUSHALL",)])

    @rule(kept=st.integers(0, 6))
    def fall_back(self, kept: int) -> None:
        """A replica takes over that lacks the newest entries; every connection breaks."""
        entries = self.link.do([("XRANGE", KEYS.log, "-", "+")])[0]
        if self.tombstoned or len(entries) <= kept:
            return  # a tombstone that is swallowed is another story
        self.link.do([("DEL", KEYS.log), *(("XADD", KEYS.log, i, *fields) for i, fields in entries[:kept])])
        self.link.do([("PEXPIRE", KEYS.log, 60000)])
        self.link.epoch += 1

    @precondition(lambda self: self.replay.last_id > 40)
    @rule()
    def tombstone(self) -> None:
        last = self.link.do([("XREVRANGE", KEYS.log, "+", "-", "COUNT", 1)])[0]
        if last:
            end = ("XADD", KEYS.log, "NOMKSTREAM", f"{END_ID}-0", "e", "worker_lost", "n", 0)
            self.tombstoned = isinstance(self.link.do([end])[0], bytes) or self.tombstoned

    @rule(lacks=st.integers(0, 60))
    def come_back(self, lacks: int) -> None:
        """A reader who lacks that much of what there is, also of what is in no memory any more."""
        sent_id = max(0, self.replay.last_id - lacks)
        try:
            frames, _ = after(entries_of(self.link.do([read(KEYS, sent_id, 1000)])[0]), sent_id)
        except Gap:
            self.gaps.add(self.port)
            return  # said, not silent
        assert frames == [frame(n) for n in range(sent_id + 1, sent_id + 1 + len(frames))]

    @invariant()
    def no_key_stays(self) -> None:
        assert all(ttl != -1 for ttl in self.link.do([("PTTL", KEYS.log), ("PTTL", KEYS.about)]))

    def settle(self) -> None:
        """Nothing fails any more: what is in memory is in Redis, whole, and as it ended."""
        self.link.late, self.link.fault = [], ""
        self.link.epoch += 1  # what has ended is looked at again with the next connection
        rounds = 0
        while self.flush():
            rounds += 1
            assert rounds < 50, "it goes round in circles"
        entries = entries_of(self.link.do([read(KEYS, 0, 1000)])[0])
        if self.fenced:
            assert self.tombstoned
            return
        if self.replay.last_id == 0 and not entries:
            return
        if self.tombstoned and entries and entries[-1].ending is Ending.LOST:
            return  # it had nothing more to write, and learns it with the next frame
        frames, ending = after(entries, self.replay.first_id - 1)
        held = [frame(n) for n in range(self.replay.first_id, self.replay.last_id + 1)]
        if self.expired:
            assert (frames, ending) == ([], Ending.EXPIRED)
        elif self.runs or frames:
            assert frames == held or self.runs
            assert ending is (None if self.runs else Ending.ENDED)


def test_the_log_becomes_what_the_memory_holds_whatever_fails(redis: RedisServer) -> None:
    machine = type("AtThisServer", (Machine,), {"port": redis.port})
    run_state_machine_as_test(machine, settings=HOW)
    assert redis.port in Machine.gaps, "no reader lacked what was gone, so that nothing was shown"
