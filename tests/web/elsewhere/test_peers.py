"""When the port for other processes is opened."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from app.fleet.contact import Contact, RedisAway
from app.fleet.member import Member
from app.fleet.names import Keys
from app.settings.fleet import FleetOptions
from app.web.elsewhere.peers import EVERYWHERE, keep_listening
from app.web.tasks import beside
from tests.support.clock import jumping

pytestmark = pytest.mark.real


class Redis:
    """One that is away, or takes what it is told."""

    def __init__(self, *, away: bool = False) -> None:
        self.contact = Contact()
        self.away = away
        self.told: dict[str, Any] = {}

    async def ask(self, *command: str | bytes | int, anyway: bool = False) -> Any:
        if self.away:
            raise RedisAway
        if command[0] == "SET":
            self.told[str(command[1])] = command[2]
        return None


@pytest.mark.parametrize("away", [False, True])
def test_where_it_is_reached_is_told_before_it_counts_as_shown_and_not_only_at_the_next_beat(away: bool) -> None:
    async def scene() -> None:
        redis = Redis(away=away)
        member = Member(redis, Keys("t"), FleetOptions())
        ports: list[int] = []
        with ExitStack() as sockets:

            async def serve(sock: socket.socket) -> None:
                assert not member.shown.is_set()
                sockets.callback(sock.close)
                ports.append(sock.getsockname()[1])

            async def reached_from() -> str:
                return "127.0.0.1"

            async with beside(keep_listening(member, ("", 0), reached_from, serve)):
                await member.shown.wait()
                keys = (member.keys.lease(member.incarnation), member.keys.place(member.incarnation))
                told = [json.loads(redis.told[key])["port"] for key in keys if key in redis.told]
                assert told == ([] if away else ports * 2)

    jumping(scene)()


@pytest.mark.parametrize("everywhere", EVERYWHERE)
def test_who_is_to_listen_everywhere_tells_others_of_the_address_by_which_redis_is_reached(everywhere: str) -> None:
    async def scene() -> None:
        member = Member(Redis(), Keys("t"), FleetOptions())
        with ExitStack() as sockets:

            async def serve(sock: socket.socket) -> None:
                sockets.callback(sock.close)

            async def reached_from() -> str:
                return "127.0.0.1"

            async with beside(keep_listening(member, (everywhere, 0), reached_from, serve)):
                await member.shown.wait()
                assert member.address is not None
                assert member.address[0] == "127.0.0.1"

    jumping(scene)()


@jumping
async def test_a_port_that_somebody_else_has_is_told_once_and_taken_when_it_is_free(
    caplog: pytest.LogCaptureFixture,
) -> None:
    member = Member(Redis(), Keys("t"), FleetOptions())
    served: list[socket.socket] = []

    async def serve(sock: socket.socket) -> None:
        served.append(sock)

    async def reached_from() -> str:
        return "127.0.0.1"

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listening = beside(keep_listening(member, ("", port), reached_from, serve))
        async with listening:
            await asyncio.sleep(60)
            assert (served, member.address, member.shown.is_set()) == ([], None, True)
            (line,) = caplog.messages
            assert f"peer_port {port} on peer_host 127.0.0.1: address already in use" in line
            taken.close()
            await asyncio.sleep(10)
            assert member.address == ("127.0.0.1", port)
            assert len(caplog.messages) == 2
    for sock in served:
        sock.close()
