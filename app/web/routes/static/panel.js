// The way from Claude to the reader, and the figures below it: what one look has to tell, in words and colours.
import { dollars, saving } from "./gauges.js";
import { speed } from "./reader.js";
import { STILL } from "./standing.js";

const CHARS_PER_TOKEN = 4; // a rule of thumb; the exact count comes with the end of the answer
const SLOWED = 0.1;

const $ = (id) => document.getElementById(id);
const SAVING = $("saved-note").textContent;
const OVER = "Claude has ended: there is nothing left to save.";
const say = (id, text) => {
  if ($(id).textContent !== text) $(id).textContent = text;
};
const number = (value) => Math.round(value).toLocaleString("en");
const seconds = (ms) => `${Math.max(1, Math.round(ms / 1000))} s`;
const rate = (value) => (value < 10 ? value.toFixed(1) : number(value));
const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const size = (bytes) =>
  bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;

export function showPanel(run, state, chars) {
  const now = performance.now();
  const { standing } = run;
  const lost = ["reconnecting", "detached", "silent"].includes(state);
  const unknown = !run.ended && standing.figures !== null && !standing.gone && (lost || standing.isStale(now));
  $("way").dataset.stale = unknown;
  const { figures, share, gone } = standing;
  const ago = unknown ? seconds(now - figures.at) : "";
  const quiet = standing.quietMs(now) ? seconds(standing.quietMs(now)) : "";
  const view = { ...run, state, lost, unknown, ago, quiet, figures, share, gone };
  station("claude", claude(view));
  station("you", you(view));
  say("hint", hint(view));
  onTheWay(view, chars);
  meters(view, chars, now);
}

function station(name, [flow, word, note]) {
  $(`${name}-station`).dataset.flow = flow;
  say(name, word);
  say(`${name}-note`, note);
}

// Before Claude's own count comes, all is estimated from the characters.
const about = ({ basis }) => (basis === "exact" ? "" : "≈ ");

function claude({ ended, hasEnded, state, lost, unknown, ago, quiet, figures, share, gone }) {
  if (ended === "aborted" && !hasEnded) return ["unknown", "not known", ""];
  if (ended) return ["rest", "at rest", ""];
  if (gone) return ["rest", state === "detached" ? "was ended" : "has finished", ""];
  if (unknown) return ["unknown", "not known", `${share >= STILL ? "held still" : "generated"} ${ago} ago`];
  if (lost) return ["unknown", "not known", ""];
  if (state === "connecting") return ["waiting", "not asked yet", ""];
  if (state === "waiting") return ["waiting", "no token yet", ""];
  if (!figures) return ["flowing", "generating", ""];
  const tokens = `${about(figures)}${number(figures.generated_tokens)} tokens`;
  if (share >= STILL) return ["still", "held still", `at ${tokens}`];
  if (share >= SLOWED) return ["slowed", "held back", `${Math.round(100 * share)} % of the time`];
  if (quiet) return ["waiting", "silent", `for ${quiet}`];
  return ["flowing", "generating", tokens];
}

const AWAY = { reconnecting: "disconnected", detached: "cut off", silent: "hearing nothing" };

function you({ ended, state, lost }) {
  if (ended) return ["rest", "done", ""];
  if (lost) return ["still", AWAY[state], ""];
  const taken = speed();
  if (taken === 0) return ["still", "holding still", ""];
  if (state === "waiting" || state === "connecting") return ["waiting", "waiting", ""];
  if (state === "behind") return ["flowing", "catching up", ""];
  return taken === Infinity ? ["flowing", "reading all", ""] : ["slowed", "reading slowly", `${number(taken)} characters/s`];
}

const ENDS = {
  done: "The answer is complete.",
  aborted: "Stopped on this page. The service has not said yet that Claude generates no more; it is told again.",
  failed: "The answer has ended. The message says why, and who can mend it.",
};

function hint({ handle, ended, hasEnded, state, unknown, ago, quiet, figures, share, gone, credits }) {
  if (ended === "aborted" && hasEnded) return "Stopped: Claude generates no more.";
  if (ended === "done" && handle.result.stopReason === "max_tokens")
    return "The answer broke off: it is as long as it was allowed to be.";
  if (ended) return ENDS[ended];
  if (state === "detached" && gone) return "The service has waited for as long as it does, and has ended the answer.";
  if (state === "detached") return "You cut the connection. The service holds Claude still for a while: resume before that is over.";
  if (state === "reconnecting" && navigator.onLine === false)
    return "This device is offline. The page comes back by itself when the network does.";
  if (state === "reconnecting") return "The connection is lost. The service holds Claude still, and this page is coming back.";
  if (state === "silent")
    return "Nothing comes from the service, neither text nor figures: the network may be down, or other tabs hold all connections.";
  if (state === "connecting") return "Your prompt is on its way to the service.";
  if (state === "waiting") return "No token has come yet: Claude is at work on it, or it was busy, and is asked again.";
  if (gone) return "Claude has finished. The rest is on its way to you.";
  if (state === "behind") return "What was written meanwhile is coming. After that, the page is where Claude is.";
  if (unknown) return `These figures are ${ago} old: no newer ones have come.`;
  if (figures?.reader === "held")
    return speed() < Infinity
      ? "Nothing was taken for so long that the service let this connection go. Move the speed up, and the page comes back."
      : "The service had not heard this page for so long that it let the connection go. The page comes back by itself.";
  if (share >= STILL) return "The way is full, so Claude is held still. Read on, and it goes on.";
  if (speed() === 0)
    return !credits
      ? "You take nothing. Without credits the browser takes in megabytes before Claude is held still."
      : "You take nothing. Claude fills the way, and is held still once that is full.";
  if (share >= SLOWED) return "You read more slowly than Claude writes, so Claude is held back to your speed.";
  if (quiet) return `Claude has sent nothing for ${quiet}, though nobody holds it: it may be thinking, or busy.`;
  if (speed() < Infinity) return "You read slowly. If Claude is faster, the way fills up and holds it back.";
  return "You read as fast as Claude writes. Drag the speed to the left to hold it back.";
}

function onTheWay({ ended, lost, unknown, figures, share, gone, standing }, chars) {
  const full = figures ? figures.queue_bytes / figures.queue_max_bytes : 0;
  const flow = ended || !figures ? "rest" : unknown || lost ? "unknown" : share >= STILL ? "still" : full > 0.5 ? "slowed" : "flowing";
  $("queue-station").dataset.flow = flow;
  const window = figures && figures.credit_bytes ? figures.unshown_bytes / figures.credit_bytes : 0;
  $("queue-bar").value = ended || gone ? 0 : full;
  $("window-bar").value = ended || gone ? 0 : Math.min(1, window);
  $("window").hidden = Boolean(figures) && figures.credit_bytes === null;
  if (ended || unknown || !figures) return say("ahead", unknown ? "not known" : "–");
  say("ahead", `${number(standing.missing(chars))} tokens`);
}

// By the last figures, and where the answer has told its own count, by that: exact, unless Claude worked beside it too.
function cost(figures, usage) {
  if (!figures) return "–";
  const { cost_usd: usd, output_usd_per_token: each, generated_tokens: generated } = figures;
  if (usd === null) return "no price";
  if (usage?.output_tokens === undefined) return about(figures) + dollars(usd);
  const exact = usd + (usage.output_tokens - generated) * each;
  return (usage.server_tool_use || usage.iterations ? "≈ " : "") + dollars(exact);
}

function meters({ handle, sentAt, firstAt, endAt, pace, state, figures, priced, standing }, chars, now) {
  say("first", firstAt === null ? "–" : duration(firstAt - sentAt));
  say("received", handle.bytes ? size(handle.bytes) : "–");
  const tokens = endAt === null ? null : handle.result.usage?.output_tokens;
  say("tokens-name", tokens ? "Tokens" : "On screen");
  say("shown", tokens ? tokens.toLocaleString("en") : chars ? `${chars.toLocaleString("en")} chars` : "–");
  const live = pace.look(now, chars, standing.behind);
  const whole = endAt !== null && firstAt !== null && endAt - firstAt >= 100 ? (endAt - firstAt) / 1000 : null;
  // While it runs, what came just now; afterwards, the whole answer.
  if (endAt === null) say("rate", live === null || state === "silent" ? "–" : `≈ ${rate(live / CHARS_PER_TOKEN)} tok/s`);
  else if (whole === null) say("rate", "–");
  else say("rate", tokens ? `${rate(tokens / whole)} tok/s` : `≈ ${rate(chars / CHARS_PER_TOKEN / whole)} tok/s`);
  say("cost", cost(figures ?? priced, endAt === null ? null : handle.result.usage));
  const [saved, note] = endAt !== null || standing.gone ? ["–", OVER] : figures ? saving(figures) : ["–", SAVING];
  say("saved", saved);
  say("saved-note", note);
}
