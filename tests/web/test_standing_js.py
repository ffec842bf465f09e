"""How a run stands, by what the playground has heard and when: the words on the page follow from it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

pytestmark = pytest.mark.browser

# Each step is at a time in seconds. `look` may change what the page sees: the stream's bytes, characters, its state;
# `ask` sends a request for figures, `told` answers the newest of them. Yields the state after each look.
PLAY = """async ([steps, options]) => {
  const { Standing, stateOf } = await import("/standing.js");
  const standing = new Standing(0, options);
  const run = { handle: { state: "open" }, ended: null, firstAt: 0, standing };
  let seen = { bytes: 0, chars: 0, withThinking: false }, askedAt = 0;
  const states = [];
  for (const [second, what, more] of steps) {
    const now = second * 1000;
    if (what === "ask") standing.asked((askedAt = now));
    else if (what === "told") standing.answered(more && figures(more, now), askedAt);
    else {
      if (more?.state) run.handle.state = more.state;
      if (more?.started === false) run.firstAt = null;
      seen = { ...seen, ...more };
      const lost = run.handle.state === "reconnecting", connecting = run.handle.state === "connecting";
      standing.look({ ...seen, now, lost, connecting });
      const state = stateOf(run, more?.speed ?? Infinity);
      states.push(standing.isStill(now) ? `${state}, still` : standing.quietMs(now) ? `${state}, quiet` : state);
    }
  }
  return states;
  function figures({ chars = 0, thinking = 0, paused = false, paused_s = 0, reader = "attached" }, at) {
    const generated_chars = { text: chars, thinking, input_json: 0 };
    return { generated_chars, generated_tokens: (chars + thinking) / 4, paused, paused_s, reader, at };
  }
}"""

Steps = list[tuple[float, str] | tuple[float, str, Any]]


def looks(*seconds: float, **more: object) -> Steps:
    return [(second, "look", more) for second in seconds]


CASES: dict[str, tuple[Steps, list[str]]] = {
    "a link that carries nothing is said to, and no sooner than it was asked": (
        [*looks(1, bytes=9), (1, "told", {"chars": 9}), (2, "ask"), *looks(2, 3, 4, 5, 5.1)],
        ["open", "open", "open", "open", "open", "silent"],
    ),
    "who reads text hears the service, whatever its figures do": (
        [(1, "ask"), *(look for n in range(1, 7) for look in looks(n, bytes=n))],
        ["open"] * 6,
    ),
    "who takes nothing hears it by its figures": (
        [
            *looks(0.5, speed=0),
            *((n + late, what, {"chars": n}) for n in range(1, 6) for late, what in ((0, "ask"), (0.5, "told"))),
            *looks(2, 4, 6, speed=0),
        ],
        ["held"] * 4,
    ),
    "a page that was away itself blames no network, and catches up": (
        [
            *looks(1, bytes=9),
            (1.2, "ask"),
            *looks(16, 17, bytes=9000, chars=9000),
            (17.1, "ask"),
            (17.2, "told", {"chars": 9000}),
            *looks(17.3),
        ],
        ["open", "behind", "behind", "open"],
    ),
    "a prompt that reaches nobody is on its way, and then nothing comes": (
        [
            *looks(1, 2, 3, 3.1, state="connecting", started=False),
            *looks(4, state="open", started=False, bytes=1),
        ],
        ["connecting", "connecting", "connecting", "silent", "waiting"],
    ),
    "who comes back catches up to where Claude was then": (
        [
            *looks(1, bytes=10, chars=10),
            *looks(2, state="reconnecting"),
            *looks(3, state="open", bytes=20, chars=20),
            (3, "ask"),
            (3.1, "told", {"chars": 100, "paused": True, "paused_s": 1}),
            *looks(3.2, bytes=90, chars=90),
            *looks(3.4, bytes=110, chars=100),
        ],
        ["open", "reconnecting", "behind", "behind", "open"],
    ),
    "figures asked for before the end of a gap do not say how far it is": (
        [
            (1, "ask"),
            *looks(1.1, state="reconnecting"),
            *looks(3, state="open", bytes=20, chars=20),
            (3.1, "told", {"chars": 20}),
            *looks(3.2, bytes=90, chars=90),
        ],
        ["reconnecting", "behind", "behind"],
    ),
    "what Claude was held in a gap is not how it is held now": (
        [
            (1, "told", {"chars": 10, "paused_s": 0}),
            *looks(1.1, state="reconnecting"),
            *looks(3, state="open", chars=20),
            (3.1, "ask"),
            (3.2, "told", {"chars": 20, "paused_s": 2.1}),
            *looks(3.3),
        ],
        ["reconnecting", "behind", "open"],
    ),
    "after a gap without figures, what comes is taken for new": (
        [*looks(1, state="reconnecting"), *looks(2, 3, 5, 5.1, state="open")],
        ["reconnecting", "behind", "behind", "behind", "open"],
    ),
    "where Claude has finished, all that comes was written before": (
        [*looks(1, state="reconnecting"), *looks(2, state="open"), (3, "told", None), *looks(4, 5.5, 7)],
        ["reconnecting", "behind", "behind", "behind", "behind"],
    ),
    "a Claude who sends nothing and is not held is silent": (
        [
            (1, "told", {"chars": 40}),
            *looks(1.9),
            (3, "told", {"chars": 40}),
            *looks(3.5),
            *((n, "told", {"chars": 40}) for n in (4, 4.5)),
            *looks(4.6, bytes=1),
            (5, "told", {"chars": 44}),
            *looks(5.1, bytes=2),
        ],
        ["open", "open", "open, quiet", "open"],
    ),
    "a Claude who is held still is not silent": (
        [
            (1, "told", {"chars": 40, "paused": True, "paused_s": 1}),
            *looks(1.9, speed=0),
            (3, "told", {"chars": 40, "paused": True, "paused_s": 3}),
            *looks(3.8, speed=0),
            (5, "told", {"chars": 40, "paused": True, "paused_s": 5}),
            *looks(5.5, speed=0),
            (6, "told", {"chars": 40, "paused_s": 5}),
            *looks(6.1),
        ],
        ["held", "held, still", "held, still", "open"],
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_words_follow_what_was_heard(page: Page, name: str) -> None:
    steps, states = CASES[name]
    assert await page.evaluate(PLAY, [steps, {}]) == states


async def test_an_answer_that_began_before_its_page_is_caught_up_with_first(page: Page) -> None:
    steps = [
        *looks(0.2, chars=40),
        (0.3, "ask"),
        (0.4, "told", {"chars": 80, "thinking": 500}),
        *looks(0.5),
        *looks(0.6, chars=80),
    ]
    assert await page.evaluate(PLAY, [steps, {"again": True}]) == ["behind", "behind", "open"]


async def test_the_rate_counts_what_comes_live(page: Page) -> None:
    """Ten characters each 0.2 s; not what comes again, at once after a standstill, or with the first look at a text."""
    rates = await page.evaluate("""async () => {
      const { Pace } = await import("/standing.js");
      const pace = new Pace(), told = [];
      const live = (from, chars, until) => {
        let rate;
        for (let at = from; at <= until; at += 200) rate = pace.look(at, (chars += 10), false);
        told.push(rate);
        return chars;
      };
      for (let at = 0; at < 3000; at += 200) pace.look(at, 0, false); // waiting for the first token
      let chars = live(3000, 0, 5000);
      for (let at = 5200; at < 7000; at += 200) pace.look(at, (chars += 5000), true); // a replay
      chars = live(7000, chars, 9000);
      for (let at = 9200; at < 13000; at += 200) pace.look(at, chars, false); // a link that carries nothing
      told.push(pace.look(13000, chars, false));
      told.push(pace.look(13200, (chars += 3000), false));
      live(13400, chars, 15000);
      return told;
    }""")
    assert rates == [50, 50, 0, None, 50]
