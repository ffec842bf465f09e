// The way from Claude to the reader, and the figures below it: what one look has to tell, in words and colours.
import { dollars, heldShare, isStale, saving } from "./gauges.js";
import { speed } from "./reader.js";

const CHARS_PER_TOKEN = 4; // a rule of thumb; the exact count comes with the end of the answer
const RATE_WINDOW_MS = 2000;
const STILL = 0.8; // of the time between two looks
const SLOWED = 0.1;

const $ = (id) => document.getElementById(id);
const say = (id, text) => {
  if ($(id).textContent !== text) $(id).textContent = text;
};
const number = (value) => Math.round(value).toLocaleString("en");
const seconds = (ms) => `${Math.max(1, Math.round(ms / 1000))} s`;
const rate = (value) => (value < 10 ? value.toFixed(1) : number(value));
const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const size = (bytes) =>
  bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;

// Takes what the service said last into the run.
export function take(run, figures) {
  if (figures) run.share = heldShare(figures, run.figures);
  run.gone = figures === null;
  run.figures = figures ?? run.figures;
}

// Whether the service said just now that Claude stands still.
export const heldStill = ({ ended, figures, share, gone }) =>
  !ended && !gone && figures !== null && share >= STILL && !isStale(figures, performance.now());

export function showPanel(run, state, chars) {
  const now = performance.now();
  const lost = state === "reconnecting" || state === "detached";
  const unknown = !run.ended && run.figures !== null && !run.gone && (lost || isStale(run.figures, now));
  $("way").dataset.stale = unknown;
  const ago = unknown ? seconds(now - run.figures.at) : "";
  const view = { ...run, state, lost, unknown, ago };
  station("claude", claude(view));
  station("you", you(view));
  say("hint", hint(view));
  onTheWay(view, chars);
  meters(run, chars);
}

function station(name, [flow, word, note]) {
  $(`${name}-station`).dataset.flow = flow;
  say(name, word);
  say(`${name}-note`, note);
}

// Before Claude's own count comes, all is estimated from the characters.
const about = ({ basis }) => (basis === "exact" ? "" : "≈ ");

function claude({ ended, state, lost, unknown, ago, figures, share, gone }) {
  if (ended) return ["rest", "at rest", ""];
  if (gone) return ["rest", "has finished", ""];
  if (unknown) return ["unknown", "not known", `${share >= STILL ? "held still" : "generated"} ${ago} ago`];
  if (lost) return ["unknown", "not known", ""];
  if (state === "waiting") return ["waiting", "has your prompt", ""];
  if (!figures) return ["flowing", "generating", ""];
  const tokens = `${about(figures)}${number(figures.generated_tokens)} tokens`;
  if (share >= STILL) return ["still", "held still", `at ${tokens}`];
  if (share >= SLOWED) return ["slowed", "held back", `${Math.round(100 * share)} % of the time`];
  return ["flowing", "generating", tokens];
}

function you({ ended, state, lost }) {
  if (ended) return ["rest", "done", ""];
  if (lost) return ["still", state === "detached" ? "cut off" : "disconnected", ""];
  const taken = speed();
  if (taken === 0) return ["still", "holding still", ""];
  if (state === "waiting") return ["waiting", "waiting", ""];
  return taken === Infinity ? ["flowing", "reading all", ""] : ["slowed", "reading slowly", `${number(taken)} characters/s`];
}

const ENDS = {
  done: "The answer is complete.",
  aborted: "Stopped: Claude generates no more.",
  failed: "The answer has ended. The message says why, and who can mend it.",
};

function hint({ ended, state, unknown, ago, figures, share, gone, credits }) {
  if (ended) return ENDS[ended];
  if (state === "detached") return "You cut the connection. The service holds Claude still for a while: resume before that is over.";
  if (state === "reconnecting" && navigator.onLine === false)
    return "This device is offline. The page comes back by itself when the network does.";
  if (state === "reconnecting") return "The connection is lost. The service holds Claude still, and this page is coming back.";
  if (state === "waiting") return "The prompt is with Claude; there is no token yet.";
  if (gone) return "Claude has finished. The rest is on its way to you.";
  if (figures?.reader === "held")
    return "Nothing was taken for so long that the service let this connection go. Move the speed up, and the page comes back.";
  if (unknown) return `The service has not been heard for ${ago}: these figures are old.`;
  if (share >= STILL) return "The way is full, so Claude is held still. Read on, and it goes on.";
  if (speed() === 0)
    return !credits
      ? "You take nothing. Without credits the browser takes in megabytes before Claude is held still."
      : "You take nothing. Claude fills the way, and is held still once that is full.";
  if (share >= SLOWED) return "You read more slowly than Claude writes, so Claude is held back to your speed.";
  if (speed() < Infinity) return "You read slowly. If Claude is faster, the way fills up and holds it back.";
  return "You read as fast as Claude writes. Drag the speed to the left to hold it back.";
}

function onTheWay({ ended, lost, unknown, figures, share, gone, thinkingShown }, chars) {
  const full = figures ? figures.queue_bytes / figures.queue_max_bytes : 0;
  const flow = ended || !figures ? "rest" : unknown || lost ? "unknown" : share >= STILL ? "still" : full > 0.5 ? "slowed" : "flowing";
  $("queue-station").dataset.flow = flow;
  const window = figures && figures.credit_bytes ? figures.unshown_bytes / figures.credit_bytes : 0;
  $("queue-bar").value = ended || gone ? 0 : full;
  $("window-bar").value = ended || gone ? 0 : Math.min(1, window);
  $("window").hidden = Boolean(figures) && figures.credit_bytes === null;
  if (ended || unknown || !figures) return say("ahead", unknown ? "not known" : "–");
  const { text, thinking, input_json: tool } = figures.generated_chars;
  const all = text + thinking + tool;
  const missing = Math.max(0, all - (thinkingShown ? 0 : thinking) - chars);
  return say("ahead", `${number(all ? (figures.generated_tokens * missing) / all : 0)} tokens`);
}

function meters({ handle, sentAt, firstAt, endAt, seen, figures }, chars) {
  const now = endAt ?? Date.now();
  say("first", firstAt === null ? "–" : duration(firstAt - sentAt));
  say("received", handle.bytes ? size(handle.bytes) : "–");
  const tokens = endAt === null ? null : handle.result.usage?.output_tokens;
  say("tokens-name", tokens ? "Tokens" : "On screen");
  say("shown", tokens ? tokens.toLocaleString("en") : chars ? `${chars.toLocaleString("en")} chars` : "–");
  seen.push([now, chars]);
  while (seen.length > 2 && now - seen[0][0] > RATE_WINDOW_MS) seen.shift();
  // While it runs, the last two seconds; afterwards, the whole answer.
  const [since, already] = endAt === null ? seen[0] : [firstAt, 0];
  const span = (now - since) / 1000;
  if (firstAt === null || span < 0.1) say("rate", "–");
  else if (tokens) say("rate", `${rate(tokens / span)} tok/s`);
  else say("rate", `≈ ${rate((chars - already) / CHARS_PER_TOKEN / span)} tok/s`);
  if (!figures) return void ["cost", "saved"].forEach((id) => say(id, "–"));
  say("cost", figures.cost_usd === null ? "no price" : about(figures) + dollars(figures.cost_usd));
  const [saved, note] = endAt === null ? saving(figures) : ["–", "The answer has ended: there is nothing left to save."];
  say("saved", saved);
  say("saved-note", note);
}
