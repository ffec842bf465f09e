"""Whatever an ACL forbids of a script, no key stays without an end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from app.fleet.far_readers import _SAY
from app.fleet.limit_scripts import DRAW, NOTE, TAKE, TRY
from app.fleet.logs import _END
from app.fleet.member import _COUNT
from app.fleet.mirror_rules import END_ID
from tests.support.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.real

# Each with its keys, all of which it makes but the last of the end's, and what it is given.
SCRIPTS = {
    "draw": (DRAW, ("budget",), ("me", 5, 100, 10, 5, 5)),
    "take": (TAKE, ("places", "bucket"), ("me", 1, 1, 10, "streams", "1.0", "1.0")),
    "note": (NOTE, ("places", "bucket"), ("me", 1, 1, "1.0")),
    "try": (TRY, ("word", "hash"), ("me",)),
    "count": (_COUNT, ("members",), ("me",)),
    "say": (_SAY, ("far",), (5000, "stream", "3:1")),
    "end": (_END, ("lease", "log", "born", "place"), (END_ID, "worker_lost", 600_000, 1000, 120_000, 0)),
}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


def commands_of(script: str) -> list[str]:
    return sorted(
        set(re.findall(r"redis\.call\('([A-Z]+)'", script)) | set(re.findall(r"fresh\(\S+ '([A-Z]+)'", script))
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_key_stays_without_an_end_whichever_command_is_forbidden(name: str, redis: RedisServer) -> None:
    script, keys, given = SCRIPTS[name]
    with Redis(port=redis.port, username="few", password="few") as few:
        for forbidden in commands_of(script):
            redis.client.flushall()
            if name == "end":
                redis.client.set("born", "x", px=500_000)
                redis.client.set("place", "x", ex=3600)
            allowed = ["+@all", f"-{forbidden.lower()}"]
            redis.client.acl_setuser("few", enabled=True, reset=True, passwords=["+few"], keys=["*"], commands=allowed)
            with suppress(ResponseError):  # or it is not come to
                few.eval(script, len(keys), *keys, *given)
            assert redis.without_expiry() == [], forbidden
        redis.client.flushall()
        redis.client.acl_setuser("few", enabled=True, reset=True, passwords=["+few"], keys=["*"], commands=["+@all"])
        few.eval(script, len(keys), *keys, *given)
        assert redis.without_expiry() == []
