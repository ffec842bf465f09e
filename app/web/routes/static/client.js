// Sluiceway in the browser: one request, one stream, read as fast as it is consumed and no faster.
// No dependency, no build step. The types and the words about each name are in client.d.ts.
// The way: #connect() -> SseParser -> meaning() -> #read(), a generator; then a `for await` loop, or #pump() for callbacks.

const HIGH_WATER_CHARS = 65536; // of a batch for the callbacks; then reading waits for the frame
const FRAME_TIMEOUT_MS = 250; // for a visible page whose frames do not come, as an iframe out of sight
const SHOWN_EVERY_CHARS = 16384;
const SILENCE_MS = 35_000; // the service gives a sign of life every 10 s
const STALE_MS = 12_000;
const LONGEST_WAIT_MS = 10_000;
const LEAVING_MS = 500; // in which the head of an answer that is left may still be on its way
const MOST_TRIES = 10; // without a frame in between, while the browser is online
const PREFIX = "sluiceway:";

export class SluicewayError extends Error {
  constructor(message, { type = "error", status = null, retryable = false, field = null, source = null, retryAfterS = null, cause } = {}) {
    super(message, cause && { cause });
    Object.assign(this, { type, status, retryable, field, source, retryAfterS });
  }
}
export class ConnectError extends SluicewayError {}
export class HttpError extends SluicewayError {}
export class StreamError extends SluicewayError {}
export class InterruptedError extends SluicewayError {}
export class ProtocolError extends SluicewayError {}
export class AbortedError extends SluicewayError {}

// Names are spelled out, because a minifier renames classes.
const NAMES = { SluicewayError, ConnectError, HttpError, StreamError, InterruptedError, ProtocolError, AbortError: AbortedError };
for (const [name, kind] of Object.entries(NAMES)) kind.prototype.name = name;

export class SseParser {
  lastEventId = "";
  retryMs = null;
  #decoder = new TextDecoder(); // strips one byte order mark, and keeps a code point that a cut divides
  #line = []; // pieces of the line that has not ended: joined once, because a growing string is searched in square time
  #data = [];
  #event = "";
  #id = "";
  #afterCR = false; // a line feed that opens the next chunk belongs to it

  push(bytes) {
    const text = this.#decoder.decode(bytes, { stream: true });
    const events = [];
    if (text === "") return events;
    const ends = /\r\n?|\n/g;
    let from = this.#afterCR && text[0] === "\n" ? 1 : 0;
    this.#afterCR = text.endsWith("\r");
    ends.lastIndex = from;
    for (let end; (end = ends.exec(text)); from = ends.lastIndex) {
      this.#line.push(text.slice(from, end.index));
      const line = this.#line.join("");
      this.#line = [];
      if (line !== "") this.#field(line);
      else this.#dispatch(events);
    }
    if (from < text.length) this.#line.push(text.slice(from));
    return events;
  }

  // WHATWG HTML 9.2.6
  #field(line) {
    const [, name, value] = /([^:]*):? ?([^]*)/.exec(line);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retryMs = Number(value);
  }

  #dispatch(events) {
    this.lastEventId = this.#id;
    if (this.#data.length) events.push({ id: this.#id, event: this.#event || "message", data: this.#data.join("\n") });
    this.#data = [];
    this.#event = "";
  }
}

const notOurs = (message, fields) => new ProtocolError(message, { type: "protocol_error", ...fields });

// What one frame of the plain protocol says: a list of events, mostly of one. Unknown fields are ignored.
function meaning({ id, event, data }) {
  if (event !== "message" || data === "") return [];
  let frame;
  try {
    frame = JSON.parse(data);
  } catch (cause) {
    throw notOurs("A frame was not JSON", { cause });
  }
  if (frame === null || typeof frame !== "object") return [];
  const { error, thinking, text, tool_use: tool } = frame;
  if (error !== undefined) throw new StreamError(String(error), { type: "api_error", ...frame });
  const events = [];
  if (typeof thinking === "string") events.push({ type: "thinking", id, text: thinking });
  if (typeof text === "string") events.push({ type: "text", id, text });
  if (tool) {
    const { index, id: toolId = null, name = null, partial_json: partialJson = "" } = tool;
    events.push({ type: "tool", id, index, toolId, name, partialJson });
  }
  if (frame.done) events.push({ type: "done", id, stopReason: frame.stop_reason ?? null, usage: frame.usage ?? null });
  return events;
}

async function httpError(response) {
  const { status, headers } = response;
  const said = (await response.json().catch(() => null)) ?? {}; // else a proxy's page: the status is all there is
  const message = typeof said.error === "string" ? said.error : said.error?.message;
  const after = headers.get("Retry-After");
  return new HttpError(message ?? `The server answered ${status}`, {
    type: "http_error",
    retryable: status >= 500 || status === 408 || status === 429,
    ...said,
    status,
    retryAfterS: after && Math.max(0, Number(after) || (Date.parse(after) - Date.now()) / 1000 || 0),
  });
}

// The next moment at which painting makes sense. Hidden pages have no frames and slow timers: theirs is now.
export function nextFrame() {
  if (globalThis.document?.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const paints = globalThis.requestAnimationFrame;
    setTimeout(resolve, paints ? FRAME_TIMEOUT_MS : 16);
    paints?.(resolve);
  });
}

// Joins what may be joined: runs of text, runs of thinking, the pieces of one tool call's input.
function join(batch, event) {
  const { type, id } = event;
  const last = batch.at(-1);
  if (last?.type !== type) batch.push({ ...event });
  else if (type !== "tool") Object.assign(last, { id, text: last.text + event.text });
  else if (last.index !== event.index || event.name !== null) batch.push({ ...event });
  else Object.assign(last, { id, partialJson: last.partialJson + event.partialJson });
}

// A browser speaks HTTP/1.1 over six connections to a host: where they are all streams, no word gets through.
let running = 0;

class Stream {
  id = null;
  stopToken = null;
  resumable = false;
  state = "connecting";
  bytes = 0;
  lastEventId = "";
  result = { text: "", thinking: "", tools: [], stopReason: null, usage: null };
  #options;
  #url;
  #body; // null once it was sent
  #life = new AbortController(); // aborted when the stream is settled; our listeners end with it
  #connection; // the AbortController of the request under way
  #silent = false; // nothing is handed on any more
  #taken = false; // somebody reads: a loop, or the pump
  #held = false; // detached
  #since = 0; // when the wait for the network began; 0 while nobody waits
  #tries = 0; // since the last progress
  #wake = () => {}; // ends the pause before the next one
  #unmarked = 0; // characters of frames since the last mark
  #marks = []; // frames after which the service is told what was shown
  #shownId = "";
  #word; // timer of the next one
  #source; // the one generator everybody pulls from
  #done;
  #resolve;
  #reject;

  constructor(body, options) {
    this.#options = options;
    this.#url = options.url ?? "/api/stream";
    this.#body = body;
    running += 1;
    this.#done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#done.catch(() => {}); // who never asks for `done` must not meet an unhandled rejection
    const { signal, id, stopToken = null, lastEventId = "" } = options;
    if (body === null) Object.assign(this, { id, stopToken, lastEventId, resumable: true });
    const on = (target, name, work) => target?.addEventListener?.(name, work, { signal: this.#life.signal });
    on(signal, "abort", () => this.abort(signal.reason));
    on(globalThis, "pagehide", () => this.detach());
    on(globalThis, "pageshow", () => this.attach());
    on(globalThis, "online", () => this.#awake(1000));
    on(globalThis.document, "visibilitychange", () => this.#tell() || document.hidden || this.#awake(STALE_MS));
    if (signal?.aborted) this.abort(signal.reason);
    const opened = this.#connect();
    opened.catch((error) => this.#mayResume(error) || this.#settle("failed", error));
    this.#source = this.#read(opened);
    const { onText, onThinking, onTool, onDone, onError } = options;
    if (onText || onThinking || onTool || onDone || onError) this.#pump();
  }

  get done() {
    // One microtask of grace, so that `done` may be taken just before the loop begins.
    queueMicrotask(() => this.#taken || this.#pump());
    return this.#done;
  }

  abort(reason) {
    if (this.resumable) this.stop(reason); // who only leaves would be waited for
    else this.#quit(reason);
  }

  async stop(reason) {
    const told = this.id && !this.#life.signal.aborted && this.#steer("stop");
    this.#quit(reason);
    return told || false;
  }

  detach() {
    if (this.#life.signal.aborted) return;
    if (!this.resumable) {
      const word = JSON.stringify({ stop_token: this.stopToken });
      if (this.stopToken) globalThis.navigator?.sendBeacon?.(`${this.#url}/${this.id}/stop`, word);
      this.#quit("detached");
      return;
    }
    this.#held = true;
    this.#to("detached");
    this.#connection.abort();
  }

  attach() {
    if (!this.#held) return;
    this.#held = false;
    this.#to("reconnecting");
    this.#awake(Infinity);
  }

  [Symbol.asyncIterator]() {
    if (this.#taken) throw new TypeError("This stream is read already");
    this.#taken = true;
    return this.#loop();
  }

  #to(state) {
    if (this.state === state || this.#life.signal.aborted) return;
    this.state = state;
    this.#tell();
    queueMicrotask(() => this.#options.onState?.(state));
  }

  #settle(state, error) {
    if (this.#life.signal.aborted) return;
    this.#to(state);
    this.#life.abort();
    running -= 1;
    this.#wake();
    this.#save(null);
    if (error === undefined) this.#resolve(this.result);
    else {
      this.#reject(error);
      // Who left a resumable answer whose id comes in the next moment would have it waited for.
      const leave = () => this.#connection?.abort();
      this.#options.resumable && !this.id ? setTimeout(leave, LEAVING_MS) : leave();
    }
  }

  #quit(cause) {
    this.#silent = true;
    this.#settle("aborted", new AbortedError("The stream was aborted", { type: "aborted", cause }));
  }

  #save(at) {
    const { save } = this.#options;
    if (!save) return;
    try {
      if (at) sessionStorage.setItem(PREFIX + save, JSON.stringify(at));
      else sessionStorage.removeItem(PREFIX + save);
    } catch {
      // No storage here: the stream only cannot be found again after a reload.
    }
  }

  #fetch(path, request) {
    const { key, headers, credentials, fetch = globalThis.fetch } = this.#options;
    const all = new Headers(headers);
    for (const name in request.headers) all.set(name, request.headers[name]);
    if (key) all.set("Authorization", `Bearer ${key}`);
    return fetch(this.#url + path, { cache: "no-store", ...request, ...(credentials && { credentials }), headers: all });
  }

  // A word to the service about this stream; tells whether it was taken.
  async #steer(verb, more) {
    const body = JSON.stringify({ stop_token: this.stopToken ?? undefined, ...more });
    try {
      return (await this.#fetch(`/${this.id}/${verb}`, { method: "POST", keepalive: true, body })).ok;
    } catch {
      return false;
    }
  }

  async #connect() {
    const body = this.#body;
    this.#body = null;
    const { signal } = (this.#connection = new AbortController());
    if (this.#silent) this.#connection.abort();
    const headers = { Accept: "text/event-stream" };
    let path = "";
    if (body !== null) {
      headers["Content-Type"] = "application/json";
    } else {
      const { credits } = this.#options;
      path = `/${this.id}${credits ? `?credits=${+credits}` : ""}`;
      if (this.lastEventId) headers["Last-Event-ID"] = this.lastEventId;
    }
    let response;
    try {
      response = await this.#watch(this.#fetch(path, { method: body === null ? "GET" : "POST", body, headers, signal }));
    } catch (cause) {
      throw new ConnectError("The server was not reached", { type: "connect_error", retryable: true, cause });
    }
    const told = response.headers;
    if (!response.ok) throw await httpError(response);
    if (!/^text\/event-stream\b/i.test(told.get("Content-Type") ?? "")) {
      throw notOurs("No event stream", { status: response.status, retryable: this.resumable });
    }
    if (body !== null) {
      this.id = told.get("X-Stream-Id");
      this.stopToken = told.get("X-Stop-Token");
      this.resumable = this.id !== null && told.get("X-Resumable") === "true";
      if (this.#silent) this.#steer("stop");
      else if (this.resumable) this.#save({ id: this.id, stopToken: this.stopToken, url: String(this.#url) });
    }
    this.#to("open");
    return response.body.getReader();
  }

  // Waits for the network, which is given up where it says nothing at all and can be asked again.
  async #watch(promise) {
    this.#since = Date.now(); // of the wall: other clocks stand still while a laptop sleeps
    const timer = this.resumable && setTimeout(() => this.#connection.abort(), SILENCE_MS);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#since = 0;
    }
  }

  // The page is back: what waits for a dead connection, or for the next try, need not wait any longer.
  #awake(silenceMs) {
    this.#tries = 0;
    this.#wake();
    if (this.resumable && this.#since && Date.now() - this.#since > silenceMs) this.#connection.abort();
  }

  #mayResume(error) {
    return this.resumable && error.retryable && !(error instanceof StreamError) && this.#tries < MOST_TRIES;
  }

  async #pause({ retryAfterS }) {
    const wait = Math.min(LONGEST_WAIT_MS, 250 * 2 ** this.#tries) * (0.5 + Math.random() / 2);
    if (globalThis.navigator?.onLine !== false) this.#tries += 1;
    do {
      await new Promise((resolve) => {
        this.#wake = resolve;
        if (!this.#held) setTimeout(resolve, Math.max(wait, 1000 * retryAfterS));
      });
    } while (this.#held && !this.#silent);
  }

  // The pull: one event for one call of next(), and one read of the network where no event is left over.
  async *#read(opened) {
    for (; ; opened = this.#connect()) {
      try {
        const reader = await opened;
        const parser = new SseParser();
        const known = +this.lastEventId; // on the way there may be one who does not pass on what we asked for
        for (;;) {
          const chunk = await this.#chunk(reader);
          this.bytes += chunk.byteLength;
          if (chunk[0] === 58) this.#tell(); // a sign of life: the service may be waiting for our word
          for (const frame of parser.push(chunk)) {
            const events = meaning(frame);
            if (frame.id && frame.id <= known) continue;
            this.#tries = 0;
            this.#mark(frame);
            for (const event of events) {
              if (this.#silent) return;
              this.#keep(event);
              if (event.type === "done") {
                // The connection can serve the next request only once its end has been read.
                reader.read().then((end) => end.done || reader.cancel()).catch(() => {});
                this.#settle("done");
                yield event;
                return;
              }
              yield event;
            }
            this.lastEventId = frame.id || this.lastEventId;
          }
        }
      } catch (error) {
        if (this.#silent) return;
        if (!this.#mayResume(error)) {
          this.#settle("failed", error);
          throw error;
        }
        this.#to(this.#held ? "detached" : "reconnecting");
        await this.#pause(error);
        if (this.#silent) return;
      }
    }
  }

  async #chunk(reader) {
    let cause;
    try {
      const { value, done } = await this.#watch(reader.read());
      if (!done) return value;
    } catch (error) {
      cause = error;
    }
    throw new InterruptedError("The stream broke off", { type: "interrupted", retryable: true, cause });
  }

  #keep({ type, text, index, toolId, name, partialJson: json, stopReason, usage }) {
    const { result } = this;
    if (type === "done") Object.assign(result, { stopReason, usage });
    else if (type !== "tool") result[type] += text;
    else if (name !== null) result.tools.push({ index, toolId, name, json });
    else result.tools.filter((tool) => tool.index === index).slice(-1).forEach((tool) => (tool.json += json));
  }

  // Credits: every so many characters of frames the service is told what was shown.
  #mark({ id, data }) {
    this.#unmarked += data.length + 20;
    const { credits } = this.#options;
    if (this.#unmarked < (credits > 1 ? credits / 4 : SHOWN_EVERY_CHARS)) return;
    this.#unmarked = 0;
    this.#marks.push(id);
  }

  #shown(event) {
    if (!event?.id) return;
    this.#shownId = event.id;
    const ahead = this.#marks.filter((id) => Number(id) > Number(event.id));
    if (ahead.length < this.#marks.length) this.#tell();
    this.#marks = ahead;
  }

  // Who said `again_s` and speaks no more has vanished, whatever a proxy still takes. Hidden pages, whose timers are slow,
  // and pages of many streams promise nothing.
  #tell() {
    clearTimeout(this.#word);
    if (!this.#options.credits || !this.id || this.state !== "open") return;
    this.#steer("shown", { id: +this.#shownId, ...(running > 4 || globalThis.document?.hidden || { again_s: 9 }) });
    this.#word = setTimeout(() => this.#tell(), 7000); // so that with the service's `vanish_timeout_s` one word may be lost
  }

  async *#loop() {
    try {
      for await (const event of this.#source) {
        if (this.#silent) return;
        yield event;
        this.#shown(event); // who asks for the next one is done with this one
      }
    } finally {
      this.abort();
    }
  }

  async #pump() {
    this.#taken = true;
    const { onText, onThinking, onTool, onDone, onError, batch = true } = this.#options;
    const call = { text: (e) => onText?.(e.text), thinking: (e) => onThinking?.(e.text), tool: (e) => onTool?.(e) };
    let waiting = [];
    let chars = 0;
    let frame = null; // promise of the delivery that is due, or under way
    let busy = false; // a callback returned a promise that is still pending
    // A callback's own mistake is for the page's error handlers; the stream goes on.
    const guard = async (work) => {
      try {
        await work();
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    };
    const deliver = async () => {
      const events = waiting;
      waiting = [];
      chars = 0;
      busy = true;
      for (const event of events) {
        if (!this.#silent) await guard(() => call[event.type]?.(event));
      }
      busy = false;
      this.#shown(events.at(-1));
      frame = waiting.length ? nextFrame().then(deliver) : null;
    };
    let failure;
    try {
      for await (const event of this.#source) {
        if (this.#silent) return;
        join(waiting, event);
        chars += (event.text ?? event.partialJson ?? "").length;
        if (!batch) await deliver();
        else frame ??= nextFrame().then(deliver);
        while (frame && (busy || chars >= HIGH_WATER_CHARS) && !this.#silent) await frame;
      }
    } catch (error) {
      failure = error;
    }
    while (frame && !this.#silent) await frame;
    if (this.#silent) return;
    await guard(() => (failure ? onError?.(failure) : onDone?.(this.result)));
  }
}

export function stream(input, options = {}) {
  const { resumable, credits } = options;
  const body = typeof input === "string" ? { prompt: input } : input;
  return new Stream(JSON.stringify({ ...body, ...(resumable && { resumable }), ...(credits && { credits }) }), options);
}

export function resume(id, options = {}) {
  return new Stream(null, { ...options, id });
}

export function restore(name, options = {}) {
  try {
    const { id, ...at } = JSON.parse(sessionStorage.getItem(PREFIX + name));
    return resume(id, { ...options, ...at, save: name });
  } catch {
    return null; // nothing was saved, or there is no storage here
  }
}
