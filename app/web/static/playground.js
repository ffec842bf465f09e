// The playground: one prompt, one answer, and a reader whose speed is a slider.
import { restore, stream } from "./client.js";
import { inWords } from "./failures.js";
import { dollars, watch } from "./gauges.js";
import { Paper, tick } from "./paper.js";

const at = (path) => new URL(path, import.meta.url);
const $ = (id) => document.getElementById(id);

const CHARS_PER_TOKEN = 4; // a rule of thumb; the exact count comes with the end of the answer
const RATE_WINDOW_MS = 2000;
const SLOWEST_CHARS_S = 5;
const FASTEST_CHARS_S = 2000;
const KEY = "sluiceway.key";
const SAVED = "playground";

const answer = new Paper($("text"), $("scroll"));
const thoughts = new Paper($("thinking-text"), $("thinking-text"));

// A tool call: its name, and its input as it comes.
class Tool {
  chars = 0;
  #input = document.createTextNode("");

  constructor(name) {
    const box = document.createElement("details");
    box.className = "tool";
    const title = box.appendChild(document.createElement("summary"));
    title.append("Tool call ", Object.assign(document.createElement("code"), { textContent: name }));
    const input = box.appendChild(document.createElement("pre"));
    Object.assign(input, { tabIndex: 0, role: "group", ariaLabel: `Input of ${name}` });
    input.append(this.#input);
    answer.put(box);
  }

  add(json) {
    this.chars += json.length;
    this.#input.appendData(json);
  }

  end() {
    try {
      this.#input.data = JSON.stringify(JSON.parse(this.#input.data), null, 2);
    } catch {
      // It was cut off: what there is stays as it came.
    }
  }
}

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

let current = null; // the run on the page: see run()

function request() {
  const body = { prompt: $("prompt").value };
  if ($("max-tokens").value) body.max_tokens = Number($("max-tokens").value);
  if ($("thinking").checked) body.thinking = { type: "adaptive", display: "summarized" };
  return body;
}

const options = () => ({ url: at("api/stream"), key: $("key").value || undefined, credits: $("credits").checked, onState: show });

function send(body) {
  current?.handle.abort();
  run(stream(body, { ...options(), resumable: $("resumable").checked, save: SAVED }), body);
}

async function run(handle, body = null) {
  const mine = { handle, body, sentAt: performance.now(), firstAt: null, endAt: null, seen: [], tools: [], ended: null };
  mine.figures = null;
  current = mine;
  begin();
  const meters = setInterval(show, 200);
  const { url, key } = options();
  const unwatch = watch(handle, { url, key, show: (figures) => current === mine && gauge(figures) });
  let failure = null;
  try {
    for await (const event of handle) {
      mine.firstAt ??= performance.now();
      await take(event, mine);
    }
  } catch (error) {
    failure = error;
  }
  clearInterval(meters);
  unwatch();
  if (current !== mine) return;
  mine.endAt = performance.now();
  mine.ended = failure ? "failed" : handle.state;
  end(failure);
}

async function take(event, { handle, tools }) {
  if (event.type === "thinking") $("thinking-box").hidden = false;
  if (event.type === "text" || event.type === "thinking") {
    await read(event.text, event.type === "text" ? answer : thoughts, handle);
  } else if (event.type === "tool") {
    if (event.name !== null) tools[event.index] = new Tool(event.name);
    tools[event.index]?.add(event.partialJson);
  }
}

function begin() {
  answer.clear();
  thoughts.clear();
  for (const id of ["empty", "error", "thinking-box"]) $(id).hidden = true;
  gauge(null);
  if ([$("send"), $("again")].includes(document.activeElement)) $("stop").focus();
  $("send").disabled = true;
  $("scroll").hidden = false;
  $("answer").setAttribute("aria-busy", "true");
  // On a narrow page the answer is below the form.
  if ($("answer").getBoundingClientRect().top > innerHeight / 2) $("answer").scrollIntoView({ block: "start" });
  $("spoken").textContent = "Sent. Waiting for the answer.";
  show();
}

// While an answer runs it can be stopped, and cut off where it can be resumed; afterwards, if there is one, copied.
function swap() {
  const { handle, ended } = current;
  const focused = document.activeElement;
  $("stop").hidden = ended !== null;
  $("copy").hidden = ended === null || answer.chars === 0;
  $("cut").hidden = ended !== null || !handle.resumable || handle.state === "detached";
  $("resume").hidden = ended !== null || handle.state !== "detached";
  if (focused === $("cut") && $("cut").hidden && ended === null) $("resume").focus();
  if (focused === $("resume") && $("resume").hidden && ended === null) $("cut").focus();
}

// The gauges of a stream that is over: only its cost stays.
function settle() {
  $("queue-bar").value = 0;
  $("claude").dataset.paused = false;
  $("claude").textContent = "at rest";
  for (const id of ["queue", "ahead", "saved"]) $(id).textContent = "–";
}

function end(failure) {
  for (const part of [answer, thoughts, ...Object.values(current.tools)]) part.end();
  $("answer").removeAttribute("aria-busy");
  settle();
  $("send").disabled = false;
  if ([$("stop"), $("cut"), $("resume")].includes(document.activeElement)) $("prompt").focus({ preventScroll: true });
  if (failure) {
    fail(failure);
  } else if (current.ended === "aborted") {
    $("spoken").textContent = "Stopped.";
  } else {
    const words = current.handle.result.text.split(/\s+/).filter(Boolean).length;
    $("spoken").textContent = `The answer is complete: ${words} words.`;
  }
  $("scroll").hidden = failure !== null && answer.chars === 0;
  if (answer.following) answer.toEnd(); // the message below may have taken some of its room
  show();
}

function fail(error) {
  const { title, advice, wantsKey } = inWords(error);
  $("error-title").textContent = title;
  const wait = error.retryAfterS ? `Try again in ${Math.ceil(error.retryAfterS)} seconds.` : "";
  $("error-text").textContent = [advice, wait].filter(Boolean).join(" ") || error.message;
  const said = $("error-text").textContent === error.message ? "" : error.message;
  $("error-detail").textContent = [said, error.field && `field: ${error.field}`, error.status, error.type]
    .filter(Boolean)
    .join(" · ");
  $("again").hidden = !error.retryable || !current.body;
  $("error").hidden = false;
  $("spoken").textContent = `${title}. ${$("error-text").textContent}`;
  if (wantsKey) {
    $("key-field").hidden = false;
    $("key").focus();
  }
}

// --- the figures -----------------------------------------------------------------------------------------------------

const WORDS = {
  waiting: "Waiting",
  open: "Streaming",
  held: "Held still",
  reconnecting: "Coming back",
  detached: "Cut off",
  done: "Complete",
  failed: "Failed",
  aborted: "Stopped",
};

function stateOf({ handle, ended, firstAt }) {
  if (ended) return ended;
  if (handle.state === "reconnecting" || handle.state === "detached") return handle.state;
  if (firstAt === null) return "waiting";
  return speed() === 0 ? "held" : "open";
}

const onPage = () => answer.chars + thoughts.chars + Object.values(current.tools).reduce((sum, tool) => sum + tool.chars, 0);

// What the service said last; after the end, what the answer came to.
function gauge(figures) {
  current.figures = figures;
  const set = (id, text) => ($(id).textContent = text);
  $("queue-bar").value = figures ? figures.queue_bytes / figures.queue_max_bytes : 0;
  if (!figures) {
    for (const id of ["claude", "queue", "ahead", "cost", "saved"]) set(id, "–");
    return;
  }
  $("claude").dataset.paused = figures.paused;
  set("claude", figures.paused ? `held, ${figures.paused_s.toFixed(1)} s` : "generating");
  set("queue", size(figures.queue_bytes));
  const { text, thinking, input_json: tool } = figures.generated_chars;
  const all = text + thinking + tool;
  const missing = Math.max(0, all - ($("thinking-box").hidden ? thinking : 0) - onPage());
  set("ahead", `${Math.round(all ? (figures.generated_tokens * missing) / all : 0).toLocaleString("en")} tokens`);
  const about = figures.basis === "exact" ? "" : "≈ ";
  set("cost", figures.cost_usd === null ? "no price" : about + dollars(figures.cost_usd));
  set("saved", figures.saved_usd_upper === null ? "no price" : `≤ ${dollars(figures.saved_usd_upper)}`);
}

function show() {
  if (!current) return;
  swap();
  const { handle, sentAt, firstAt, endAt, seen } = current;
  const state = stateOf(current);
  if ($("state").dataset.state !== state) {
    $("state").dataset.state = state;
    $("state").textContent = WORDS[state];
    if (state === "reconnecting") $("spoken").textContent = "The connection is lost. Coming back.";
    if (state === "detached") $("spoken").textContent = "Cut off. The service holds the answer still.";
  }
  const now = endAt ?? performance.now();
  $("first").textContent = firstAt === null ? "–" : duration(firstAt - sentAt);
  $("received").textContent = handle.bytes ? size(handle.bytes) : "–";
  const chars = onPage();
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
  if (!$("send").disabled && $("prompt").value.trim()) send(request());
});
$("stop").addEventListener("click", () => current?.handle.abort());
$("again").addEventListener("click", () => send(current.body));
$("cut").addEventListener("click", () => (current.handle.detach(), show()));
$("resume").addEventListener("click", () => (current.handle.attach(), show()));
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
const left = restore(SAVED, options()); // the tab was loaded anew in the middle of an answer
if (left) run(left);
configure().catch(() => {}); // without it the page works as well, it only says less
$("prompt").focus({ preventScroll: true });
