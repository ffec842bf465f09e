"""What a process knows of the others, by what Redis tells it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from app.fleet.contact import Contact, RedisAway
from app.fleet.member import BEAT_S, LEARNS_S, LEASE_S, Lease, Member
from app.fleet.names import Keys
from app.settings import SettingsError
from app.settings.fleet import FleetOptions
from tests.support.clock import jumping, loop


class Memory:
    """A Redis that holds what it is told, and is away when it is told so."""

    def __init__(self) -> None:
        self.contact = Contact()
        self.held: dict[str, Any] = {}
        self.asked = 0
        self.away = False

    async def ask(self, *command: str | bytes | int, anyway: bool = False) -> Any:
        self.asked += 1
        now = loop().time()
        if self.away:
            self.contact.failed(RedisAway("away"))
            raise RedisAway
        self.contact.succeeded(now, 0.001)
        verb, key = command[0], str(command[1])
        if verb == "SET" and not ("NX" in command and key in self.held):
            self.held[key] = command[2].encode() if isinstance(command[2], str) else command[2]
        if verb == "DEL":
            for name in command[1:]:
                self.held.pop(str(name), None)
        return self.held.get(key) if verb == "GET" else None


def member(memory: Memory, **given: Any) -> Member:
    return Member(memory, Keys("t"), FleetOptions(**given))


def leased(memory: Memory, host: object, port: object = 8090) -> None:
    memory.held[Keys("t").lease("abcdefgh")] = json.dumps({"v": 1, "host": host, "port": port}).encode()


@jumping
async def test_a_lease_is_believed_for_a_moment_and_its_place_is_remembered() -> None:
    memory = Memory()
    here = member(memory)
    assert await here.lease_of("abcdefgh") is None
    assert here.last_known("abcdefgh") is None
    leased(memory, "10.0.0.2")
    await asyncio.sleep(0.3)
    assert await here.lease_of("abcdefgh") == Lease("10.0.0.2", 8090)
    asked = memory.asked
    await here.lease_of("abcdefgh")
    assert memory.asked == asked
    memory.held.clear()
    await asyncio.sleep(0.3)
    assert await here.lease_of("abcdefgh") is None
    assert here.last_known("abcdefgh") == Lease("10.0.0.2", 8090)


@pytest.mark.parametrize(
    ("host", "port"),
    [("8.8.8.8", 80), ("169.254.169.254", 80), ("example.com", 80), ("", 80), (None, 80), (["10.0.0.1"], 80),
     ("10.0.0.1", 0), ("10.0.0.1", 65536), ("10.0.0.1", "x"), ("10.0.0.1@8.8.8.8", 80)],
)  # fmt: skip
def test_an_address_that_somebody_wrote_into_redis_is_not_connected_to(host: object, port: object) -> None:
    async def scene() -> None:
        memory = Memory()
        leased(memory, host, port)
        assert await member(memory).lease_of("abcdefgh") == Lease("", 0)

    jumping(scene)()


@jumping
async def test_an_address_outside_of_the_networks_is_told_of_once_however_often_it_is_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Memory()
    here = member(memory)
    for host in ("8.8.8.8", "8.8.8.8", "9.9.9.9", "8.8.8.8"):
        leased(memory, host)
        await here.lease_of("abcdefgh")
        await asyncio.sleep(0.3)
    assert ["8.8.8.8" in message for message in caplog.messages] == [True, False]


@jumping
async def test_who_had_no_contact_for_as_long_as_a_lease_and_a_beat_judges_nobody() -> None:
    memory = Memory()
    here = member(memory)
    await here.beat()
    begun = loop().time()
    assert not here.may_judge(begun + LEASE_S)
    assert here.may_judge(begun + LEASE_S + BEAT_S)
    memory.away = True
    with pytest.raises(RedisAway):
        await here.beat()
    assert not here.may_judge(begun + 1000)


@jumping
async def test_a_process_that_was_stopped_knows_it_at_once_and_says_so() -> None:
    here = member(Memory())
    woken: list[float] = []
    watching = asyncio.create_task(here.watch_sleep(lambda: woken.append(loop().time())))
    await asyncio.sleep(10)
    assert not here.sleeps(loop().time())
    loop().pass_time(LEASE_S + 2 * BEAT_S)
    assert here.sleeps(loop().time())
    assert woken == []
    await asyncio.sleep(2 * BEAT_S)
    assert not here.sleeps(loop().time())
    assert len(woken) == 1
    watching.cancel()


@jumping
async def test_the_secret_is_made_once_and_the_same_for_all_and_outlives_a_redis_that_forgot() -> None:
    memory = Memory()
    one, two = member(memory), member(memory)
    await one.beat()
    await two.beat()
    assert one.secret
    assert one.secret == two.secret
    secret = one.secret
    memory.held.clear()
    await two.beat()
    await one.beat()
    assert one.secret == two.secret == secret


@jumping
async def test_that_redis_has_lost_what_it_knew_is_seen_at_once_and_only_by_who_knew_it_before() -> None:
    memory = Memory()
    here, newer = member(memory), member(memory)
    await here.beat()
    assert not await here.has_lost()
    memory.held.clear()
    assert await here.has_lost()
    await newer.beat()
    assert (await here.has_lost(), await newer.has_lost()) == (True, False)
    await here.beat()
    await asyncio.sleep(LEARNS_S - 1)
    assert await here.has_lost()
    await asyncio.sleep(1)
    assert not await here.has_lost()


def test_a_secret_of_a_file_never_goes_into_redis(tmp_path: Path) -> None:
    async def scene() -> None:
        memory = Memory()
        here = member(memory, fleet_secret_file=str(tmp_path / "secret"))
        await here.beat()
        assert here.secret == b"x" * 40
        assert b"xxxx" not in b"".join(value for value in memory.held.values() if isinstance(value, bytes))

    (tmp_path / "secret").write_text("x" * 40 + "\n")
    jumping(scene)()
    (tmp_path / "secret").write_text("short")
    with pytest.raises(SettingsError, match="fleet_secret_file"):
        member(Memory(), fleet_secret_file=str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match="fleet_secret_file"):
        member(Memory(), fleet_secret_file=str(tmp_path / "none"))


@jumping
async def test_a_lease_is_given_back_at_the_end() -> None:
    memory = Memory()
    here = member(memory)
    here.address = ("127.0.0.1", 1)
    task = asyncio.create_task(here.run())
    await asyncio.sleep(2.5)
    assert {Keys("t").lease(here.incarnation), Keys("t").place(here.incarnation)} <= memory.held.keys()
    task.cancel()
    await asyncio.wait([task])
    assert not {Keys("t").lease(here.incarnation), Keys("t").place(here.incarnation)} & memory.held.keys()
