"""How the service is put together: what runs beside it is not missed in silence, and what it takes from files read again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from app.settings import Settings, SettingsError
from app.web.runner import Running
from app.web.tasks import beside
from tests.conftest import Serve
from tests.support.clock import jumping
from tests.support.scrape import scrape_of

PRICE = (
    '[[model]]\nids = ["claude-own"]\nsource = "a contract"\ndate = 2026-01-01\n'
    "usd_per_mtok = {{ input = {usd}, output = {usd}, cache_read = 0, cache_write_5m = 0, cache_write_1h = 0 }}\n"
)


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


# --- read again ---------------------------------------------------------------------------------------------------------


async def reads(client: aiohttp.ClientSession, service: Running, key: str) -> bool:
    headers = {"x-api-key": key}
    async with client.get(f"{service.url}/v1/models", headers=headers) as response:
        assert response.status in (200, 401)
        return response.status == 200


def again(service: Running, **changed: object) -> Settings:
    return Settings.model_validate(service.service.settings.flat() | changed)


async def test_new_keys_are_taken_and_old_ones_forgotten(serve: Serve, client: aiohttp.ClientSession) -> None:
    service = await serve(api_keys=("one",))
    service.service.reread(again(service, api_keys=("two",)))
    assert [await reads(client, service, key) for key in ("one", "two")] == [False, True]


async def test_the_page_asks_for_a_key_once_one_is_needed(serve: Serve, client: aiohttp.ClientSession) -> None:
    service = await serve()
    service.service.reread(again(service, api_keys=("one",)))
    async with client.get(f"{service.url}/config.json") as response:
        assert (await response.json())["auth"] is True


async def test_new_prices_are_taken_and_shown(serve: Serve, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICE.format(usd=3), "utf-8")
    service = await serve(model="claude-own", prices_file=str(prices))
    prices.write_text(PRICE.format(usd=4), "utf-8")
    service.service.reread(again(service))
    shown = await scrape_of(service.admin_url)
    assert shown.value("price_usd_per_mtok", model="claude-own", type="output") == 4


async def test_keys_are_not_taken_away_from_a_service_that_others_reach(
    serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(host="0.0.0.0", api_keys=("one",))
    with pytest.raises(SettingsError, match=r"^host 0\.0\.0\.0 is reachable from elsewhere"):
        service.service.reread(again(service, api_keys=()))
    url = service.url.replace("0.0.0.0", "127.0.0.1")
    async with client.get(f"{url}/v1/models") as response:
        assert response.status == 401


async def test_a_callers_file_is_read_again_with_them(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    service = await serve(callers_file=str(path), api_keys=("acme:one",))
    assert await reads(client, service, "one")
    path.write_text("[callers.acme]\nstreams = 0", "utf-8")
    with pytest.raises(SettingsError, match=r"^callers_file .* \[callers\.acme\] streams: "):
        service.service.reread(again(service, api_keys=()))
    assert await reads(client, service, "one")
    path.write_text("[callers.acme]\nstreams = 1", "utf-8")
    service.service.reread(again(service, api_keys=()))
    assert not await reads(client, service, "one")


async def test_a_callers_file_that_was_cut_short_is_not_taken_while_its_callers_have_keys(
    serve: Serve, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    path.write_text("[callers.acme]\nstreams = 1\n[callers.other]\n", "utf-8")
    service = await serve(callers_file=str(path), api_keys=("acme:one", "other:two"))
    path.write_text("[callers.other]\n", "utf-8")
    with pytest.raises(SettingsError, match=r"^callers_file .* it has lost \[callers\.acme\], .* or restart"):
        service.service.reread(again(service, api_keys=("acme:three", "other:two")))
    assert [await reads(client, service, key) for key in ("one", "three")] == [True, False]
    service.service.reread(again(service, api_keys=("other:two",)))
    assert [await reads(client, service, key) for key in ("one", "two")] == [False, True]


async def test_what_is_wrong_changes_nothing_of_it(serve: Serve, client: aiohttp.ClientSession, tmp_path: Path) -> None:
    service = await serve(api_keys=("one",))
    with pytest.raises(SettingsError, match=r"^prices_file "):
        service.service.reread(again(service, api_keys=("two",), prices_file=str(tmp_path / "missing.toml")))
    assert [await reads(client, service, key) for key in ("one", "two")] == [True, False]


async def test_the_loops_lag_is_measured_once_and_the_pace_of_reading_follows_it(serve: Serve) -> None:
    """No beat of a real loop is in time to the nanosecond."""
    service = await serve()
    while service.service.claude.pacer.lag_s == 0:  # noqa: ASYNC110 - nothing tells of a beat
        await asyncio.sleep(0)  # lets the meter beat
    assert (await scrape_of(service.admin_url)).value("event_loop_lag_seconds_count") > 0
