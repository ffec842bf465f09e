"""The playground's markdown, in a real browser: what it makes of Claude's text, and what a batch costs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from playwright.async_api import Page

from app.tools.simulator.answer import Request, steps
from app.tools.simulator.scenario import Scenario
from app.web.routes.pages import STATIC

pytestmark = pytest.mark.browser

RENDER = """async ([text, cuts]) => {
  const { Markdown } = await import("/markdown.js");
  const root = document.createElement("div"), paper = new Markdown(root);
  for (let from = 0, i = 0; i <= cuts.length; from = cuts[i], i += 1) {
    paper.add(text.slice(from, cuts[i] ?? text.length));
    paper.draw();
  }
  paper.close();
  root.normalize();
  return root.innerHTML.replaceAll(' target="_blank" rel="noopener noreferrer nofollow"', "")
    .replaceAll(/ (tabindex|role|aria-label|dir)="[^"]*"/g, "")
    .replaceAll(/<button type="button" class="copy-code">Copy<.button>/g, "<button>");
}"""


def code(name: str, text: str) -> str:
    return f'<div class="code"><span>{name}</span><button><pre><code><span>{text}</span></code></pre></div>'


CASES = {
    "A *b* **c** `d*e` _f_ ~~g~~": "<p>A <em>b</em> <strong>c</strong> <code>d*e</code> <em>f</em> <s>g</s></p>",
    "# One\n\ntwo\nthree\n\nfour": "<h1>One</h1><p>two\nthree</p><p>four</p>",
    "- a\n- b\n  - c\n- d": "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>",
    "3. a\n4. b\n\n   more": '<ol start="3"><li>a</li><li>b<p>more</p></li></ol>',
    "```py\na *b*\n\n<i>\n```\nz": code("py", "a *b*\n\n&lt;i&gt;") + "<p>z</p>",
    "> ```py\n> a\n>\n>  > b\n> ```\n> c\n\nd": (
        f"<blockquote>{code('py', 'a' + chr(10) * 2 + ' &gt; b')}<p>c</p></blockquote><p>d</p>"
    ),
    "> > ```\n> > a\n> b\n\n> ```\n> c\n\nd": (
        f"<blockquote><blockquote>{code('', 'a')}</blockquote><p>b</p></blockquote>"
        f"<blockquote>{code('', 'c')}</blockquote><p>d</p>"
    ),
    "> ```\n> a\n# b": f"<blockquote>{code('', 'a')}</blockquote><h1>b</h1>",
    "> a\n> b\n\nc": "<blockquote><p>a\nb</p></blockquote><p>c</p>",
    "| a | b |\n|---|---|\n| 1 | *2* |\n\nx": (
        '<div class="wide"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
        "<tbody><tr><td>1</td><td><em>2</em></td></tr></tbody></table></div><p>x</p>"
    ),
    "| a |\n|---|\n| `1\\|2` |": (
        '<div class="wide"><table><thead><tr><th>a</th></tr></thead>'
        "<tbody><tr><td><code>1|2</code></td></tr></tbody></table></div>"
    ),
    "a\n\n---\n\nb": "<p>a</p><hr><p>b</p>",
    "[x](https://e.example/a_(b)) https://f.example/q.": (
        '<p><a href="https://e.example/a_(b)">x</a> <a href="https://f.example/q">https://f.example/q</a>.</p>'
    ),
    "snake_case_name 2 * 3 * 4 and **not closed": "<p>snake_case_name 2 * 3 * 4 and **not closed</p>",
    "- [x] done\n- [ ] open": "<ul><li>☑ done</li><li>☐ open</li></ul>",
    r"\*plain\* \`too\`": "<p>*plain* `too`</p>",
    "***a*** **b *c*** *d **e** f* 2*3*4 __init__ `` a`b ``": (
        "<p><strong><em>a</em></strong> <strong>b <em>c</em></strong> <em>d <strong>e</strong> f</em> 2*3*4 "
        "<strong>init</strong> <code>a`b</code></p>"
    ),
    "http://localhost:PORT https://host:port <https://a.example/x>, <b>": (
        "<p>http://localhost:PORT https://host:port "
        '<a href="https://a.example/x">https://a.example/x</a>, &lt;b&gt;</p>'
    ),
    '[here](README.md) [x](https://a.example "T t") [https://b.example](https://c.example)': (
        '<p>[here](README.md) <a href="https://a.example/" title="T t">x</a> '
        '<a href="https://c.example/">https://b.example</a></p>'
    ),
    "```py title=a\nx\n```": code("py title=a", "x"),
    "- a\n  > b\n  > *c*\n  >\n  > d\n  - e\n- f": (
        "<ul><li>a<blockquote><p>b\n<em>c</em></p><p>d</p></blockquote><ul><li>e</li></ul></li><li>f</li></ul>"
    ),
    "> a\n> > b\n> - c\n>   - d\n\ne": (
        "<blockquote><p>a</p><blockquote><p>b</p></blockquote><ul><li>c<ul><li>d</li></ul></li></ul></blockquote><p>e</p>"
    ),
}


async def test_markdown_means_the_same_however_it_is_cut(page: Page) -> None:
    dice = random.Random(5)
    for text, wanted in CASES.items():
        cuttings: list[list[int]] = [[], list(range(1, len(text)))]
        cuttings += [sorted(dice.sample(range(len(text)), min(len(text) - 1, 5))) for _ in range(12)]
        for cuts in cuttings:
            assert await page.evaluate(RENDER, [text, cuts]) == wanted, (text, cuts)


async def test_each_block_runs_as_its_first_letter_does_and_code_always_to_the_right(page: Page) -> None:
    text = "مرحبا hello\n\nhello مرحبا\n\n- عنصر\n  - item\n\n> اقتباس\n\n```\nشيء\n```\n\n| خلية | cell |\n|---|---|\n| a | b |\n"
    found = await page.evaluate(
        """async (text) => {
          const { Markdown } = await import("/markdown.js");
          const root = document.body.appendChild(document.createElement("div"));
          const paper = new Markdown(root);
          for (const char of text) { paper.add(char); paper.draw(); }
          paper.close();
          return [...root.querySelectorAll("p, ul, li, blockquote, pre, th")]
            .map((block) => block.localName + " " + getComputedStyle(block).direction);
        }""",
        text,
    )
    assert found == [
        "p rtl", "p ltr", "ul rtl", "li rtl", "ul rtl", "li rtl", "blockquote rtl", "p rtl", "pre ltr", "th rtl", "th ltr"
    ]  # fmt: skip


EVIL = [
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,hello)",
    "[x](vbscript:a)",
    "![x](file:///etc/passwd)",
    "`<script>alert(1)</script>`",
    "```<script>\n</script><script>alert(1)</script>\n```",
    "| <script> |\n|---|\n| <b onclick=x> |",
    '[x](https://e.example/"onmouseover="alert(1))',
]


async def test_claude_s_text_is_never_html_and_links_go_only_where_links_may(page: Page) -> None:
    found = await page.evaluate(
        """async (texts) => {
          const { Markdown } = await import("/markdown.js");
          const root = document.body.appendChild(document.createElement("div"));
          for (const text of texts) {
            const paper = new Markdown(root);
            for (const char of text) { paper.add(char); paper.draw(); }
            paper.close();
          }
          return [...root.querySelectorAll("*")].map((e) => [
            e.localName, e.protocol ?? "", [...e.attributes].filter((a) => a.name.startsWith("on")).length]);
        }""",
        EVIL,
    )
    allowed = {"p", "a", "code", "pre", "span", "button", "table", "thead", "tbody", "tr", "th", "td", "div"}
    assert {name for name, _, _ in found} <= allowed
    assert {protocol for _, protocol, _ in found} <= {"", "https:"}
    assert not any(handlers for _, _, handlers in found)


async def test_the_source_puts_no_text_in_as_html() -> None:
    for name in ("markdown.js", "playground.js", "gauges.js"):
        source = (STATIC / name).read_text()
        assert not any(word in source for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"))


def prose(tokens: int) -> str:
    scenario = Scenario(tokens=tokens, seed=5)
    made = b"".join(step.data for step in steps(scenario, Request("msg_1", "claude-x", 1)))
    return "".join(
        part.split('"text":"', 1)[1].rsplit('"}}', 1)[0].encode().decode("unicode_escape", "ignore")
        if "\\u" in part
        else part.split('"text":"', 1)[1].rsplit('"}}', 1)[0].replace("\\n", "\n").replace('\\"', '"')
        for part in made.decode().split("\n")
        if '"text_delta"' in part
    )


SHAPES = {
    "prose": lambda: prose(30_000),
    "one paragraph": lambda: "word " * 30_000,
    "one code block": lambda: "```\n" + "let x = 1; // and on\n" * 6_000,
    "one list": lambda: "- an **item** of it\n" * 6_000,
    "never closed": lambda: "**" + "word *x `" * 12_000,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_batch_costs_does_not_grow_with_the_answer(
    page: Page, shape: str, record_property: Callable[[str, object], None]
) -> None:
    """Counted: nodes that change, and characters that go through the parser, for each batch of forty characters."""
    text = SHAPES[shape]()
    early, late, parsed, length = await page.evaluate(
        """async (text) => {
          const { Markdown } = await import("/markdown.js");
          const root = document.body.appendChild(document.createElement("div")), paper = new Markdown(root);
          let nodes = 0;
          const observer = new MutationObserver(() => {});
          observer.observe(root, { childList: true, characterData: true, subtree: true });
          const worst = [0, 0].map(() => ({ nodes: 0, parsed: 0 }));
          const SIZE = 40, batches = Math.floor(text.length / SIZE);
          for (let n = 0; n < batches; n += 1) {
            const before = paper.counts.parsed;
            paper.add(text.slice(n * SIZE, (n + 1) * SIZE));
            paper.draw();
            const touched = observer.takeRecords().reduce((sum, r) => sum + Math.max(1, r.addedNodes.length + r.removedNodes.length), 0);
            const half = worst[n < batches / 10 ? 0 : 1];
            half.nodes = Math.max(half.nodes, touched);
            half.parsed = Math.max(half.parsed, paper.counts.parsed - before);
          }
          const parsed = paper.counts.parsed;
          root.remove();
          return [worst[0], worst[1], parsed, text.length];
        }""",
        text,
    )
    print(shape, early, late, f"{parsed / length:.1f} times parsed in all")
    record_property("late", late)
    assert late["parsed"] <= 4_000
    assert late["nodes"] <= 600
    # The last nine tenths of the answer cost no more than the first.
    assert late["parsed"] <= max(2 * early["parsed"], 400)
    assert late["nodes"] <= max(2 * early["nodes"], 60)
