"""Connections to the fleet's Redis: one command pipeline at a time, a deadline for each, and nobody who waits is in the way.

A connection belongs to one task, so that no reader who leaves ever cancels a command that is half-way: redis-py has to
drop its connection then, and a thousand leaving readers would be a thousand new connections. Readers ask `Asks`, which
sends what is asked meanwhile in one pipeline and lets each wait no longer than its deadline, also while Redis is frozen.

The only module that imports redis-py: without `redis_url` it is not needed, and not imported.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from ..settings import SettingsError
from ..settings.fleet import RedisOptions
from .contact import Contact, RedisAway, RedisRefused, RedisUnfit, ScriptUnknown
from .plain_or_tls import speaks_plainly, speaks_tls

log = logging.getLogger(__name__)

Command = tuple[str | bytes | int, ...]
# What Redis says to one command: bytes, a number, a list of those, None; or its refusal, as a value.
Reply = Any

# For connecting, with TLS and a password over a long way, in seconds. Whoever asks meanwhile does not wait for it.
_CONNECT_S = 2.0
# Of a timer that fires later than this, in seconds, the loop is to blame, which then has not read the answers either.
_LATE_S = 0.02
_LATE_TIMES = 3
# One pipeline of questions holds at most this many, so that its answers are read within a few milliseconds.
_MOST_AT_ONCE = 500


def connector(options: RedisOptions) -> Callable[[], AbstractConnection]:
    """What makes connections as the settings say.

    Raises:
        SettingsError: they could never work.
    """
    password = _read("redis_password_file", options.redis_password_file).strip()
    if options.redis_password_file and not password:
        raise SettingsError(f"redis_password_file {options.redis_password_file!r}: it is empty")
    _read("redis_ca_file", options.redis_ca_file)  # now, or it would look as if Redis were away
    try:
        given: dict[str, Any] = dict(parse_url(options.redis_url))
        if password:
            given["password"] = password
        kind = given.pop("connection_class", Connection)
        if options.redis_ca_file:
            given["ssl_ca_certs"] = options.redis_ca_file
        # RESP2: no pushes between replies. `driver_info`: managed services forbid CLIENT SETINFO.
        given |= {"socket_timeout": None, "socket_connect_timeout": _CONNECT_S, "protocol": 2, "driver_info": None}
        kind(**given)
    except (ValueError, TypeError, RedisError) as error:
        # Not the error's words: they may repeat the URL, which may hold the password.
        raise SettingsError(f"redis_url: it cannot be used: {type(error).__name__}") from None
    return lambda: kind(**given)


def _read(setting: str, path: str) -> str:
    """A file's text; empty without one. Raises SettingsError."""
    try:
        return Path(path).read_text("utf-8") if path else ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{setting} {path!r} cannot be read: {reason}") from None


class Link:
    """One connection, made when it is needed; only one task may use it.

    Args:
        connect: makes a connection that is not open yet.

    Attributes:
        epoch: which connection this is, from 1; 0 before the first. What was sent in an earlier one may never have arrived.
        local_host: the address from which Redis is reached; empty until it is, or where that is no address.
    """

    def __init__(self, connect: Callable[[], AbstractConnection]) -> None:
        self._connect = connect
        self._connection: AbstractConnection | None = None
        self._is_replica = False  # it said so in the last exchange
        self._answered = False  # this connection did: it is Redis, and speaks as we do
        self.epoch = 0
        self.local_host = ""

    async def open(self) -> None:
        """Connects, if it is not connected. Raises RedisAway, RedisUnfit. Cancelling is safe."""
        if self._connection is not None:
            return
        connection = self._connect()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's own
        except (RedisError, OSError, TimeoutError) as error:
            await _let_go(connection)
            raise await _told(connection, error) from None
        except BaseException:
            await _let_go(connection)
            raise
        self._connection = connection
        self._answered = False
        self.epoch += 1
        writer = connection._writer  # redis-py does not tell its socket's address in any other way
        name = writer.get_extra_info("sockname") if writer is not None else None
        self.local_host = name[0] if isinstance(name, tuple) else ""

    async def exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Reply]:
        """Sends the commands in one pipeline, and returns a reply for each; a refusal is a value among them.

        Args:
            commands: at least one.
            timeout_s: for all of it, but for connecting.

        Raises:
            RedisAway: it cannot be known which of them Redis has done. Cancelling drops the connection likewise.
        """
        await self.open()
        connection = self._connection
        assert connection is not None, "it is open"
        self._is_replica = False
        try:
            async with _within(timeout_s):
                # hiredis packs in a tenth of the time that redis-py takes, which would be most of what the mirror costs.
                await connection.send_packed_command(_packed(commands), check_health=False)
                replies = await self._replies(connection, len(commands))
        except (RedisError, OSError, TimeoutError) as error:
            await self._drop()
            raise (_away(error) if self._answered else await _told(connection, error)) from None
        except BaseException:
            await self._drop()
            raise
        self._answered = True
        if self._is_replica:  # what was the primary is elsewhere now, or will be
            await self._drop()
        return replies

    async def close(self) -> None:
        """Closes the connection, and waits until it is closed. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _let_go(connection, nowait=False)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _let_go(connection)

    async def _replies(self, connection: AbstractConnection, count: int) -> list[Reply]:
        """The next replies, straight from redis-py's parser: by its own call for each they take ten times as long."""
        parser: Any = connection._parser
        replies: list[Reply] = []
        while len(replies) < count:
            await parser.read_from_socket()
            come = iter(partial(parser._reader.gets, False), NOT_ENOUGH_DATA)
            replies += [one if type(one) is bytes else self._taken(one) for one in come]
        if len(replies) > count:
            raise InvalidResponse("there are more replies than commands")
        return replies

    def _taken(self, reply: Reply) -> Reply:
        """A reply with its refusals as values. Raises what is none, such as that Redis is still loading."""
        if isinstance(reply, list):  # perhaps of a transaction
            return [self._refused(one) if isinstance(one, Exception) else one for one in reply]
        return self._refused(reply) if isinstance(reply, Exception) else reply

    def _refused(self, error: Exception) -> RedisRefused:
        if not isinstance(error, ResponseError):
            raise error
        self._is_replica = self._is_replica or isinstance(error, ReadOnlyError)
        return _refused(error)


class Asks:
    """What the process asks Redis: many askers, one connection, one pipeline at a time.

    Args:
        link: the connection.
        contact: told whether Redis answers.
        timeout_s: how long an asker waits.
    """

    def __init__(self, link: Link, contact: Contact, timeout_s: float) -> None:
        self.link = link
        self.contact = contact
        self._tried = asyncio.Event()
        self._reached = asyncio.Event()
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[Command, asyncio.Future[Reply]]] = deque()
        self._wake = asyncio.Event()

    async def ask(self, *command: str | bytes | int, anyway: bool = False) -> Reply:
        """Asks one thing.

        Args:
            command: with its arguments.
            anyway: also while Redis is away, to find out whether it still is.

        Raises:
            RedisAway: it is away, or the answer did not come in time. RedisRefused: it refused.

        Cancelling is safe; the command may be done all the same.
        """
        if self.contact.away and not anyway:
            raise RedisAway("Redis is away")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        self._wake.set()
        try:
            async with _within(self._timeout_s):
                reply = await future
        except TimeoutError:
            raise RedisAway("Redis did not answer in time") from None
        if isinstance(reply, RedisRefused):
            raise reply
        return reply

    async def tried(self) -> None:
        """Waits until Redis has answered once, or has failed to. Cancelling is safe."""
        await self._tried.wait()

    async def reached_from(self) -> str:
        """Waits until Redis was reached; the address from which, empty over a unix socket. Cancelling is safe."""
        await self._reached.wait()
        return self.link.local_host

    async def run(self) -> None:
        """Answers whoever asks, until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
                batch = [one for one in batch if not one[1].done()]  # who does not wait any more is not asked for
                if not batch:
                    continue
                began = now()
                try:
                    replies = await self.link.exchange([command for command, _ in batch], self._timeout_s)
                except RedisAway as away:
                    self.contact.failed(away)
                    self._tried.set()
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(RedisAway(str(away)))
                    continue
                self._reached.set()
                self.contact.succeeded(now(), now() - began)
                self._tried.set()
                for (_, future), reply in zip(batch, replies, strict=True):
                    if not future.done():
                        future.set_result(reply)


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    """What is awaited in the block comes in time; a loop that was late itself gives what may lie there already as long again, a
    few times over. It costs no turn of the loop, which on a busy one would be longer than all that Redis takes.

    Raises:
        TimeoutError: it did not, and was cancelled.
    """
    loop = asyncio.get_running_loop()
    latest = loop.time() + (1 + _LATE_TIMES) * timeout_s
    timer: asyncio.TimerHandle

    def look(due_at: float) -> None:
        now = loop.time()
        late_s = now - due_at
        if late_s < _LATE_S or now > latest:
            limit.reschedule(now)
        else:
            wait(now + min(late_s, timeout_s))

    def wait(until: float) -> None:
        nonlocal timer
        timer = loop.call_at(until, look, until)

    async with asyncio.timeout(None) as limit:
        wait(loop.time() + timeout_s)
        try:
            yield
        finally:
            timer.cancel()


def _refused(error: ResponseError) -> RedisRefused:
    if isinstance(error, NoScriptError):
        return ScriptUnknown()
    # redis-py takes the code of a kind that it knows out of the words.
    return RedisRefused(f"{error.status_code or ''} {error}".strip())


def _packed(commands: Sequence[Command]) -> bytes:
    return b"".join(map(pack_command, commands))  # type: ignore[arg-type]  # its stub knows one item


async def _let_go(connection: AbstractConnection, *, nowait: bool = True) -> None:
    try:
        await connection.disconnect(nowait=nowait)
    except (RedisError, OSError) as error:
        log.debug("a connection to Redis could not be closed: %s", type(error).__name__)


async def _told(connection: AbstractConnection, error: BaseException) -> RedisAway:
    """What went wrong with one that has not answered yet; it is asked whether it speaks in the other way. Cancelling is safe."""
    away = _away(error)
    if isinstance(away, RedisUnfit) or not isinstance(connection, Connection):
        return away
    if isinstance(connection, SSLConnection):
        if await speaks_plainly(connection.host, connection.port):
            return RedisUnfit("it does not speak TLS, and redis_url begins with rediss://")
    # What is no TLS is refused at once, so that who is slow is not asked.
    elif not _is_late(error) and await speaks_tls(connection.host, connection.port):
        return RedisUnfit("it speaks TLS, and redis_url does not begin with rediss://")
    return away


def _is_late(error: BaseException) -> bool:
    return isinstance(error, TimeoutError | RedisTimeout)


def _away(error: BaseException) -> RedisAway:
    """What went wrong, by the setting that it comes from, without an address or a password."""
    if isinstance(error, AuthenticationError):
        return RedisUnfit("it takes neither user nor password of redis_url and redis_password_file")
    if isinstance(error, ResponseError):  # Redis's words name a rule, and no value
        return RedisUnfit(f"it does not take redis_url: {str(error).lower()}")
    for one in (error, error.__cause__ or error.__context__):
        if isinstance(one, ssl.SSLCertVerificationError):
            if "mismatch" in one.verify_message:
                return RedisUnfit("its certificate is for another host than that of redis_url")
            return RedisUnfit(f"redis_ca_file does not vouch for its certificate: {one.verify_message}")
        if isinstance(one, OSError) and one.errno in errno.errorcode and not isinstance(one, ssl.SSLError):
            return RedisAway(os.strerror(one.errno or 0).lower())  # since asyncio's own words hold the address
        if isinstance(one, OSError) and one.strerror:
            return RedisAway(one.strerror.lower())
    if isinstance(error, TimeoutError):
        return RedisAway("it did not answer in time")
    if isinstance(error, BusyLoadingError):
        return RedisAway("it is still loading its data")
    if "max number of clients" in str(error):  # else redis-py's own words, which hold the address
        return RedisAway("it has as many clients as its maxclients lets in")
    return RedisAway("it closed the connection" if isinstance(error, RedisConnectionError) else type(error).__name__)
