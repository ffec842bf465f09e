"""How the service is put together: what runs beside it is not missed in silence."""

from __future__ import annotations

import asyncio

import pytest

from app.web.compose import beside
from tests.support.clock import jumping


async def _fails_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise ZeroDivisionError


async def _ends_after(seconds: float) -> None:
    await asyncio.sleep(seconds)


@jumping
async def test_what_dies_beside_the_service_ends_it_and_says_why() -> None:
    with pytest.raises(RuntimeError, match="_fails_after") as ended:
        async with beside(_fails_after(1)):
            await asyncio.sleep(1000)
    assert isinstance(ended.value.__cause__, ZeroDivisionError)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


@jumping
async def test_what_is_to_run_for_ever_and_does_not_ends_it_too() -> None:
    with pytest.raises(RuntimeError, match="_ends_after"):
        async with beside(_ends_after(1)):
            await asyncio.sleep(1000)


@jumping
async def test_it_ends_with_the_block_and_a_cancelled_block_stays_cancelled() -> None:
    async with beside(asyncio.sleep(1e9)):
        pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5), beside(asyncio.sleep(1e9)):
            await asyncio.sleep(1000)
    with pytest.raises(OSError, match="port"):
        async with beside(asyncio.sleep(1e9)):
            raise OSError("port")
