// The playground: one prompt, one answer, and a reader whose speed is a slider.
import { stream } from "./client.js";

const at = (path) => new URL(path, import.meta.url);
const $ = (id) => document.getElementById(id);

const CHARS_PER_TOKEN = 4; // a rule of thumb; the exact count comes with the end of the answer
const RATE_WINDOW_MS = 2000;
const BLOCK_CHARS = 2000;
const SLOWEST_CHARS_S = 5;
const FASTEST_CHARS_S = 2000;
const KEY = "sluiceway.key";

const FAILURES = {
  overloaded_error: ["Claude is overloaded just now", "This passes, mostly within a minute."],
  rate_limit_error: ["Too many requests at once", "A limit was reached."],
  authentication_error: ["The key was not accepted", "Look at the access key, and send again."],
  permission_error: ["This is not allowed", "The key does not open this."],
  invalid_request_error: ["The request was not accepted", ""],
  interrupted: ["The connection broke off", "What had come by then is kept above."],
  connect_error: ["The service cannot be reached", "Is it running, and is there a network?"],
};

// --- the paper: text on the page, put there at most once a frame -----------------------------------------------------

class Paper {
  chars = 0;
  #root;
  #scroll; // the element to keep at its end, as long as the reader has not scrolled away from it
  #waiting = "";
  #block = null;
  #due = false;

  constructor(root, scroll) {
    this.#root = root;
    this.#scroll = scroll;
  }

  clear() {
    this.#root.replaceChildren();
    this.#block = null;
    this.#waiting = "";
    this.chars = 0;
  }

  add(text) {
    this.chars += text.length;
    this.#waiting += text;
    if (this.#due) return;
    this.#due = true;
    tick().then(() => this.flush());
  }

  following() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    return scrollHeight - scrollTop - clientHeight < 40;
  }

  toEnd() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  flush() {
    this.#due = false;
    if (this.#waiting === "") return;
    const following = this.following();
    // A block is closed at a line's end, so that the browser lays out only the last one again.
    const end = this.#block && this.#block.length > BLOCK_CHARS ? this.#waiting.indexOf("\n") : -1;
    if (end >= 0) {
      this.#block.appendData(this.#waiting.slice(0, end));
      this.#waiting = this.#waiting.slice(end + 1);
      this.#block = null;
    }
    if (!this.#block) {
      const block = document.createElement("div");
      this.#block = block.appendChild(document.createTextNode(""));
      this.#root.append(block);
    }
    this.#block.appendData(this.#waiting);
    this.#waiting = "";
    if (following) this.toEnd();
  }
}

// Resolves at the next frame, or soon where there are no frames.
function tick() {
  return new Promise((resolve) => {
    const timer = setTimeout(ready, 100);
    const frame = requestAnimationFrame(ready);
    function ready() {
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      resolve(performance.now());
    }
  });
}

const answer = new Paper($("text"), $("scroll"));
const thoughts = new Paper($("thinking-text"), $("thinking-text"));

// --- the reader ------------------------------------------------------------------------------------------------------

// Characters a second: 0 holds still, Infinity takes what comes. Between them the slider is logarithmic.
function speed() {
  const value = Number($("speed").value);
  if (value === 0) return 0;
  if (value === 100) return Infinity;
  const rate = SLOWEST_CHARS_S * (FASTEST_CHARS_S / SLOWEST_CHARS_S) ** ((value - 1) / 98);
  return rate < 100 ? Math.round(rate) : Math.round(rate / 10) * 10;
}

// Puts a text on the paper at the reader's speed. While this is pending nothing is pulled from the stream.
async function read(text, paper, handle) {
  let from = 0;
  let allowance = 0;
  let before = performance.now();
  while (from < text.length && handle.state !== "aborted") {
    if (speed() === Infinity) {
      paper.add(text.slice(from));
      return;
    }
    const now = await tick();
    allowance += (Math.min(speed(), FASTEST_CHARS_S) * (now - before)) / 1000;
    before = now;
    let to = Math.min(text.length, from + Math.floor(allowance));
    if (to < text.length && to > from && /[\uD800-\uDBFF]/.test(text[to - 1])) to -= 1; // never half a code point
    allowance -= to - from;
    if (to > from && handle.state !== "aborted") paper.add(text.slice(from, to));
    from = to;
  }
}

// --- one run ---------------------------------------------------------------------------------------------------------

let current = null; // { handle, sentAt, firstAt, endAt, seen } of the run on the page

function request() {
  const body = { prompt: $("prompt").value };
  if ($("max-tokens").value) body.max_tokens = Number($("max-tokens").value);
  if ($("thinking").checked) body.thinking = { type: "adaptive", display: "summarized" };
  return body;
}

async function run(body) {
  current?.handle.abort();
  const handle = stream(body, { url: at("api/stream"), key: $("key").value || undefined });
  const mine = { handle, body, sentAt: performance.now(), firstAt: null, endAt: null, seen: [], ended: null };
  current = mine;
  begin();
  const meters = setInterval(show, 200);
  let failure = null;
  try {
    for await (const event of handle) {
      if (event.type !== "text" && event.type !== "thinking") continue;
      mine.firstAt ??= performance.now();
      if (event.type === "thinking") $("thinking-box").hidden = false;
      await read(event.text, event.type === "text" ? answer : thoughts, handle);
    }
  } catch (error) {
    failure = error;
  }
  clearInterval(meters);
  if (current !== mine) return;
  mine.endAt = performance.now();
  mine.ended = failure ? "failed" : handle.state;
  end(failure);
}

function begin() {
  answer.clear();
  thoughts.clear();
  for (const id of ["empty", "error", "thinking-box"]) $(id).hidden = true;
  swap(true);
  if ([$("send"), $("again")].includes(document.activeElement)) $("stop").focus();
  $("send").disabled = true;
  $("scroll").hidden = false;
  $("answer").setAttribute("aria-busy", "true");
  // On a narrow page the answer is below the form.
  if ($("answer").getBoundingClientRect().top > innerHeight / 2) $("answer").scrollIntoView({ block: "start" });
  $("spoken").textContent = "Sent. Waiting for the answer.";
  show();
}

// While an answer runs it can be stopped; afterwards, if there is one, copied.
function swap(running) {
  $("stop").hidden = !running;
  $("copy").hidden = running || answer.chars === 0;
}

function end(failure) {
  answer.flush();
  thoughts.flush();
  const following = answer.following();
  $("answer").removeAttribute("aria-busy");
  $("send").disabled = false;
  if (document.activeElement === $("stop")) $("prompt").focus({ preventScroll: true });
  swap(false);
  if (failure) {
    fail(failure);
  } else if (current.ended === "aborted") {
    $("spoken").textContent = "Stopped.";
  } else {
    const words = current.handle.result.text.split(/\s+/).filter(Boolean).length;
    $("spoken").textContent = `The answer is complete: ${words} words.`;
  }
  $("scroll").hidden = failure !== null && answer.chars === 0;
  if (following) answer.toEnd(); // the message below may have taken some of its room
  show();
}

function fail(error) {
  const [title, advice] = FAILURES[error.type] ?? ["The answer failed", ""];
  $("error-title").textContent = title;
  const wait = error.retryAfterS ? `Try again in ${Math.ceil(error.retryAfterS)} seconds.` : "";
  $("error-text").textContent = [advice, wait].filter(Boolean).join(" ") || error.message;
  const said = $("error-text").textContent === error.message ? "" : error.message;
  $("error-detail").textContent = [said, error.field && `field: ${error.field}`, error.status, error.type]
    .filter(Boolean)
    .join(" · ");
  $("again").hidden = !error.retryable;
  $("error").hidden = false;
  $("spoken").textContent = `${title}. ${$("error-text").textContent}`;
  if (error.type === "authentication_error") {
    $("key-field").hidden = false;
    $("key").focus();
  }
}

// --- the figures -----------------------------------------------------------------------------------------------------

const WORDS = { waiting: "Waiting", open: "Streaming", held: "Held still", done: "Complete", failed: "Failed", aborted: "Stopped" };

function stateOf({ ended, firstAt }) {
  if (ended) return ended;
  if (firstAt === null) return "waiting";
  return speed() === 0 ? "held" : "open";
}

function show() {
  const { handle, sentAt, firstAt, endAt, seen } = current;
  const state = stateOf(current);
  if ($("state").dataset.state !== state) {
    $("state").dataset.state = state;
    $("state").textContent = WORDS[state];
  }
  const now = endAt ?? performance.now();
  $("first").textContent = firstAt === null ? "–" : duration(firstAt - sentAt);
  $("received").textContent = handle.bytes ? size(handle.bytes) : "–";
  const chars = answer.chars + thoughts.chars;
  const tokens = endAt === null ? null : handle.result.usage?.output_tokens;
  $("tokens-name").textContent = tokens ? "Tokens" : "On screen";
  $("shown").textContent = tokens ? tokens.toLocaleString("en") : chars ? `${chars.toLocaleString("en")} chars` : "–";
  $("thinking-size").textContent = thoughts.chars ? `${thoughts.chars.toLocaleString("en")} characters` : "";
  seen.push([now, chars]);
  while (seen.length > 2 && now - seen[0][0] > RATE_WINDOW_MS) seen.shift();
  // While it runs, the last two seconds; afterwards, the whole answer.
  const [since, already] = endAt === null ? seen[0] : [firstAt, 0];
  const seconds = (now - since) / 1000;
  if (firstAt === null || seconds < 0.1) $("rate").textContent = "–";
  else if (tokens) $("rate").textContent = `${rate(tokens / seconds)} tokens/s`;
  else $("rate").textContent = `≈ ${rate((chars - already) / CHARS_PER_TOKEN / seconds)} tokens/s`;
}

const rate = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));
const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const size = (bytes) =>
  bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;

// --- hands on the page -----------------------------------------------------------------------------------------------

function showSpeed() {
  const value = speed();
  const text = value === 0 ? "hold still" : value === Infinity ? "no limit" : `${value.toLocaleString("en")} characters/s`;
  $("speed-text").textContent = text;
  $("speed").setAttribute("aria-valuetext", text);
  if (current) show();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("send").disabled && $("prompt").value.trim()) run(request());
});
$("stop").addEventListener("click", () => current?.handle.abort());
$("again").addEventListener("click", () => run(current.body));
$("speed").addEventListener("input", showSpeed);
$("key").addEventListener("input", () => sessionStorage.setItem(KEY, $("key").value));
$("copy").addEventListener("click", async () => {
  await navigator.clipboard?.writeText(current.handle.result.text).then(
    () => ($("spoken").textContent = "Copied."),
    () => ($("spoken").textContent = "The browser did not allow copying."),
  );
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") current?.handle.abort();
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  event.preventDefault();
  $("form").requestSubmit();
});

async function configure() {
  const config = await fetch(at("config.json")).then((response) => (response.ok ? response.json() : {}));
  $("simulated").hidden = !config.simulated;
  $("key-field").hidden = !config.auth;
  $("about").textContent = [config.model, config.version && `v${config.version}`].filter(Boolean).join("\n");
}

$("key").value = sessionStorage.getItem(KEY) ?? "";
showSpeed();
configure().catch(() => {}); // without it the page works as well, it only says less
$("prompt").focus({ preventScroll: true });
