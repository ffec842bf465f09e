// The playground: one prompt, one answer, and a reader whose speed is a slider.
import { restore, stream } from "./client.js";
import { copy } from "./copy.js";
import { inWords, UNSENDABLE_KEY } from "./failures.js";
import { hasEnded, watch } from "./gauges.js";
import { keepKey, keepRun, keptKey, keptRun, sendableKey } from "./kept.js";
import { showPanel } from "./panel.js";
import { Paper, tick } from "./paper.js";
import { read, speed, speedInWords, toFullSpeed } from "./reader.js";
import { Pace, Standing, stateOf } from "./standing.js";

const at = (path) => new URL(path, import.meta.url);
const $ = (id) => document.getElementById(id);

const SAVED = "playground";
// Little, so that a minute of reading pace fills it: what a page of yours wants is `credits: true`.
const CREDIT_BYTES = 4096;
const SLICE_CHARS = 8000; // of a kept answer, drawn in one frame

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

// --- one run ---------------------------------------------------------------------------------------------------------

let current = null; // the run on the page

function request() {
  const body = { prompt: $("prompt").value };
  if ($("max-tokens").value) body.max_tokens = Number($("max-tokens").value);
  if ($("thinking").checked) body.thinking = { type: "adaptive", display: "summarized" };
  return body;
}

// Where fetch could not send the key, this answers in its place, as the service would have.
const refuseKey = async () => Response.json({ type: "authentication_error", error: UNSENDABLE_KEY }, { status: 401 });

function access() {
  const key = sendableKey($("key").value);
  return key === null ? { fetch: refuseKey } : { key };
}

const options = () => ({
  url: at("api/stream"),
  ...access(),
  credits: $("credits").checked && CREDIT_BYTES,
  onState: show,
});

function send(body) {
  current?.handle.abort();
  run(stream(body, { ...options(), resumable: $("resumable").checked, save: SAVED }), { body, sentAt: Date.now() });
}

// A run: the question and its times, which outlive a reload, as do the last figures, by which it is priced; what came; and
// how the service says that it stands.
const begun = (handle, { again, ...kept }) => ({
  firstAt: null, endAt: null, ended: null, failure: null, parts: [], priced: null, ...kept,
  handle, tools: [], pace: new Pace(), standing: new Standing(performance.now(), { again }),
  still: false, credits: $("credits").checked,
});

async function run(handle, kept) {
  const mine = begun(handle, kept);
  current = mine;
  begin();
  keep(mine);
  const meters = setInterval(show, 200);
  const { url, key } = options();
  const unwatch = watch(handle, mine.standing, { url, key });
  try {
    for await (const event of handle) {
      if (mine.firstAt === null) {
        mine.firstAt = Date.now();
        keep(mine);
      }
      note(mine.parts, event);
      await put(event, mine);
    }
  } catch (error) {
    mine.failure = error;
  }
  clearInterval(meters);
  unwatch();
  if (current !== mine) return;
  mine.endAt = Date.now();
  mine.ended = mine.failure ? "failed" : handle.state;
  keep(mine);
  end();
  if (mine.ended !== "aborted" || !handle.id) return;
  mine.hasEnded = await hasEnded(handle, { url, key });
  if (current === mine) show();
}

// What the tab shows again after a reload. While it runs, the answer itself comes again from the service.
function keep({ body, sentAt, firstAt, endAt, ended, parts, standing, failure, handle, priced }) {
  const { type, source, message, retryable, field, status } = failure ?? {};
  const over = ended && {
    endAt, ended, parts,
    usage: handle.result.usage, stopReason: handle.result.stopReason, bytes: handle.bytes,
    failure: failure && { type, source, message, retryable, field, status },
  };
  keepRun({ body, sentAt, firstAt, priced: standing.figures ?? priced, ...over });
}

// An answer that had ended when the page was loaded anew.
async function showAgain({ bytes, usage, stopReason, ...kept }) {
  const { parts } = kept;
  // Not its state of then: what was stopped takes no text any more.
  const mine = begun({ state: "done", bytes, resumable: false, result: { usage, stopReason }, abort() {} }, kept);
  current = mine;
  begin();
  for (const part of parts) {
    const text = part.text ?? "";
    for (let from = 0; from === 0 || from < text.length; from += SLICE_CHARS) {
      await put({ ...part, ...(text && { text: text.slice(from, from + SLICE_CHARS) }) }, mine);
      await tick();
      if (current !== mine) return;
    }
  }
  answer.toStart();
  end();
}

function note(parts, { type, index, name, text, partialJson }) {
  const last = parts.at(-1);
  if (type === "done") return;
  if (last?.type === type && text !== undefined) last.text += text;
  else if (last?.type === type && last.index === index && name === null) last.partialJson += partialJson;
  else parts.push({ type, index, name, text, partialJson });
}

async function put(event, { handle, tools }) {
  if (event.type === "thinking") $("thinking-box").hidden = false;
  if (event.type === "text" || event.type === "thinking") {
    await read(event.text, event.type === "text" ? answer : thoughts, handle);
  } else if (event.type === "tool") {
    if (event.name !== null) tools[event.index] = new Tool(event.name);
    tools[event.index]?.add(event.partialJson);
  }
}

// As long as it was allowed to be: that is no failure, but not the whole answer either.
const brokeOff = ({ ended, handle }) => ended === "done" && handle.result.stopReason === "max_tokens";

const textOf = ({ parts }) => parts.filter(({ type }) => type === "text").map(({ text }) => text).join("");

function begin() {
  answer.clear();
  thoughts.clear();
  const focused = document.activeElement;
  for (const id of ["empty", "error", "thinking-box"]) $(id).hidden = true;
  $("send").setAttribute("aria-disabled", current.ended === null);
  $("scroll").hidden = false;
  show();
  if (focused === $("again")) $("stop").focus();
  if (current.ended !== null) return;
  $("answer").setAttribute("aria-busy", "true");
  // On a narrow page the answer is below the form.
  if ($("answer").getBoundingClientRect().top > innerHeight / 2) $("answer").scrollIntoView({ block: "start" });
  say(current.standing.behind ? "The answer comes again." : "Sent. Waiting for the answer.");
}

// While an answer runs it can be stopped, and cut off where it can be resumed; afterwards, if there is one, copied.
// Whose button goes is led to the one that takes its place.
function swap() {
  const { handle, ended } = current;
  const focused = document.activeElement;
  $("stop").hidden = ended !== null;
  $("copy").hidden = ended === null || answer.chars === 0;
  $("cut").hidden = ended !== null || !handle.resumable || handle.state === "detached";
  $("resume").hidden = ended !== null || handle.state !== "detached";
  if (!focused?.hidden || !focused.closest(".answer-top")) return;
  const heir = ["resume", "cut", "copy"].map($).find((button) => !button.hidden) ?? $("scroll");
  heir.focus({ preventScroll: true });
}

function end() {
  for (const part of [answer, thoughts, ...Object.values(current.tools)]) part.end();
  $("answer").removeAttribute("aria-busy");
  $("send").setAttribute("aria-disabled", "false");
  const { failure, ended } = current;
  toFullSpeed(); // of the next answer; who held this one still is not to wonder why that one stands
  $("scroll").hidden = failure !== null && answer.chars === 0;
  if (failure) {
    fail(failure);
  } else if (ended === "aborted") {
    say("Stopped.");
  } else {
    const words = textOf(current).split(/\s+/).filter(Boolean).length;
    say(brokeOff(current) ? "The answer broke off at its longest." : `The answer is complete: ${words} words.`);
  }
  if (answer.following) answer.toEnd(); // the message below may have taken some of its room
  show();
}

function lasting(seconds) {
  const [each, unit] = seconds <= 120 ? [1, "seconds"] : seconds <= 7200 ? [60, "minutes"] : [3600, "hours"];
  const count = Math.ceil(seconds / each);
  return `${count} ${count === 1 ? unit.slice(0, -1) : unit}`;
}

function fail(error) {
  const { title, advice, wantsKey } = inWords(error, { kept: onPage() > 0 });
  $("error-title").textContent = title;
  const wait = error.retryAfterS ? `Try again in ${lasting(error.retryAfterS)}.` : "";
  $("error-text").textContent = [advice, wait].filter(Boolean).join(" ") || error.message;
  const said = $("error-text").textContent === error.message ? "" : error.message;
  $("error-detail").textContent = [said, error.field && `field: ${error.field}`, error.status, error.type]
    .filter(Boolean)
    .join(" · ");
  $("again").hidden = !error.retryable || !current.body;
  $("error").hidden = false;
  say(`${title}. ${$("error-text").textContent}`);
  if (wantsKey) {
    $("key-field").hidden = false;
    $("key").focus();
  }
}

// --- what is shown, and said aloud -----------------------------------------------------------------------------------

const WORDS = {
  idle: "Ready",
  connecting: "Sending",
  waiting: "Waiting",
  open: "Streaming",
  quiet: "Claude is silent",
  held: "You hold still",
  still: "Claude held still",
  behind: "Catching up",
  silent: "Nothing comes",
  reconnecting: "Coming back",
  detached: "Cut off",
  done: "Complete",
  failed: "Failed",
  aborted: "Stopped",
};
const SAID = {
  silent: "Nothing comes from the service. Waiting for it.",
  reconnecting: "The connection is lost. Coming back.",
  detached: "Cut off. The service holds the answer still.",
};

const say = (text) => ($("spoken").textContent = text);

const onPage = () => answer.chars + thoughts.chars + Object.values(current.tools).reduce((sum, tool) => sum + tool.chars, 0);

function look({ handle, standing, firstAt }) {
  const lost = handle.state === "reconnecting" || handle.state === "detached";
  const connecting = handle.state === "connecting" && firstAt === null;
  const withThinking = !$("thinking-box").hidden;
  standing.look({ now: performance.now(), bytes: handle.bytes, chars: onPage(), lost, connecting, withThinking });
}

function show() {
  if (!current) return;
  swap();
  if (!current.ended) look(current);
  const { standing } = current;
  const state = stateOf(current, speed());
  const still = standing.isStill(performance.now()) && (state === "open" || state === "held");
  const quiet = state === "open" && standing.quietMs(performance.now()) > 0;
  const chip = $("state");
  const before = chip.dataset.state;
  if (before !== state) {
    chip.dataset.state = state;
    if (SAID[state]) say(SAID[state]);
    else if (SAID[before] && !current.ended) say(current.firstAt === null ? "Back. Waiting for the answer." : "Back. The answer goes on.");
  }
  const words = brokeOff(current) ? "Broke off" : WORDS[still ? "still" : quiet ? "quiet" : state];
  if (chip.textContent !== words) chip.textContent = words;
  if (still !== current.still && !current.ended && !SAID[state]) say(still ? "Claude is held still." : "Claude goes on.");
  current.still = still;
  $("thinking-size").textContent = thoughts.chars ? `${thoughts.chars.toLocaleString("en")} characters` : "";
  showPanel(current, state, onPage());
}

// --- hands on the page -----------------------------------------------------------------------------------------------

function showSpeed() {
  $("speed-text").textContent = speedInWords();
  $("speed").setAttribute("aria-valuetext", speedInWords());
  show();
}

async function copied(text) {
  say((await copy(text)) ? "Copied." : "The browser did not allow copying.");
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("send").getAttribute("aria-disabled") === "true") return;
  if ($("prompt").value.trim()) return send(request());
  say("Write a prompt first.");
  $("prompt").focus();
});
$("stop").addEventListener("click", () => current?.handle.abort());
$("again").addEventListener("click", () => send(current.body));
$("cut").addEventListener("click", () => (current.handle.detach(), show()));
$("resume").addEventListener("click", () => (current.handle.attach(), show()));
$("speed").addEventListener("input", showSpeed);
$("key").addEventListener("input", () => keepKey($("key").value));
$("copy").addEventListener("click", () => copied(textOf(current)));
$("text").addEventListener("click", ({ target }) => {
  const button = target.closest("button.copy-code");
  if (button) copied(button.closest(".code").querySelector("code").textContent);
});
addEventListener("pagehide", () => current?.ended === null && keep(current));
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

$("key").value = keptKey();
showSpeed();
const kept = keptRun();
if (kept?.body) $("prompt").value = kept.body.prompt;
const left = restore(SAVED, options()); // the tab was loaded anew in the middle of an answer
const { body, sentAt = Date.now(), firstAt = null, priced = null } = kept ?? {};
if (left) run(left, { again: true, body, sentAt, firstAt, priced });
else if (kept?.ended) showAgain(kept);
else {
  // Until here the page has not said that it can be used: where a part of its script does not come, it never does.
  $("state").dataset.state = "idle";
  $("state").textContent = WORDS.idle;
}
configure().catch(() => {}); // without it the page works as well, it only says less
$("prompt").focus({ preventScroll: true });
