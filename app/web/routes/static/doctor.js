// The doctor from the reader's side: the service's own probes, read by this browser with all that stands before it (an
// extension, a service worker, a virus scanner, a company's proxy). `python -m app doctor` looks from outside and sees more.
import { keepKey, keptKey, sendableKey } from "./kept.js";

const TOGETHER = 0.25; // of the gap between two sends: arrivals that are nearer have come together
const LEAST_PAIRS = 5;
const QUIET_MS = 2500; // of silence, in which a leaving must arrive
const LONGER_MS = 1500; // than the heartbeat: what cuts in that time cuts before a sign of life

// Of arrivals, as [sent_ms, came_ms]: how many neighbours that were sent apart have come together. Two clocks are never compared.
export function spacing(arrivals) {
  const gaps = arrivals.slice(1).map(([sent, came], at) => [sent - arrivals[at][0], came - arrivals[at][1]]);
  const together = gaps.filter(([sent, came]) => came < TOGETHER * sent).length;
  const ways = arrivals.map(([sent, came]) => came - sent);
  const held_ms = ways.length ? ways[0] - Math.min(...ways) : 0;
  return { events: arrivals.length, together, held_ms, clumped: gaps.length >= LEAST_PAIRS && together * 2 >= gaps.length };
}

const finding = (check, evidence, mend) => ({ check, evidence, mend });
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

// A way to the service: `base` is where it is, `key` the caller's.
class Way {
  constructor(base, key) {
    this.base = base;
    this.headers = key ? { Authorization: `Bearer ${key}` } : {};
  }

  async ask(path, query = {}, options = {}) {
    const url = new URL(path, this.base);
    url.search = new URLSearchParams({ u: crypto.getRandomValues(new Uint32Array(2)).join(""), ...query });
    const response = await fetch(url, { cache: "no-store", ...options, headers: { ...this.headers, ...options.headers } });
    if (!response.ok) throw new Error(`${response.status}: ${(await response.json().catch(() => ({}))).error ?? "it does not serve"}`);
    return { response, url: url.href };
  }

  // The events of a probe, each with the time at which it came.
  async *events(query, options) {
    const { response, url } = await this.ask("api/probe", query, options);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const came_ms = performance.now();
      const parts = (held + value).split("\n\n");
      held = parts.pop();
      for (const part of parts) yield { ...JSON.parse(part.slice(6)), came_ms, url, encoding: response.headers.get("content-encoding") };
    }
  }

  async all(query, options) {
    const found = [];
    for await (const event of this.events(query, options)) found.push(event);
    return found;
  }

  async tell(probe) {
    return (await this.ask(`api/probe/${encodeURIComponent(probe)}`)).response.json();
  }
}

async function buffered(way) {
  let seen;
  for (let look = 0; look < 2; look++) {
    const events = await way.all({ events: 12, every_ms: 80 });
    seen = spacing(events.filter((event) => "event" in event).map((event) => [event.at_s * 1000, event.came_ms]));
    if (!seen.clumped) return [];
  }
  const evidence = `${seen.together} of ${seen.events} events that were sent one by one came together with the one before, the first held for ${Math.round(seen.held_ms)} ms`;
  return [finding("buffering", evidence, "proxy_buffering off; or, where another browser finds nothing: an extension or a virus scanner here")];
}

async function compressed(way) {
  const events = await way.all({ events: 20, every_ms: 5, size: 64 });
  const { url, encoding } = events[0];
  const timing = performance.getEntriesByName(url).at(-1);
  const sizes = timing?.decodedBodySize ? `, ${timing.encodedBodySize} bytes for ${timing.decodedBodySize}` : "";
  return encoding ? [finding("compressed", `a stream of ${events.length} events came with Content-Encoding: ${encoding}${sizes}`, "gzip off;")] : [];
}

async function cutHidden(way) {
  try {
    await way.all({ events: 3, every_ms: 20, cut: 1 });
  } catch (error) {
    if (error instanceof TypeError) return []; // as fetch tells a broken body
    throw error;
  }
  return [finding("cut-hidden", "1 stream that was broken off on purpose arrived as a whole one: half an answer looks like all of it", "proxy_http_version 1.1;")];
}

async function resumeHeader(way) {
  const [first] = await way.all({ events: 0 }, { headers: { "Last-Event-ID": "7" } });
  const arrived = first.seen.last_event_id;
  if (arrived === "7") return [];
  return [finding("resume-header", `Last-Event-ID: 7 was sent, and ${arrived ? `“${arrived}”` : "none"} arrived: who comes back is sent everything again`, 'no proxy_set_header Last-Event-ID "";')];
}

async function leaveUnheard(way) {
  const leaving = new AbortController();
  const events = way.events({ events: 1, every_ms: QUIET_MS }, { signal: leaving.signal, method: "POST", body: "{}", headers: { "Content-Type": "application/json" } });
  const { value: first } = await events.next();
  leaving.abort();
  await events.next().catch(() => {});
  let told = await way.tell(first.probe);
  if (told.over) return []; // the first event was held until then, or this tab was late: nobody could leave before
  while (!told.over) {
    await wait(150);
    told = await way.tell(first.probe);
  }
  if (told.left) return [];
  return [finding("leave-unheard", `this page left, and ${QUIET_MS / 1000} s later the service had not heard of it: what nobody reads is generated, and paid`, "proxy_ignore_client_abort off;")];
}

async function idleLimit(way) {
  const began = performance.now();
  const [{ heartbeat_s }] = await way.all({ events: 0 });
  try {
    const events = await way.all({ events: 1, every_ms: Math.round(heartbeat_s * 1000 + LONGER_MS) });
    if (events.length === 2) return [];
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
  const cut_s = ((performance.now() - began) / 1000).toFixed(1);
  return [finding("idle-limit", `a stream that was silent was cut after ${cut_s} s; the service's heartbeat comes every ${heartbeat_s} s`, `proxy_read_timeout ${Math.max(75, Math.round(3 * heartbeat_s))}s;`)];
}

async function oldProtocol(way) {
  const [{ url, seen }] = await way.all({ events: 0 });
  const spoken = performance.getEntriesByName(url).at(-1)?.nextHopProtocol;
  if (spoken !== "http/1.0" && !seen.http.startsWith("1.0")) return [];
  return [finding("http-1.0", `the service was asked in HTTP/${seen.http}, this browser answered in ${spoken || "?"}: half an answer can look like all of it`, "proxy_http_version 1.1;")];
}

// All findings, from the reader's side; `tell` hears what is looked at. Two probes run at a time.
export async function look(base, key, tell = () => {}) {
  const way = new Way(base, key);
  tell("silence, for a little longer than the heartbeat, and all else beside it");
  const idle = idleLimit(way);
  idle.catch(() => {}); // told below
  const found = [];
  for (const check of [buffered, compressed, cutHidden, resumeHeader, oldProtocol, leaveUnheard]) found.push(...(await check(way)));
  found.push(...(await idle));
  const worker = globalThis.navigator?.serviceWorker?.controller;
  if (worker) found.push(finding("service-worker", `1 service worker stands before every request of this site: ${worker.scriptURL}`, "let it pass text/event-stream untouched, without respondWith()"));
  return found;
}

const $ = (id) => document.getElementById(id);

function show(state, words, found = []) {
  $("state").dataset.state = state;
  $("state").textContent = words;
  $("found").replaceChildren(
    ...found.map(({ check, evidence, mend }) => {
      const item = document.createElement("li");
      const code = Object.assign(document.createElement("code"), { textContent: mend });
      item.append(Object.assign(document.createElement("strong"), { textContent: check }), ` ${evidence}. Mend: `, code);
      return item;
    }),
  );
}

async function lookAndShow() {
  const key = sendableKey($("key").value);
  if (key === null) return show("failed", "This key holds a character that no header can hold.");
  $("look").setAttribute("aria-disabled", "true");
  const began = performance.now();
  try {
    const found = await look(document.baseURI, key, (what) => show("looking", `Looking: ${what}`));
    const took = `in ${((performance.now() - began) / 1000).toFixed(1)} s`;
    show(found.length ? "found" : "nothing", found.length ? `${found.length} found ${took}` : `Nothing found ${took}: events come as they are sent`, found);
  } catch (error) {
    show("failed", `Could not look: ${error.message}`);
  } finally {
    $("look").setAttribute("aria-disabled", "false");
  }
}

if (globalThis.document?.getElementById("look")) {
  $("key").value = keptKey();
  $("key").addEventListener("input", () => keepKey($("key").value));
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("look").getAttribute("aria-disabled") !== "true") void lookAndShow();
  });
  fetch("config.json")
    .then((response) => response.json())
    .then((config) => ($("key-field").hidden = !config.auth))
    .catch(() => {});
}
