"""client.js comes back by itself: cut anywhere, put to sleep, taken over, reloaded; and says what it has shown."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page

from tests.support.readers import eventually
from tests.support.scripted import DONE, Script, Site, forever, frame, run

pytestmark = pytest.mark.browser

RESUMABLE = {"X-Resumable": "true", "X-Stop-Token": "t-1"}
WORDS = ["Grüße, ", "日本語 ", "👩‍👩‍👧 ", "a", "\n\n", "b\r\n", " end"]
# Jitter and backoff take no time: what is tested is the order, not the clock.
HASTY = "const timers = window.setTimeout; window.setTimeout = (f, ms) => timers(f, ms >= 10000 ? ms : 0);"


async def begun(request: web.Request, headers: dict[str, str] | None = None) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "X-Stream-Id": "s-1", **RESUMABLE, **(headers or {})}
    )
    await response.prepare(request)
    return response


def lost(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


class CutAnswer:
    """A stream that is cut after so many bytes of each connection; what a resume asks for is taken at its word."""

    def __init__(self, cuts: list[int], *, deaf: bool = False) -> None:
        self.frames = [frame({"text": word}, number) for number, word in enumerate(WORDS, 1)]
        self.frames.append(frame(DONE, len(WORDS) + 1))
        self.cuts = cuts
        self.deaf = deaf  # a proxy on the way drops Last-Event-ID

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        after = 0 if self.deaf else int(request.headers.get("Last-Event-ID", 0))
        rest = b": keep-alive\n" + b"".join(self.frames[after:])
        cut = self.cuts.pop(0) if self.cuts else len(rest)
        response = await begun(request)
        await response.write(rest[:cut])
        if cut < len(rest):
            await asyncio.sleep(0.005)  # lets the browser take what came, so that cuts fall everywhere
            lost(request)
        return response


@pytest.mark.parametrize("deaf", [False, True], ids=["", "through a proxy that drops Last-Event-ID"])
async def test_cut_anywhere_any_number_of_times_nothing_is_lost_and_nothing_comes_twice(
    page: Page, site: Site, deaf: bool
) -> None:
    dice = random.Random(4)
    whole = sum(len(part) for part in CutAnswer([]).frames)
    for form in ("loop", "callbacks"):
        for _ in range(12):
            cuts = [dice.randrange(whole) for _ in range(dice.randrange(1, 5))]
            answer = CutAnswer(list(cuts), deaf=deaf)
            site.script = site.resume_script = answer
            site.bodies.clear()
            got = await run(
                page,
                HASTY
                + """
                const texts = [];
                if (arg === "loop") {
                  const handle = stream("hi", { resumable: true });
                  for await (const event of handle) if (event.type === "text") texts.push(event.text);
                  return [texts.join(""), handle.result.text, handle.state];
                }
                const handle = stream("hi", { resumable: true, onText: (text) => texts.push(text) });
                await new Promise((resolve, reject) => handle.done.then(resolve, reject));
                await new Promise(requestAnimationFrame);
                await new Promise(requestAnimationFrame);
                return [texts.join(""), handle.result.text, handle.state];
                """,
                form,
            )
            assert got == ["".join(WORDS), "".join(WORDS), "done"], (form, cuts)
            assert site.bodies == [{"prompt": "hi", "resumable": True}], "a question was asked twice"


async def test_coming_back_has_an_end(page: Page, site: Site) -> None:
    async def gone(request: web.Request) -> web.StreamResponse:
        lost(request)
        return web.Response()

    site.script, site.resume_script = CutAnswer([60]), gone
    name, kind, waits, fetches = await run(
        page,
        """
        // On a machine without a network a browser is offline, and goes on trying.
        Object.defineProperty(navigator, "onLine", { value: true });
        const waits = [], timers = window.setTimeout;
        window.setTimeout = (f, ms) => { if (ms < 35000) waits.push(ms); return timers(f, ms < 35000 ? 0 : ms); };
        let fetches = 0;
        const counted = (...args) => { fetches += 1; return fetch(...args); };
        const error = await stream("hi", { resumable: true, fetch: counted }).done.catch((error) => error);
        return [error.name, error.type, waits.filter((ms) => ms !== 250 && ms !== 16), fetches];
        """,
    )
    assert (name, kind) == ("ConnectError", "connect_error")
    assert fetches == 11
    assert len(waits) == 10
    for tries, wait in enumerate(waits):
        bound = min(10_000, 250 * 2**tries)
        assert bound / 2 <= wait <= bound
    assert len({round(wait / min(10_000, 250 * 2**n), 3) for n, wait in enumerate(waits)}) > 5, "no jitter"


def refuses(status: int, kind: str) -> Script:
    async def script(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": "no", "type": kind, "retryable": False}, status=status)

    return script


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "not_found_error"), (410, "expired"), (401, "authentication_error")]
)
async def test_a_refusal_ends_the_coming_back_with_its_word(page: Page, site: Site, status: int, kind: str) -> None:
    site.script, site.resume_script = CutAnswer([60]), refuses(status, kind)
    got = await run(
        page,
        HASTY + "return stream('hi', { resumable: true }).done.catch((e) => [e.name, e.type, e.status])",
    )
    assert got == ["HttpError", kind, status]
    assert len(site.resumed) == 1


@pytest.mark.parametrize("kind", ["taken_over", "stopped", "shutdown", "expired"])
async def test_a_typed_last_event_is_the_end_and_nobody_tugs(page: Page, site: Site, kind: str) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(frame({"text": "a"}))
        last = {"error": "over", "type": kind, "retryable": kind == "shutdown"}
        await response.write(b"data: " + json.dumps(last).encode() + b"\n\n")
        return response

    site.script = script
    got = await run(
        page,
        "const h = stream('hi', { resumable: true, save: 'x' });"
        "return h.done.catch((e) => [e.name, e.type, e.retryable, h.result.text, sessionStorage.length])",
    )
    assert got == ["StreamError", kind, kind == "shutdown", "a", 0]
    assert site.resumed == []


async def test_a_page_that_wakes_does_not_wait_for_a_dead_connection(page: Page, site: Site) -> None:
    """As after a laptop's sleep: the connection is dead and nothing has said so."""
    site.resume_script = CutAnswer([])

    async def dead(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(b"".join(CutAnswer([]).frames[:2]))
        await forever()
        return response

    for event, slept_ms in (("visibilitychange", 13_000), ("online", 1500)):
        site.script = dead
        site.resumed.clear()
        text, states = await run(
            page,
            """
            const states = [], [event, slept] = arg, now = Date.now, at = now();
            Date.now = () => at; // however long a busy machine takes for the next steps
            const handle = stream("hi", { resumable: true, onState: (state) => states.push(state) });
            const loop = handle[Symbol.asyncIterator]();
            await loop.next();
            await loop.next();
            const third = loop.next();
            await new Promise((resolve) => setTimeout(resolve, 20)); // it waits for the network now
            (event === "online" ? window : document).dispatchEvent(new Event(event));
            await new Promise((resolve) => setTimeout(resolve, 20));
            if (states.includes("reconnecting")) throw new Error("a living connection was given up");
            Date.now = () => at + slept;
            (event === "online" ? window : document).dispatchEvent(new Event(event));
            Date.now = now;
            await third;
            for await (const _ of loop);
            return [handle.result.text, states];
            """,
            [event, slept_ms],
        )
        assert text == "".join(WORDS)
        assert states == ["open", "reconnecting", "open", "done"]
        assert site.resumed == [("/api/stream/s-1", "2")]


async def test_a_silent_connection_is_given_up_by_itself(page: Page, site: Site) -> None:
    async def dead(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(frame({"text": WORDS[0]}))
        await forever()
        return response

    site.script, site.resume_script = dead, CutAnswer([])
    text = await run(
        page,
        "const timers = window.setTimeout; window.setTimeout = (f, ms) => timers(f, ms === 35000 ? 200 : ms);"
        "return (await stream('hi', { resumable: true }).done).text",
    )
    assert text == "".join(WORDS)


async def test_detach_lets_go_and_attach_comes_back(page: Page, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(frame({"text": WORDS[0]}))
        await forever()
        return response

    site.script, site.resume_script = script, CutAnswer([])
    await run(
        page,
        """
        window.states = [];
        window.handle = stream("hi", { resumable: true, onState: (state) => states.push(state) });
        window.whole = handle.done;
        while (handle.bytes === 0) await new Promise(requestAnimationFrame);
        window.dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
        """,
    )
    await asyncio.wait_for(site.left.wait(), 20)
    assert site.resumed == []
    text, states = await run(
        page,
        "window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true })); return [(await whole).text, states]",
    )
    assert text == "".join(WORDS)
    assert states == ["open", "detached", "reconnecting", "open", "done"]
    assert site.steered == []


async def test_stop_and_abort_of_a_resumable_stream_tell_the_service(page: Page, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(frame({"text": "a"}))
        await forever()
        return response

    site.script = script
    for end in ("stop", "abort", "break"):
        site.told.clear()
        site.steered.clear()
        got = await run(
            page,
            """
            const handle = stream("hi", { resumable: true, save: "x" }), loop = handle[Symbol.asyncIterator]();
            await loop.next();
            const saved = sessionStorage.length;
            const told = arg === "break" ? loop.return() : handle[arg]();
            const answer = await told;
            return [saved, arg === "stop" ? answer : true, handle.state, sessionStorage.length];
            """,
            end,
        )
        assert got == [1, True, "aborted", 0]
        await asyncio.wait_for(site.told.wait(), 20)
        assert site.steered == [("/api/stream/s-1/stop", {"stop_token": "t-1"})]


async def test_who_leaves_while_the_head_is_on_its_way_stops_the_answer_that_comes(page: Page, site: Site) -> None:
    """Else the service waits for a reader that does not know the stream's name."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        asked.set()
        await left.wait()
        response = await begun(request)
        await forever()
        return response

    site.script = script
    # How long it waits for the head is up to the test.
    waits = "const timers = setTimeout; window.setTimeout = (f, ms) => (ms === 500 ? void (window.leave = f) : timers(f, ms));"
    await run(page, waits + "window.handle = stream('hi', { resumable: true, save: 'x' })")
    await asyncio.wait_for(asked.wait(), 20)
    got = await run(page, "handle.abort(); return [handle.state, sessionStorage.length]")
    left.set()
    assert got == ["aborted", 0]
    await asyncio.wait_for(site.told.wait(), 20)
    await run(page, "leave()")
    await asyncio.wait_for(site.left.wait(), 20)
    assert site.steered == [("/api/stream/s-1/stop", {"stop_token": "t-1"})]
    assert await run(page, "return sessionStorage.length") == 0


async def test_leaving_the_page_of_a_stream_that_is_not_resumable_stops_it_by_beacon(page: Page, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await begun(request, {"X-Resumable": "false"})
        await response.write(frame({"text": "a"}))
        await forever()
        return response

    site.script = script
    await run(page, "window.handle = stream('hi'); await handle[Symbol.asyncIterator]().next()")
    await page.goto(f"{site.url}/client.js")
    await asyncio.wait_for(site.told.wait(), 20)
    await asyncio.wait_for(site.left.wait(), 20)
    assert site.steered == [("/api/stream/s-1/stop", {"stop_token": "t-1"})]


async def test_a_reload_finds_the_stream_again_from_its_first_frame(page: Page, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(CutAnswer([]).frames[0])
        await forever()
        return response

    site.script, site.resume_script = script, CutAnswer([])
    await run(
        page,
        "window.handle = stream('hi', { resumable: true, save: 'chat' }); await handle[Symbol.asyncIterator]().next()",
    )
    await page.reload()
    got = await run(
        page,
        "const none = client.restore('other'), h = client.restore('chat');"
        "return [none, (await h.done).text, h.stopToken, client.restore('chat')]",
    )
    assert got == [None, "".join(WORDS), "t-1", None]
    assert site.resumed == [("/api/stream/s-1", None)]
    assert len(site.bodies) == 1


async def test_a_resume_by_hand_asks_for_what_follows_and_credits_are_asked_for_again(page: Page, site: Site) -> None:
    site.resume_script = CutAnswer([])
    text = await run(
        page,
        "return (await client.resume('s-1', { lastEventId: '3', stopToken: 't', credits: true }).done).text",
    )
    assert text == "".join(WORDS[3:])
    assert site.resumed == [("/api/stream/s-1?credits=1", "3")]


# --- credits ---------------------------------------------------------------------------------------------------------


def long(frames: int, after: Any = None) -> Script:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        for number in range(1, frames + 1):
            await response.write(frame({"text": "x" * 2000}, number))
        if after is not None:
            await after(response)
        await response.write(frame(DONE, frames + 1))
        return response

    return script


async def test_what_a_loop_has_shown_is_told_every_16_kb_and_what_it_has_not_is_not(page: Page, site: Site) -> None:
    site.script = long(40)
    shown = await run(
        page,
        """
        const handle = stream("hi", { credits: true }), loop = handle[Symbol.asyncIterator](), shown = [];
        for (let n = 0; n < 20; n += 1) await loop.next();
        return handle.lastEventId;
        """,
    )
    await eventually(lambda: len(site.steered) >= 3)
    assert shown == "19"
    assert site.bodies == [{"prompt": "hi", "credits": True}]
    assert site.steered == [
        ("/api/stream/s-1/shown", {"stop_token": "t-1", "id": number, "again_s": 9}) for number in (0, 9, 18)
    ]


async def test_what_waits_for_a_callback_is_not_shown(page: Page, site: Site) -> None:
    site.script = long(40)
    await run(
        page,
        """
        window.requestAnimationFrame = (work) => { window.paint = work; return 1; };
        const timers = window.setTimeout;
        window.setTimeout = (f, ms) => (ms === 250 ? 0 : timers(f, ms));
        window.handle = stream("hi", { credits: true, onText() {} });
        while (!window.paint || handle.bytes < 60000) await new Promise((resolve) => timers(resolve, 5));
        """,
    )
    await asyncio.wait_for(site.told.wait(), 20)
    assert [word["id"] for _, word in site.steered] == [0]
    site.told.clear()
    await run(page, "const done = handle.done; let over; done.then(() => { over = true; });"
              "while (!over) { window.paint(); await new Promise((r) => setTimeout(r, 5)); }")  # fmt: skip
    await asyncio.wait_for(site.told.wait(), 20)
    assert {path for path, _ in site.steered} == {"/api/stream/s-1/shown"}


async def test_a_service_with_a_smaller_window_gets_its_word_at_its_sign_of_life(page: Page, site: Site) -> None:
    """Else both would wait: the page for frames, the service for a word that comes only after 16 kB."""

    async def waits(response: web.StreamResponse) -> None:
        async with asyncio.timeout(20):
            while len(site.steered) < 2:
                await asyncio.sleep(0.2)  # a chunk of its own; to a busy page the next one is
                await response.write(b": keep-alive\n")

    site.script = long(2, waits)
    text = await run(page, "return (await stream('hi', { credits: true }).done).text")
    assert len(text) == 4000
    assert [word["id"] for _, word in site.steered][:2] == [0, 2]


async def test_a_page_that_wants_less_out_tells_more_often_and_asks_so_again(page: Page, site: Site) -> None:
    async def some(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        for number in range(1, 5):
            await response.write(frame({"text": "x" * 600}, number))
        await forever()
        return response

    site.script = some
    site.resume_script = CutAnswer([])
    await run(
        page,
        """
        const timers = window.setTimeout;  // no word comes by time alone
        window.setTimeout = (f, ms) => ms === 7000 ? 0 : timers(f, ms);
        window.handle = stream("hi", { credits: 2048, onText() {} });
        """,
    )
    await eventually(lambda: len(site.steered) >= 2)
    # On connections of their own the second may come before the first.
    path, word = max(site.steered[:2], key=lambda told: told[1]["id"])
    assert (path, 0 < word["id"] <= 4) == ("/api/stream/s-1/shown", True)
    assert site.bodies == [{"prompt": "hi", "credits": 2048}]
    await run(page, "return (await client.resume('s-1', { credits: 2048 }).done).text")
    assert site.resumed == [("/api/stream/s-1?credits=2048", None)]


async def test_a_visible_page_speaks_before_the_time_that_it_said_and_a_hidden_one_promises_nothing(
    page: Page, site: Site
) -> None:
    site.script = long(1, lambda _response: forever())
    await run(
        page,
        """
        window.hiddenNow = false;
        Object.defineProperty(document, "hidden", { get: () => hiddenNow });
        const timers = window.setTimeout;
        window.setTimeout = (f, ms) => { if (ms !== 7000) return timers(f, ms); window.speak = f; return 0; };
        window.handle = stream("hi", { credits: true, onText() {} });
        """,
    )
    await eventually(lambda: len(site.steered) == 1)
    await run(page, "speak()")
    await eventually(lambda: len(site.steered) == 2)
    await run(page, "hiddenNow = true; document.dispatchEvent(new Event('visibilitychange'))")
    await eventually(lambda: len(site.steered) == 3)
    await run(page, "hiddenNow = false; document.dispatchEvent(new Event('visibilitychange'))")
    await eventually(lambda: len(site.steered) == 4)
    assert [word.get("again_s") for _, word in site.steered] == [9, 9, None, 9]
    await run(page, "await handle.stop(); speak(); await fetch('/api/stream/s-1/stop', { method: 'POST', body: '1' })")
    assert [path for path, _ in site.steered[4:]] == ["/api/stream/s-1/stop"] * 2, "who has stopped promises nothing"


async def test_a_page_of_many_streams_whose_words_may_not_get_through_promises_nothing(page: Page, site: Site) -> None:
    """A browser has six connections to a host, and a stream takes one."""
    site.script = long(1, lambda _response: forever())
    ask = "(window.handles ??= []).push(stream('hi', { credits: true, onText() {} }));"
    await run(page, ask * 5)
    await eventually(lambda: len(site.steered) >= 5)
    assert {word.get("again_s") for _, word in site.steered} == {None}
    await run(page, "handles[0].stop(); handles[1].stop();" + ask)
    await eventually(lambda: 9 in [word.get("again_s") for _, word in site.steered])


async def test_without_credits_nothing_is_told(page: Page, site: Site) -> None:
    site.script = long(40)
    await run(page, "for await (const event of stream('hi'));")
    assert site.steered == []
