"""What settings of Redis cannot work, and by which name that is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import chain
from pathlib import Path

import pytest

from app.fleet.contact import RedisAway, RedisRefused, RedisUnfit
from app.fleet.redis_link import Link, connector
from app.settings import SettingsError
from app.settings.fleet import RedisOptions
from tests.support.nginx import free_port
from tests.support.redis_server import redis_server
from tests.support.tls import certificate


@pytest.mark.parametrize("setting", ["redis_password_file", "redis_ca_file"])
def test_a_file_that_cannot_be_read_is_told_by_its_setting_and_path(setting: str, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere")
    options = RedisOptions(redis_url="rediss://:hunter2@127.0.0.1:1/0")
    object.__setattr__(options, setting, path)  # frozen, and its fields are of several types
    with pytest.raises(SettingsError) as refused:
        connector(options)
    assert str(refused.value) == f"{setting} {path!r} cannot be read: No such file or directory"


def test_a_file_that_is_no_text_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"\xff\xfe")
    options = RedisOptions(redis_url="redis://127.0.0.1:1/0", redis_password_file=str(path))
    with pytest.raises(SettingsError, match="it is no text"):
        connector(options)


def test_a_password_file_without_a_password_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("\n")
    with pytest.raises(SettingsError, match="it is empty"):
        connector(RedisOptions(redis_url="redis://127.0.0.1:1/0", redis_password_file=str(path)))


UNFIT = {
    "redis_ca_file does not vouch for its certificate: self-signed certificate": ("rediss://127.0.0.1:{tls}", "other"),
    "its certificate is for another host than that of redis_url": ("rediss://localhost:{tls}", "own"),
    "it takes neither user nor password of redis_url and redis_password_file": (
        "redis://:hunter2@127.0.0.1:{port}",
        "",
    ),
    "it does not speak TLS, and redis_url begins with rediss://": ("rediss://127.0.0.1:{port}", "own"),
    "it speaks TLS, and redis_url does not begin with rediss://": ("redis://127.0.0.1:{tls}", ""),
    "it does not take redis_url: db index is out of range": ("redis://:sesame@127.0.0.1:{port}/99", ""),
}


@pytest.mark.real
async def test_a_redis_that_lets_nobody_in_is_told_by_the_setting(tmp_path: Path) -> None:
    own, other = certificate(), certificate("IP:127.0.0.2")
    files = [("--tls-cert-file", str(own)), ("--tls-key-file", str(own)), ("--tls-ca-cert-file", str(own))]
    tls = free_port()
    options = ["--tls-port", str(tls), "--tls-auth-clients", "no", *chain.from_iterable(files)]
    with redis_server(tmp_path, *options) as redis:
        redis.client.config_set("requirepass", "sesame")

        async def told(url: str, trusted: str) -> str:
            given = url.format(tls=tls, port=redis.port)
            ca_file = {"own": str(own), "other": str(other), "": ""}[trusted]
            link = Link(connector(RedisOptions(redis_url=given, redis_ca_file=ca_file)))
            try:
                with pytest.raises(RedisAway) as failed:
                    await link.exchange([("PING",)], 5.0)
            finally:
                await link.close()
            assert isinstance(failed.value, RedisUnfit) is (str(failed.value) in UNFIT)
            return str(failed.value)

        for word, (url, trusted) in UNFIT.items():
            assert await told(url, trusted) == word
        assert await told("redis://127.0.0.1:{port}", "") in UNFIT, "without a password"
        assert await told("redis://127.0.0.1:1", "") == "connection refused", "and no address"
        redis.client.config_set("maxclients", 1)
        crowded = await told("redis://:sesame@127.0.0.1:{port}", "")
        assert crowded in ("it has as many clients as its maxclients lets in", "it closed the connection")


@asynccontextmanager
async def saying(*said: bytes) -> AsyncIterator[Link]:
    """To a Redis that says this, one piece after the other, each time that it is asked something."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(65_536):
                for piece in said:
                    writer.write(piece)
                    await writer.drain()
        writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    link = Link(connector(RedisOptions(redis_url=f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")))
    async with server:
        yield link
        await link.close()
        await asyncio.gather(*answering)


@pytest.mark.real
async def test_replies_are_taken_in_however_they_are_cut_and_refusals_are_values_among_them() -> None:
    said = b"+OK\r\n$3\r\n7-0\r\n$-1\r\n:1\r\n-ERR it is equal or smaller\r\n*2\r\n+QUEUED\r\n-OOM full\r\n"
    async with saying(*(said[at : at + 1] for at in range(len(said)))) as link:
        for _ in range(2):
            *plain, refused, transaction = await link.exchange([("PING",)] * 6, 5.0)
            assert plain == [b"OK", b"7-0", None, 1]
            assert isinstance(refused, RedisRefused)
            assert "equal or smaller" in str(refused)
            assert transaction[0] == b"QUEUED"
            assert (type(transaction[1]), transaction[1].code) == (RedisRefused, "OOM")
        assert link.epoch == 1


@pytest.mark.real
async def test_one_that_has_become_a_replica_is_asked_on_another_connection() -> None:
    async with saying(b"-READONLY You can't write against a read only replica.\r\n") as link:
        for epoch in (1, 2):
            (refused,) = await link.exchange([("PING",)], 5.0)
            assert (refused.code, link.epoch) == ("READONLY", epoch)


@pytest.mark.real
async def test_one_that_still_loads_what_it_held_is_away() -> None:
    async with saying(b"-LOADING Redis is loading the dataset in memory\r\n") as link:
        with pytest.raises(RedisAway):
            await link.exchange([("PING",)], 5.0)


@pytest.mark.real
async def test_what_it_said_before_it_closed_is_told() -> None:
    async with saying(b"-ERR max number of clients reached\r\n") as link:
        with pytest.raises(RedisAway, match="maxclients"):
            await link.exchange([("PING",)] * 3, 5.0)


@pytest.mark.real
async def test_one_that_says_more_than_it_was_asked_is_let_go_of() -> None:
    async with saying(b"+OK\r\n+OK\r\n") as link:
        with pytest.raises(RedisAway):
            await link.exchange([("PING",)], 5.0)
