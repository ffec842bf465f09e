"""The README's snippets, each run as it stands: in a page, in node, in Python or in a shell, before the real service.

Only the names of hosts are led elsewhere, and what a snippet takes for given (a prompt, a function of the page) is given.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from playwright.async_api import Browser, Page, Route, expect

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.browser import blameless
from tests.support.client_package import README, ROOT, install
from tests.support.node import bundle, program

ORIGIN, NAMED, LOCAL = "http://page.example", "https://stream.example", "http://127.0.0.1:8080"
KEY = "key-of-acme-which-is-long"
PROMPT = "Go. {{tokens=20 text=numbered}}"
TEXT: Final = numbered_text(20)

BLOCKS: Final = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PICTURES = {"text", "mermaid"}
SNIPPETS: Final = [(language, code) for language, code in BLOCKS if language not in PICTURES]


@dataclass(frozen=True)
class Around:
    """What a page's snippet takes for given, and what is looked at afterwards."""

    given: str = ""
    then: str = ""
    looks: Callable[[Page], Awaitable[None]] | None = None


async def came_whole(page: Page) -> None:
    await expect(page.locator("#came")).to_have_text(TEXT.strip(), timeout=20_000)


async def is_done(page: Page) -> None:
    await expect(page.locator("#badge")).to_have_text("done", timeout=20_000)
    assert len(await page.locator("#output").text_content() or "") > 100


async def asks(page: Page) -> None:
    await page.get_by_role("button", name="Ask").click()
    await expect(page.locator("p")).to_have_text(TEXT.strip(), timeout=20_000)


async def asks_a_chat(page: Page) -> None:
    await page.get_by_role("button", name="Ask").click()
    await expect(page.locator("output")).to_have_text(TEXT.strip(), timeout=20_000)
    await page.get_by_role("button", name="Stop").click()


_CLIENT = f'import {{ stream }} from "sluiceway-client"; const prompt = {json.dumps(PROMPT)};'
_TELL = "document.getElementById('came').textContent = {0};"
_DRAW = 'import {{ createRoot }} from "react-dom/client"; createRoot(document.getElementById("root")).render({0});'
_CHAT = """
  const words = messages.filter((one) => one.role === "assistant").flatMap((one) => one.parts).map((part) => part.text ?? "");
  const end = typeof stopForGood === "undefined" ? stop : stopForGood;
  return <main><output>{words.join("")}</output><button onClick={() => sendMessage({ text: prompt })}>Ask</button>
    <button onClick={end}>Stop</button></main>;
}
"""

# By a phrase that one snippet alone has.
PAGES: Final = {
    'restore("chat", options)': Around(looks=is_done),
    "await speak(event.text)": Around(
        f"{_CLIENT} let spoken = ''; const speak = async (text) => {{ spoken += text; }};",
        _TELL.format("spoken"),
        came_whole,
    ),
    "function Answer({ question })": Around("", _DRAW.format(f"<Answer question={{{json.dumps(PROMPT)}}} />"), asks),
    'fetch("/my-token"': Around(_CLIENT, _TELL.format("(await answer.done).text"), came_whole),
    '.split("\\n\\n")': Around(
        f"const prompt = {json.dumps(PROMPT)}; let shown = ''; const show = (frame) => {{ shown += frame.text ?? ''; }};",
        _TELL.format("shown"),
        came_whole,
    ),
    "The default path is /api/chat": Around(looks=asks_a_chat),
    "const stopForGood": Around(looks=asks_a_chat),
}


def around(code: str) -> Around:
    found = [one for phrase, one in PAGES.items() if phrase in code]
    assert len(found) == 1, f"a snippet that nobody runs, or that two would:\n{code}"
    return found[0]


def module(code: str) -> str:
    """A snippet of a page as a module: with what is given before it; the hooks of a chat within a component."""
    one = around(code)
    if one.looks is not asks_a_chat:
        return f"{one.given}\n{code}\n{one.then}"
    imports = "".join(re.findall(r"^import .*\n", code, re.MULTILINE))
    hooks = code.replace(imports, "") if imports in code else re.sub(r"(?m)^import .*\n", "", code)
    given = f'const prompt = {json.dumps(PROMPT)}, chatId = "chat-1";'
    return f"{imports}{given}\nfunction Chat() {{\n{hooks}{_CHAT}{_DRAW.format('<Chat />')}"


@pytest.fixture
async def service(serve: Serve, tmp_path: Path) -> Running:
    """One for callers with keys, whom the snippets' site may ask."""
    callers = tmp_path / "callers.toml"
    callers.touch(0o600)
    callers.write_text('[callers.acme]\nmodels = ["claude-*"]\n', "utf-8")
    return await serve(callers_file=str(callers), api_keys=(f"acme:{KEY}",), cors_origins=(ORIGIN,))


@pytest.mark.browser
@pytest.mark.parametrize("code", [code for language, code in SNIPPETS if language in ("js", "jsx")])
async def test_a_snippet_for_a_page_runs_in_one(
    code: str, service: Running, chrome: Browser, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    entry = tmp_path / "snippet.mjs"
    entry.write_text(module(code), "utf-8")
    script = await bundle(str(entry), "--format=esm", "--loader:.mjs=jsx", beside=install(tmp_path))
    parts = "<p id=output></p><p id=badge></p><p id=came></p><button id=stopButton></button>"
    body = f"<!doctype html><meta charset=utf-8>{'<div id=root></div>' if '<' in module(code) else parts}"

    async def answer(route: Route) -> None:
        """The page's own site: its page, its back end, and the service, which it leads its paths to."""
        path = "/" + route.request.url.split("/", 3)[3]
        if path == "/":
            await route.fulfill(body=body + '<script type=module src="/page.js"></script>', content_type="text/html")
        elif path == "/page.js":
            await route.fulfill(body=script, content_type="text/javascript")
        elif path == "/my-token":
            asked = {"sub": "user-17"}
            async with client.post(f"{service.url}/v1/tokens", json=asked, headers={"x-api-key": KEY}) as made:
                await route.fulfill(body=await made.read(), content_type="application/json")
        else:
            headers = dict(route.request.headers)
            if route.request.url.startswith(ORIGIN):
                headers.pop("origin", None)  # to a site that has the service under its own name, this is its own
            if not headers.get("authorization"):
                headers["x-api-key"] = KEY  # as a site does that knows its users
            response = await route.fetch(url=service.url + path, headers=headers)
            await route.fulfill(response=response)

    page = await chrome.new_page()
    async with blameless(page):
        await page.route(re.compile(f"^({ORIGIN}|{NAMED})/"), answer)
        await page.goto(f"{ORIGIN}/")
        looks = around(code).looks
        assert looks is not None
        await looks(page)
        await page.unroute_all(behavior="wait")
        await page.close()


async def test_the_snippet_for_python_runs(service: Running, tmp_path: Path) -> None:
    (code,) = (code for language, code in SNIPPETS if language == "python")
    given = f"import anthropic\nmessages = [{{'role': 'user', 'content': {PROMPT!r}}}]\n"
    script = tmp_path / "snippet.py"
    script.write_text(given + led(code, service).replace("your Sluiceway key, or any word without keys", KEY), "utf-8")
    assert await ran(sys.executable, str(script)) == TEXT


async def test_the_snippet_for_node_runs(service: Running, simulator: Simulator, tmp_path: Path) -> None:
    (code,) = (code for language, code in SNIPPETS if language == "ts")
    given = f'import Anthropic from "@anthropic-ai/sdk"; const messages = [{{ role: "user", content: {json.dumps(PROMPT)} }}];'
    entry = tmp_path / "snippet.mjs"
    entry.write_text(given + led(code, service).replace('apiKey: "…"', f'apiKey: "{KEY}"'), "utf-8")
    script = tmp_path / "bundled.mjs"
    script.write_bytes(await bundle(str(entry), "--format=esm", "--platform=node", beside=install(tmp_path)))
    await program(script, cwd=tmp_path)
    assert [book.finished for book in simulator.books] == [True]


@pytest.mark.parametrize("code", [code for language, code in SNIPPETS if language == "sh"])
async def test_a_snippet_for_a_shell_runs(code: str, service: Running, tmp_path: Path) -> None:
    """What lasts, or would run these tests, is held to what the program itself says that it takes."""
    (tmp_path / ".curlrc").write_text(f'silent\nheader = "x-api-key: {KEY}"\n', "utf-8")  # the caller's own
    said = ""
    for line in code.replace("\\\n", "").splitlines():
        if line.startswith("curl"):
            for name, header in (("ID", "X-Stream-Id"), ("TOKEN", "X-Stop-Token")):
                found = re.search(rf"^{header}: (\S+)", said, re.MULTILINE)
                line = re.sub(rf"\b{name}\b", found[1], line) if found else line
            told = await ran("sh", "-c", led(line, service), home=tmp_path)
            said += told
        elif line.startswith("make"):
            await ran("make", "-n", line.split()[1])
        elif line.startswith("python -m app"):
            words = shlex.split(line, comments=True)
            options = {word for word in words[4:] if word.startswith("--")}
            assert options <= set((await ran(sys.executable, "-m", "app", words[3], "--help")).split())
        else:
            assert line.startswith("# {"), line
            assert json.loads(said).keys() == {"token", "expires_at", "expires_in_s"} == set(json.loads(line[2:]))
    assert '"error"' not in said


def led(code: str, service: Running) -> str:
    """The code with the hosts that it names led to the service."""
    return code.replace(NAMED, service.url).replace(LOCAL, service.url)


async def ran(*command: str, home: Path = ROOT) -> str:
    """What a program prints; it must not fail. `home` has curl's own settings."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | {"SLUICEWAY_KEY": KEY, "CURL_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_every_block_of_the_readme_is_a_picture_or_of_a_language_that_is_run() -> None:
    assert {language for language, _ in BLOCKS} <= PICTURES | {"js", "jsx", "python", "ts", "sh"}
    assert README.count("\n```") == 2 * len(BLOCKS)
