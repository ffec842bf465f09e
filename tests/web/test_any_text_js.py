"""Any text a model can write, on the playground's paper: all of it is shown, however it came, and in bounded work."""

from __future__ import annotations

import math
import random

import pytest
from playwright.async_api import Browser, Page, expect

from app.web.routes.pages import STATIC
from app.web.runner import Running
from tests.support.browser import blameless, open_page

pytestmark = [pytest.mark.browser]

# Random markdown is made in the page, a seed a text: marks, marks in great numbers, addresses that are none, and words
# `w0q w1q …`, each once. A text is put on a paper whole, in random pieces with a frame drawn after each, and, where it
# is short, character by character. Returns what went wrong, with its seed.
ANY_TEXT = r"""async ([first, count]) => {
  const { Markdown } = await import("/markdown.js");
  const { inline } = await import("/marks.js");
  const PIECES = ["*", "**", "***", "_", "__", "`", "``", "```", "~~", "~~~", "[", "]", "](", "](https://", ")", "(", "!",
    "![", "<", ">", "\\", "\\*", "#", "# ", "## ", "- ", "* ", "1. ", "2) ", "> ", "> > ", "|", " | ", "|---|\n", "| --- |",
    "---", "***\n", "===", "\n", "\n\n", "\n", "    ", "  ", "\t", " ", " ", "https://", "http://localhost:PORT",
    "https://host:port/", "http://{host}:8080/", "http://[::1", "https://a.example/x_(y).", "mailto:", "javascript:", "\"",
    ": ", "&amp;", "<b>", "</p>", "- [x] ", "- [ ]", "```py\n", "\n```\n", "~~~\n", "\r\n", "é", "日本", "👩‍👩‍👧", "\ud83d",
    "\u0000", "\u2028", "\u00a0", "http", "h", "ht", "htt", ".", ",", "!"];
  const dice = (seed) => () => { // mulberry32
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const written = (roll) => {
    const some = (list) => list[Math.floor(roll() * list.length)];
    const pieces = roll() < 0.5 ? PIECES : Array.from({ length: 1 + Math.floor(roll() * 8) }, () => some(PIECES));
    const length = 1 + Math.floor(roll() * (roll() < 0.05 ? 1500 : 60));
    let text = "", words = 0;
    for (let n = 0; n < length; n += 1) {
      if (roll() < 0.4) text += `w${words++}q`;
      else text += some(pieces).repeat(roll() < 0.01 ? 1 + Math.floor(roll() * 1000) : 1);
    }
    return [text, words];
  };
  const render = (text, size) => {
    const root = document.createElement("div"), paper = new Markdown(root);
    for (let at = 0, step; at < text.length; at += step) {
      step = size();
      paper.add(text.slice(at, at + step));
      paper.draw();
    }
    paper.close();
    return root;
  };
  // The marks alone, settled as early as they can be.
  const settled = (text, size) => {
    const root = document.createElement("div");
    let tail = "", before = "";
    for (let at = 0, step; at < text.length; at += step) {
      step = size();
      tail += text.slice(at, at + step);
      const end = inline(root, tail, { ended: false, before });
      before = tail[end - 1] ?? before;
      tail = tail.slice(end);
    }
    inline(root, tail, { before });
    return root;
  };
  const wrong = (seed) => {
    const roll = dice(seed);
    const [text, words] = written(roll);
    const most = 1 + Math.floor(roll() * 40);
    const whole = render(text, () => Infinity);
    const ways = [() => 1 + Math.floor(roll() * most), ...(text.length < 3000 ? [() => 1] : [])];
    if (ways.some((way) => render(text, way).textContent !== whole.textContent)) return [seed, "another text when cut", text];
    const marked = settled(text, () => Infinity).textContent;
    if (ways.some((way) => settled(text, way).textContent !== marked)) return [seed, "other marks when cut", text];
    const shown = whole.textContent; // what a link leads to and what language code is in are told by attributes
    const told = [...whole.querySelectorAll("a, pre")].map((e) => `${e.href} ${e.title} ${e.dataset.language}`).join(" ");
    for (let n = 0; n < words; n += 1) {
      const times = shown.split(`w${n}q`).length - 1;
      if (times > 1 || (times === 0 && !told.includes(`w${n}q`))) return [seed, `w${n}q ${times} times`, text];
    }
    return null;
  };
  for (let seed = first; seed < first + count; seed += 1) {
    try {
      const found = wrong(seed);
      if (found) return found;
    } catch (error) {
      return [seed, String(error.stack)];
    }
  }
  return null;
}"""


@pytest.mark.parametrize("count", [100, pytest.param(5_000, marks=pytest.mark.soak)])
async def test_whatever_is_written_is_shown_whole_and_once_however_it_is_cut(page: Page, count: int) -> None:
    # The few are always the same, so that a change is what makes them fail; the many find something new each time.
    first = 1 if count == 100 else random.SystemRandom().randrange(2**31)
    print(f"seeds {first} to {first + count - 1}")
    assert await page.evaluate(ANY_TEXT, [first, count]) is None


# So many characters each: what backtracks, what nests, what opens and never closes.
UNITS = ["*", "_", "`", "~", "[", "<", ">", "> ", "|", "#", "\\", " ", "\t", "- ", "1. ", "![", "*a ", "**a ", "*_", "**a_b*c__",
         "`a ``b ```c ", "[a](", "[a](b ", "[a](https://x.example/((", "[a](https://x:y/) ", "https://", "https://a.", "h ",
         "http://localhost:PORT ", "<https://a ", "```\n", "| a |\n", "|-", "# a\n", "> > > a\n", "> - a\n>> 1. b\n",
         "*a **b _c __d ~~e "]  # fmt: skip


def shapes(chars: int) -> list[str]:
    return [
        *(unit * (chars // len(unit)) for unit in UNITS),
        *("a" + mark * chars for mark in "*`>[<"),
        "".join("`" * size + "a" for size in range(1, math.isqrt(2 * chars))),
        "".join("  " * depth + "- a\n" for depth in range(math.isqrt(chars))),
        "```\n" + "`\n" * (chars // 2),
        "```" + "a" * chars,
        "| a |\n|---|\n" + "| a | b |\n" * (chars // 10),
        "https://" + "a" * chars,
    ]


@pytest.mark.parametrize("chars", [8_000, pytest.param(30_000, marks=pytest.mark.soak)])
async def test_nothing_that_is_written_makes_the_page_work_without_bound(page: Page, chars: int) -> None:
    """Were anything of it square in the text's length or worse, this would take minutes, or the page would crash."""
    for text in shapes(chars):
        depth, parsed, same = await page.evaluate(
            """async (text) => {
              const { Markdown } = await import("/markdown.js");
              const render = (size) => {
                const root = document.body.appendChild(document.createElement("div")), paper = new Markdown(root);
                for (let at = 0; at < text.length; at += size) {
                  paper.add(text.slice(at, at + size));
                  paper.draw();
                }
                paper.close();
                root.getBoundingClientRect(); // lays it out
                return [root, paper.counts.parsed];
              };
              const [whole] = render(text.length), [cut, parsed] = render(400);
              const deep = (element) => 1 + Math.max(0, ...[...element.children].slice(0, 500).map(deep));
              const told = [deep(whole), parsed, whole.textContent === cut.textContent];
              whole.remove();
              cut.remove();
              return told;
            }""",
            text,
        )
        assert same, text[:40]
        assert depth <= 60, text[:40]
        assert parsed <= 10 * len(text), text[:40]


# --- on the page itself ----------------------------------------------------------------------------------------------

NO_ADDRESSES = "Set `BASE_URL` to http://localhost:PORT, or https://host:port or http://{host}:8080/ and **go on**."
SHOWN = "Set BASE_URL to http://localhost:PORT, or https://host:port or http://{host}:8080/ and go on."


async def answered(page: Page, service: Running, answer: list[str]) -> None:
    """Sends a prompt and has it answered with these texts, a frame each, as the service would write them."""

    async def stream(route: object) -> None:
        frames = [f"id: {n}\ndata: {text}\n\n" for n, text in enumerate(answer, 1)]
        await route.fulfill(  # type: ignore[attr-defined]
            body="".join(frames), headers={"Content-Type": "text/event-stream", "X-Stream-Id": "st0_x"}
        )

    await page.route("**/api/stream", stream)
    await open_page(page, service.url)
    await page.get_by_label("Your prompt").fill("hello")
    await page.keyboard.press("Control+Enter")


def in_frames(text: str) -> list[str]:
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    quoted = [piece.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for piece in pieces]
    return [f'{{"text": "{piece}"}}' for piece in quoted] + ['{"done": true, "stop_reason": "end_turn", "usage": {}}']


async def test_an_address_that_is_none_is_shown_as_it_is_written(chrome: Browser, service: Running) -> None:
    page = await chrome.new_page()
    async with blameless(page):
        await answered(page, service, in_frames(NO_ADDRESSES))
        await expect(page.locator("#state")).to_have_attribute("data-state", "done")
        assert await page.locator("#text").text_content() == SHOWN
        await page.close()


async def test_a_failing_renderer_costs_the_marks_and_not_the_answer(chrome: Browser, service: Running) -> None:
    page = await chrome.new_page()
    source = (STATIC / "marks.js").read_text()
    broken = source.replace(
        "const open = ", 'if (window.startsWith("**")) throw new Error("no bold today");\nconst open = '
    )
    assert broken != source
    await page.route("**/marks.js", lambda route: route.fulfill(body=broken, content_type="text/javascript"))
    async with blameless(page) as met:
        await answered(page, service, in_frames("One *two*\n\nthree **four**\n\nfive " * 3))
        await expect(page.locator("#state")).to_have_attribute("data-state", "done")
        assert await page.locator("#text").text_content() == "One *two*\n\nthree **four**\n\nfive " * 3
        assert await page.get_by_role("status").text_content() == "The answer is complete: 15 words."
        await page.close()
        assert met == ["no bold today"]
        met.clear()
