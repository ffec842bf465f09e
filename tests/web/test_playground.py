"""The playground in a real browser, on the real service, in front of the simulated Claude."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.browser import blameless, open_page
from tests.support.link import link
from tests.support.scrape import scrape

pytestmark = pytest.mark.browser

RECEIVED = "[document.getElementById('text').textContent, document.getElementById('received').textContent]"
LONG = "{{tokens=20000 rate=100}}"


@pytest.fixture
async def page(profile: BrowserContext) -> AsyncIterator[Page]:
    page = await profile.new_page()
    async with blameless(page):
        yield page
        await page.close()


async def send(page: Page, service: Running, prompt: str) -> None:
    await open_page(page, service.url)
    await page.get_by_label("Your prompt").fill(prompt)
    await page.keyboard.press("Control+Enter")


async def state(page: Page, name: str) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", name, timeout=20_000)


async def begun(page: Page) -> None:
    """Waits for the first words on the page."""
    await expect(page.locator("#text")).to_contain_text(" ", timeout=20_000)


async def drag(page: Page, value: int) -> None:
    await page.get_by_label("Reader’s speed").fill(str(value))


async def test_the_page_does_not_call_itself_ready_before_all_of_its_script_has_come(
    page: Page, service: Running
) -> None:
    await page.route("**/standing.js", lambda route: route.abort())
    await open_page(page, service.url)
    await expect(page.locator("#state")).to_have_text("Loading")
    await page.unroute("**/standing.js")
    await page.reload()
    await state(page, "idle")
    await expect(page.locator("#state")).to_have_text("Ready")


async def test_a_prompt_becomes_a_whole_answer_with_its_figures(
    page: Page, service: Running, simulator: Simulator
) -> None:
    complaints: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    await open_page(page, service.url)
    await expect(page.get_by_text("Simulated Claude: no API key is set.")).to_be_visible()
    await page.get_by_label("Your prompt").fill("{{tokens=300 text=numbered}}")
    await page.get_by_role("button", name="Send").click()
    await state(page, "done")
    assert await page.locator("#text").text_content() == "".join(f" token{n:04d}" for n in range(1, 301))
    await expect(page.locator("#shown")).to_have_text("300")
    await expect(page.locator("#first")).to_contain_text("s")
    await expect(page.get_by_role("status")).to_have_text("The answer is complete: 300 words.")
    assert (await simulator.book()).finished
    assert complaints == []
    assert hosts == {urlsplit(service.url).netloc}


@pytest.mark.parametrize("way", ["button", "Escape"])
async def test_stopping_ends_the_generation(page: Page, service: Running, simulator: Simulator, way: str) -> None:
    await send(page, service, LONG)
    await begun(page)
    if way == "button":
        await page.get_by_role("button", name="Stop").click()
    else:
        await page.keyboard.press("Escape")
    book = await simulator.book()
    await asyncio.wait_for(book.ended.wait(), 20)
    assert not book.finished
    assert book.tokens < book.would_have / 2
    await state(page, "aborted")
    await expect(page.get_by_role("status")).to_have_text("Stopped.")
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()


async def test_stopping_before_the_first_token_ends_the_request(
    page: Page, service: Running, simulator: Simulator
) -> None:
    await send(page, service, "{{tokens=100 ttft_s=60}}")
    book = await simulator.book()
    await page.get_by_role("button", name="Stop").click()
    await asyncio.wait_for(book.ended.wait(), 20)
    assert book.tokens == 0
    await state(page, "aborted")


async def test_closing_the_tab_holds_the_generation_still_or_ends_it_as_was_asked(
    page: Page, service: Running, simulator: Simulator
) -> None:
    await send(page, service, "{{tokens=60000 rate=1500}}")
    await begun(page)
    other = await page.context.new_page()
    await open_page(other, service.url)
    await other.get_by_text("Request options").click()
    await other.get_by_label("Come back after a lost connection").uncheck()
    await other.get_by_label("Your prompt").fill(LONG)
    await other.keyboard.press("Control+Enter")
    await begun(other)
    await other.close()
    ended = await simulator.book(1)
    await asyncio.wait_for(ended.ended.wait(), 20)
    assert not ended.finished
    await page.close()
    held = await simulator.book(0)
    await asyncio.wait_for(held.is_blocked.wait(), 20)
    assert held.live


async def test_sending_again_is_possible_after_a_stop(page: Page, service: Running, simulator: Simulator) -> None:
    await send(page, service, LONG)
    await begun(page)
    await page.keyboard.press("Escape")
    await state(page, "aborted")
    await page.get_by_label("Your prompt").fill("{{tokens=5 text=numbered}}")
    await page.keyboard.press("Control+Enter")
    await state(page, "done")
    assert await page.locator("#text").text_content() == " token0001 token0002 token0003 token0004 token0005"
    assert len(simulator.books) == 2


async def test_a_reader_held_still_takes_nothing_and_then_everything(
    page: Page, service: Running, simulator: Simulator
) -> None:
    await open_page(page, service.url)
    await drag(page, 0)
    await page.get_by_label("Your prompt").fill("{{tokens=400 rate=800 text=numbered}}")
    await page.keyboard.press("Control+Enter")
    await state(page, "held")
    received = await page.evaluate(RECEIVED)
    # So short an answer fits into the browser's own buffers: Claude finishes, and the page has not taken it.
    await asyncio.wait_for((await simulator.book()).ended.wait(), 20)
    assert await page.evaluate(RECEIVED) == received
    await drag(page, 100)
    await state(page, "done")
    assert await page.locator("#text").text_content() == "".join(f" token{n:04d}" for n in range(1, 401))


async def test_a_reader_held_still_holds_claude_still_and_one_look_tells_them_apart(
    page: Page, service: Running, simulator: Simulator
) -> None:
    """Well within what the simulated answer says in its first minute, at 60 tokens a second; here four times as fast."""
    await send(page, service, "{{tokens=24000 rate=240 tokens_per_delta=1-4}}")
    await begun(page)
    await expect(page.locator("#claude-station")).to_have_attribute("data-flow", "flowing")
    await expect(page.locator("#you")).to_have_text("reading all")
    await drag(page, 0)
    await expect(page.locator("#you")).to_have_text("holding still")
    await expect(page.locator("#claude")).to_have_text("held still", timeout=60_000)
    await expect(page.locator("#claude-note")).to_contain_text("at ≈ ")
    book = await simulator.book()
    assert book.live
    assert book.tokens < 2400
    await expect(page.locator("#state")).to_have_text("Claude held still")
    await expect(page.locator("#hint")).to_have_text(
        "The way is full, so Claude is held still. Read on, and it goes on."
    )
    await expect(page.get_by_role("status")).to_have_text("Claude is held still.")
    await expect(page.locator("#saved")).to_have_text("not known")
    await expect(page.locator("#saved-note")).to_contain_text("At most $1.5")
    await drag(page, 100)
    await expect(page.locator("#claude-station")).to_have_attribute("data-flow", "flowing")
    await expect(page.get_by_role("status")).to_have_text("Claude goes on.")
    await page.keyboard.press("Escape")  # or the service's end waits for the page


async def test_figures_that_are_old_are_called_so_and_what_is_lost_and_comes_back_is_said(
    page: Page, service: Running, simulator: Simulator
) -> None:
    async with link(service.url) as way:
        await open_page(page, way.url)
        await page.get_by_label("Your prompt").fill(LONG)
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#claude")).to_have_text("generating")
        await expect(page.locator("#claude-note")).to_contain_text("tokens")
        way.up = False
        way.cut()
        await state(page, "reconnecting")
        await expect(page.get_by_role("status")).to_have_text("The connection is lost. Coming back.")
        await expect(page.locator("#claude")).to_have_text("not known")
        await expect(page.locator("#ahead")).to_have_text("not known")
        await expect(page.locator("#way")).to_have_attribute("data-stale", "true")
        await expect(page.locator("#you")).to_have_text("disconnected")
        way.up = True
        await state(page, "open")
        await expect(page.get_by_role("status")).to_have_text("Back. The answer goes on.")
        await expect(page.locator("#claude")).to_have_text("generating")
        await page.keyboard.press("Escape")


async def test_focus_stays_where_the_person_is(page: Page, service: Running) -> None:
    await open_page(page, service.url)
    await page.get_by_label("Your prompt").fill(LONG)
    send_button = page.get_by_role("button", name="Send")
    await send_button.focus()
    await page.keyboard.press("Enter")
    await begun(page)
    await expect(send_button).to_be_focused()
    await expect(send_button).to_be_disabled()
    await page.get_by_role("button", name="Cut").press("Enter")
    await expect(page.get_by_role("button", name="Resume")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Cut")).to_be_focused()
    await page.get_by_role("button", name="Stop").press("Enter")
    await expect(page.get_by_role("button", name="Copy", exact=True)).to_be_focused()


@pytest.mark.parametrize("how", ["done", "aborted", "open"])
async def test_after_a_reload_the_question_its_times_and_the_answer_are_the_old_ones(
    page: Page, service: Running, simulator: Simulator, how: str
) -> None:
    prompt = "{{tokens=40 thinking=5 tool=5 text=numbered}}" if how == "done" else LONG
    await send(page, service, prompt)
    await begun(page)
    if how == "aborted":
        await page.keyboard.press("Escape")
    await state(page, how)
    shown = ["#first"] if how == "open" else ["#first", "#shown", "#received", "#text", "#rate", "#cost"]
    before = [await page.locator(name).text_content() for name in shown]
    await page.reload()
    await expect(page.get_by_label("Your prompt")).to_have_value(prompt)
    await state(page, how)
    await begun(page)
    assert [await page.locator(name).text_content() for name in shown] == before
    if how == "open":
        await expect(page.get_by_role("status")).to_have_text("The answer comes again.")
    assert len(simulator.books) == 1
    await page.keyboard.press("Escape")


async def test_a_stop_that_the_service_has_not_heard_is_called_so_and_told_again(page: Page, service: Running) -> None:
    async with link(service.url) as way:
        await open_page(page, way.url)
        await page.get_by_label("Your prompt").fill(LONG)
        await page.keyboard.press("Control+Enter")
        await begun(page)
        way.up = False
        way.cut()
        await page.keyboard.press("Escape")
        await state(page, "aborted")
        await expect(page.locator("#hint")).to_contain_text("The service has not said yet")
        await expect(page.locator("#claude")).to_have_text("not known")
        assert service.streams.live
        way.up = True
        await expect(page.locator("#hint")).to_have_text("Stopped: Claude generates no more.")
        assert not service.streams.live


async def test_an_answer_as_long_as_it_may_be_is_not_called_complete(page: Page, service: Running) -> None:
    await open_page(page, service.url)
    await page.evaluate("document.getElementById('max-tokens').value = 50")
    await page.get_by_label("Your prompt").fill("{{tokens=400}}")
    await page.keyboard.press("Control+Enter")
    await state(page, "done")
    for _ in range(2):
        await expect(page.locator("#state")).to_have_text("Broke off")
        await expect(page.locator("#hint")).to_contain_text("as long as it was allowed to be")
        await page.reload()


async def test_an_answer_that_has_ended_costs_what_its_own_count_says(page: Page, service: Running) -> None:
    """All that it had until then were estimates."""
    await send(page, service, "{{tokens=300 rate=150}}")
    await expect(page.locator("#cost")).to_contain_text("≈ $")
    await state(page, "done")
    spent_usd = (await scrape(service)).value("spent_usd_total")
    await expect(page.locator("#cost")).to_have_text(f"${spent_usd:.4f}")


async def test_code_is_copied_by_its_own_button(page: Page, service: Running) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await send(page, service, "{{tokens=200}}")
    await state(page, "done")
    await page.get_by_role("button", name="Copy the code, python").first.click()
    await expect(page.get_by_role("status")).to_have_text("Copied.")
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("async for batch in channel:\n")
    assert copied.endswith(")")


async def test_a_slow_reader_gets_the_text_at_its_own_speed(chrome: Browser, service: Running) -> None:
    page = await chrome.new_page()  # its clock is its profile's
    await page.clock.install(time=0)
    await open_page(page, service.url)
    await drag(page, 0)
    await page.get_by_label("Your prompt").fill("{{tokens=1000 text=numbered}}")
    await page.keyboard.press("Control+Enter")
    await state(page, "held")
    await page.clock.pause_at(3_600_000)
    await drag(page, 50)
    await expect(page.locator("#speed-text")).to_have_text("100 characters/s")
    await page.clock.run_for(5000)
    shown = len(await page.locator("#text").text_content() or "")
    assert 450 < shown <= 510
    await page.clock.resume()
    await drag(page, 100)
    await state(page, "done")


async def test_thinking_is_shown_folded_and_only_when_asked_for(page: Page, service: Running) -> None:
    await send(page, service, "{{tokens=10 thinking=20 text=numbered}}")
    await state(page, "done")
    await expect(page.locator("#thinking-box")).to_be_hidden()
    await page.get_by_text("Request options").click()
    await page.get_by_label("Think first, and show it").check()
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#thinking-box")).to_be_visible()
    await state(page, "done")
    await expect(page.locator("#thinking-text")).to_be_hidden()
    await page.locator("#thinking-box summary").click()
    await expect(page.locator("#thinking-text")).to_be_visible()
    assert await page.locator("#thinking-text").text_content()
    assert "token0010" in (await page.locator("#text").text_content() or "")


async def test_a_failure_in_mid_stream_is_told_kindly_and_keeps_what_came(
    page: Page, service: Running, simulator: Simulator
) -> None:
    await send(page, service, "{{tokens=50 text=numbered fault=overloaded after=20 rate=20}}")
    await drag(page, 80)
    await state(page, "failed")
    await expect(page.get_by_role("heading", name="Claude is overloaded just now")).to_be_visible()
    await expect(page.get_by_label("Reader’s speed")).to_have_value("100")
    await expect(page.locator("#speed-text")).to_have_text("no limit")
    await expect(page.locator("#saved-note")).to_have_text("Claude has ended: there is nothing left to save.")
    assert "token0020" in (await page.locator("#text").text_content() or "")
    assert len(simulator.books) == 1
    await page.get_by_role("button", name="Try again").click()
    await simulator.book(1)
    await state(page, "failed")


@pytest.mark.parametrize(
    ("fault", "title", "advice"),
    [
        ("http_401", "Claude did not accept the service’s own key", "Only whoever runs this service can mend this"),
        ("http_403", "Claude does not allow this to the service", "Only whoever runs this service can mend this"),
        ("http_404", "Claude does not know what was asked for", "Mostly it is the name of the model"),
        ("http_400", "Claude did not accept the request", "was told to answer 400"),
        ("http_429", "Claude takes no more requests from the service just now", "A limit of its account"),
        ("http_529", "Claude is overloaded just now", "This passes"),
        ("cut after=20", "Claude’s answer was cut off", "What had come by then is kept above"),
    ],
)
async def test_what_claude_refuses_is_told_apart_from_what_the_service_does(
    page: Page, serve: Serve, fault: str, title: str, advice: str
) -> None:
    """No one is asked for an access key because the operator's own one is wrong."""
    service = await serve(retries=0)
    await send(page, service, f"{{{{fault={fault} tokens=60}}}}")
    await state(page, "failed")
    await expect(page.get_by_role("heading", name=title)).to_be_visible()
    await expect(page.locator("#error-text")).to_contain_text(advice)
    await expect(page.get_by_label("Access key")).to_be_hidden()


async def test_the_service_s_own_refusals_are_its_own(page: Page, serve: Serve, simulator: Simulator) -> None:
    service = await serve(max_streams=1)
    async with (
        aiohttp.ClientSession() as other,
        other.post(f"{service.url}/api/stream", json={"prompt": "{{tokens=5000 rate=50}}"}),
    ):
        await send(page, service, "{{tokens=5}}")
        await state(page, "failed")
        await expect(page.get_by_role("heading", name="The service is busy just now")).to_be_visible()
    assert len(simulator.books) == 1


@pytest.mark.parametrize(
    ("bound", "title", "advice"),
    [
        (
            "budget_usd_per_day = 0",
            "The budget for answers is spent",
            "Whoever runs this service can raise it. Try again in ",
        ),
        ("requests_per_minute = 1", "Too much was asked at once", "That passes"),
    ],
)
async def test_a_callers_limit_is_told_in_words(
    page: Page, serve: Serve, tmp_path: Path, bound: str, title: str, advice: str
) -> None:
    path = tmp_path / "callers.toml"
    path.touch(0o600)
    path.write_text(f"[callers.acme]\n{bound}\n", "utf-8")
    service = await serve(callers_file=str(path), api_keys=("acme:key",))
    await send(page, service, "{{tokens=5}}")
    await state(page, "failed")  # without a key; until it is told, nothing else can be sent
    await page.get_by_label("Access key").fill("key")
    await page.keyboard.press("Control+Enter")
    if "requests" in bound:
        await state(page, "done")
        await page.keyboard.press("Control+Enter")
    await expect(page.get_by_role("heading", name=title)).to_be_visible()
    await expect(page.locator("#error-text")).to_contain_text(advice)


async def test_the_caller_s_key_is_asked_for_and_kept_in_this_tab_only(page: Page, serve: Serve) -> None:
    service = await serve(api_keys="a-key-of-the-page")
    await open_page(page, service.url)
    field = page.get_by_label("Access key")
    await expect(field).to_be_visible()
    await page.get_by_label("Your prompt").fill("{{tokens=3}}")
    await page.keyboard.press("Control+Enter")
    await expect(page.get_by_role("heading", name="The key was not accepted")).to_be_visible()
    await expect(field).to_be_focused()
    await field.fill("a-key-of-the-page")
    await page.keyboard.press("Control+Enter")
    await state(page, "done")
    await page.reload()
    await expect(field).to_have_value("a-key-of-the-page")
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


async def test_a_key_that_cannot_be_sent_is_told_as_one_and_what_cannot_be_seen_at_its_ends_is_left_out(
    page: Page, serve: Serve
) -> None:
    service = await serve(api_keys="a-key-of-the-page")
    await open_page(page, service.url)
    field = page.get_by_label("Access key")
    await page.get_by_label("Your prompt").fill("{{tokens=3}}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/" in request.url else None)
    for key in ("a\u2013key-of-the-page", "a-key\u200b-of-the-page", "\u0430-key-of-the-page"):
        await field.fill(key)
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_role("heading", name="The key was not accepted")).to_be_visible()
        await expect(page.get_by_text("It has a character that no key has.").first).to_be_visible()
        await expect(field).to_be_focused()
    assert not asked
    await field.fill("\u200b a-key-of-the-page\u00a0\ufeff")
    await page.keyboard.press("Control+Enter")
    await state(page, "done")


async def test_an_answer_is_announced_twice_and_not_for_every_token(page: Page, service: Running) -> None:
    await open_page(page, service.url)
    await page.evaluate(
        """() => {
          window.announced = [];
          new MutationObserver((changes) => changes.forEach((change) => announced.push(change.target.textContent)))
            .observe(document.getElementById("spoken"), { childList: true });
        }"""
    )
    await page.get_by_label("Your prompt").fill("{{tokens=100 rate=200}}")
    await page.keyboard.press("Control+Enter")
    await state(page, "done")
    assert len(await page.evaluate("announced")) == 2
    assert await page.locator("[aria-live] #text, [role=status] #text, [role=log] #text").count() == 0


@pytest.mark.parametrize("width", [360, 1280])
async def test_the_page_is_never_wider_than_its_window(page: Page, service: Running, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 740})
    for prompt in ["{{tokens=200 thinking=5}}", "{{tokens=50 fault=overloaded after=20}}"]:
        await send(page, service, prompt)
        await expect(page.locator("#state")).to_have_attribute(
            "data-state", "done" if "thinking" in prompt else "failed"
        )
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
