"""The limit of open files: connections and streams leave enough of it to the admin port and to the process itself."""

from __future__ import annotations

import resource

import pytest

from app.web.descriptors import ADMIN_CONNECTIONS, raise_limit, room


@pytest.mark.parametrize("limit", [256, 1024, 65_536])
def test_both_ends_of_every_stream_and_the_admin_port_fit(limit: int) -> None:
    assert room(limit) > limit // 4
    assert 2 * room(limit) + ADMIN_CONNECTIONS + 40 <= limit


def test_there_is_always_room_for_one() -> None:
    assert room(16) == 1


def test_the_limit_is_raised_as_far_as_it_may_be_and_never_lowered() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        raise_limit(300)
        assert room() == 300
        raise_limit(10**9 if hard != resource.RLIM_INFINITY else 400)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == (hard if hard != resource.RLIM_INFINITY else 896)
        raise_limit(1)
        assert room() >= 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
