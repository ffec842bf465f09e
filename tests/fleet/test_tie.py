"""A child and its parent over what ties them: both ends in one process."""

from __future__ import annotations

import asyncio
import os
import socket

from app.fleet.tie import ParentsEnd, Tie


def tied() -> tuple[ParentsEnd, Tie]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ParentsEnd(ours), Tie(theirs.detach())


async def test_a_child_is_answered_with_what_it_is_and_the_sockets_themselves() -> None:
    parent, child = tied()
    asking = asyncio.create_task(asyncio.to_thread(child.ask, {"workers": 2}))
    assert await parent.hear() == {"wants": {"workers": 2}}
    with socket.socket(socket.AF_UNIX) as ours:
        parent.tell({"spec": {"number": 1}}, [ours])
        answer = await asking
        assert answer is not None
        spec, (theirs,) = answer
        assert spec == {"number": 1}
        assert os.fstat(theirs.fileno()).st_ino == os.fstat(ours.fileno()).st_ino
        theirs.close()
    parent.close()
    child.close()


async def test_a_child_hears_each_message_whole_and_then_that_its_parent_is_gone() -> None:
    parent, child = tied()
    asking = asyncio.create_task(asyncio.to_thread(child.ask, {}))
    await parent.hear()
    parent.tell({"spec": {}})
    parent.tell({"begin": True})
    parent.tell({"leave": True})
    await asking
    assert await child.hear() == ({"begin": True}, [])
    assert await child.hear() == ({"leave": True}, [])
    hearing = asyncio.create_task(child.hear())
    await asyncio.sleep(0)  # it waits
    assert not hearing.done()
    parent.close()
    parent.close()  # changes nothing
    assert await hearing is None
    child.beat()  # nobody hears it
    child.close()


async def test_a_child_whose_parent_is_gone_is_told_nothing() -> None:
    parent, child = tied()
    parent.close()
    assert child.ask({}) is None
    child.close()


async def test_a_parent_hears_what_a_child_says_and_then_that_it_ended() -> None:
    parent, child = tied()
    child.ready()
    child.beat()
    child.close()
    assert [await parent.hear() for _ in range(3)] == [{"ready": True}, {"beat": True}, None]
    parent.tell({"begin": True})  # nobody hears it
    parent.close()
