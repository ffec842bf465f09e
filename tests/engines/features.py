"""What each engine must do with `client.js`, one function a feature: it fails, or returns what must be said beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.performance import RequestRecord
from app.tools.simulator.server import Simulator
from tests.engines.engine import Engine, Tab
from tests.support.far import Far
from tests.support.link import Link
from tests.support.readers import steady

WITHIN_S = 60.0

# What it keeps in the window: the text so far, and how it ended.
_PAGE = """
  const { resume, restore, stream } = await import("/client.js");
  Object.assign(window, { got: "", states: [], end: null });
  window.told = {
    onText: (more) => { window.got += more; },
    onState: (state) => states.push(state),
    onDone: () => { window.end = "done"; },
    onError: (error) => { window.end = error.type; },
  };
"""
_ASK = _PAGE + "window.handle = stream(arg.prompt, { ...told, ...arg.options });"
_RESTORE = _PAGE + "window.handle = restore('engines', told); return handle !== null;"


@dataclass(frozen=True)
class Scene:
    """An engine before a service, with a link between them that can be reset, and one that can vanish.

    Attributes:
        line: resets connections.
        far: takes the whole network away.
    """

    engine: Engine
    simulator: Simulator
    line: Link
    far: Far

    async def tab(self) -> Tab:
        """A new tab with a page of the service, by way of the link."""
        tab = await self.engine.tab()
        await tab.goto(f"{self.line.url}/")
        return tab

    async def asking(self, tokens: int, rate: int = 100, **options: Any) -> tuple[Tab, RequestRecord]:
        """A new tab whose page asks; and what the simulated Claude knows of its answer, once it has begun."""
        tab, before = await self.tab(), len(self.simulator.books)
        prompt = f"Go. {{{{tokens={tokens} rate={rate} text=numbered}}}}"
        await tab.run(_ASK, {"prompt": prompt, "options": options})
        await until(tab, "window.got !== ''")
        assert len(self.simulator.books) == before + 1, "one question, one answer"
        return tab, self.simulator.books[before]


async def until(tab: Tab, condition: str, within_s: float = WITHIN_S) -> None:
    """Returns when this is true in the page; no event of a page's own reaches us by every driver."""
    async with asyncio.timeout(within_s):
        while not await tab.run(f"return Boolean({condition})"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def soon(tab: Tab, condition: str) -> bool:
    """Whether it comes to be true within some seconds."""
    try:
        await until(tab, condition, within_s=6)
    except TimeoutError:
        return False
    return True


async def whole(tab: Tab, tokens: int) -> None:
    """The page gets the whole answer, and each character of it once."""
    await until(tab, "window.end !== null")
    end, text = await tab.run("return [window.end, window.got]")
    assert (end, text == numbered_text(tokens)) == ("done", True), f"{end} after {len(text)} characters: …{text[-40:]}"


async def streams(scene: Scene) -> str:
    """Text as it comes, once, to its end."""
    tab, _ = await scene.asking(200)
    partly = await tab.run("return got.length")
    await whole(tab, 200)
    assert 0 < partly < len(numbered_text(200)), "it came as a stream"
    assert await tab.run("return states") == ["open", "done"]
    await tab.close()
    return ""


async def holds(scene: Scene) -> str:
    """With credits a page that stops consuming holds Claude still, and gets the rest later."""
    tokens, tab, before = 30_000, await scene.tab(), len(scene.simulator.books)
    await tab.run(
        _PAGE
        + """
        window.handle = stream(arg, { credits: true });
        const open = new Promise((resolve) => { window.goOn = resolve; });
        (async () => {
          for await (const event of handle) if (event.type === "text") { got += event.text; await open; }
          window.end = "done";
        })();
        """,
        f"Go. {{{{tokens={tokens} text=numbered}}}}",
    )
    await until(tab, "window.got !== ''")
    held = await steady(lambda: scene.simulator.books[before].tokens)
    assert held < tokens / 2, f"{held} of {tokens} tokens were generated for a page that shows none"
    await tab.run("goOn()")
    await whole(tab, tokens)
    await tab.close()
    return ""


async def stops(scene: Scene) -> str:
    """`stop()` stops Claude, and is answered."""
    tab, book = await scene.asking(5000, resumable=True)
    assert await tab.run("return handle.stop()") is True
    await asyncio.wait_for(book.ended.wait(), WITHIN_S)
    assert not book.finished
    assert await tab.run("return states.at(-1)") == "aborted"
    await tab.close()
    return ""


async def leaves(scene: Scene) -> str:
    """Leaving the page, and closing the tab, stop Claude."""
    for closes in (False, True):
        tab, book = await scene.asking(5000)
        await (tab.close() if closes else tab.goto(f"{scene.line.url}/client.d.ts"))
        await asyncio.wait_for(book.ended.wait(), WITHIN_S)
        assert not book.finished
    return ""


async def resumes(scene: Scene) -> str:
    """Cut off twice, it comes back by itself, at the very byte."""
    tab, _ = await scene.asking(400, resumable=True, credits=True)
    for mark in ("token0050", "token0200"):
        await until(tab, f"window.got.includes('{mark}')")
        scene.line.cut()
    await whole(tab, 400)
    assert "reconnecting" in await tab.run("return states")
    await tab.close()
    return ""


async def reloads(scene: Scene) -> str:
    """A reload finds the answer again, from its first character."""
    tab, _ = await scene.asking(400, resumable=True, save="engines")
    await tab.reload()
    assert await tab.run(_RESTORE) is True
    await whole(tab, 400)
    await tab.close()
    return ""


async def hides(scene: Scene) -> str:
    """A hidden tab gets the whole answer, with credits too."""
    tab, _ = await scene.asking(1500, rate=150, resumable=True, credits=True)
    await tab.hide()
    await until(tab, "document.hidden")
    await whole(tab, 1500)
    assert await tab.run("return document.hidden"), "it was hidden to the end"
    await tab.close()
    return ""


async def goes_back(scene: Scene) -> str:
    """Left for another page and come back to, out of the back-forward cache where there is one."""
    tab, _ = await scene.asking(600, resumable=True, save="engines")
    await tab.goto(f"{scene.line.url}/client.d.ts")
    await tab.back()
    await until(tab, "document.readyState === 'complete' && location.pathname === '/'")
    kept = await tab.run("return window.got !== undefined")
    if not kept:
        assert await tab.run(_RESTORE) is True
    await whole(tab, 600)
    await tab.close()
    return "" if kept else "the engine did not keep the page: it found its answer again as after a reload"


async def shares(scene: Scene) -> str:
    """A second tab takes the stream over, whole; the first one is told so."""
    first, _ = await scene.asking(1000, resumable=True)
    second = await scene.tab()
    where = await first.run("return { id: handle.id, stopToken: handle.stopToken }")
    await second.run(_PAGE + "window.handle = resume(arg.id, { ...told, stopToken: arg.stopToken });", where)
    await until(first, "window.end !== null")
    assert await first.run("return window.end") == "taken_over"
    await whole(second, 1000)
    await first.close()
    await second.close()
    return ""


async def comes_online(scene: Scene) -> str:
    """The network goes away under it, without a word, and comes back."""
    tab, _ = await scene.asking(600, resumable=True, credits=True)
    scene.far.cut()
    try:
        knows = await soon(tab, "!navigator.onLine")
        partly = await tab.run("return got.length")
    finally:
        scene.far.mend()
    assert partly < len(numbered_text(600)), "it was under way"
    await whole(tab, 600)
    await tab.close()
    return "" if knows else "`navigator.onLine` stayed true without a network: it came back with the connection"


async def plays(scene: Scene) -> str:
    """The playground: a prompt is sent, the answer stands there whole."""
    tab = await scene.tab()
    await until(tab, "document.readyState === 'complete' && document.querySelector('#state').dataset.state")
    await tab.run(
        "const prompt = document.querySelector('#prompt'); prompt.value = arg;"
        "prompt.dispatchEvent(new Event('input', { bubbles: true })); document.querySelector('#send').click();",
        "Go. {{tokens=100 rate=100 text=numbered}}",
    )
    await until(tab, "document.querySelector('#state').dataset.state === 'done'")
    text = await tab.run("return document.querySelector('#text').textContent.trim()")
    assert text == numbered_text(100).strip()
    await tab.close()
    return ""


FEATURES: Final[dict[str, Callable[[Scene], Awaitable[str]]]] = {
    "stream": streams,
    "a slow reader holds Claude": holds,
    "stop": stops,
    "leave, close": leaves,
    "resume after a cut": resumes,
    "reload": reloads,
    "hidden tab": hides,
    "back and forward": goes_back,
    "two tabs, one stream": shares,
    "offline and back": comes_online,
    "the playground": plays,
}
