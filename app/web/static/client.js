// Sluiceway in the browser: one request, one stream, read as fast as it is consumed and no faster.
// No dependency, no build step. The types and the words about each name are in client.d.ts.
// The way of the data: open() -> SseParser -> meaning() -> #read(), a generator; from there either the caller's
// `for await` loop or #pump(), which feeds the callbacks. Nothing is read that nobody pulls. Nothing is POSTed twice.

// A batch for the callbacks holds this many characters at most; then reading waits for the frame.
const HIGH_WATER_CHARS = 65536;
// A visible page whose animation frames do not come (an iframe out of sight) is served by this timer.
const FRAME_TIMEOUT_MS = 250;

export class SluicewayError extends Error {
  constructor(message, { type, status = null, retryable = false, field = null, retryAfterS = null, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    Object.assign(this, { type: type ?? "error", status, retryable, field, retryAfterS });
  }
}
export class ConnectError extends SluicewayError {}
export class HttpError extends SluicewayError {}
export class StreamError extends SluicewayError {}
export class InterruptedError extends SluicewayError {}
export class ProtocolError extends SluicewayError {}
export class AbortedError extends SluicewayError {}

// Names are spelled out, because a minifier renames classes.
for (const [kind, name] of [
  [SluicewayError, "SluicewayError"],
  [ConnectError, "ConnectError"],
  [HttpError, "HttpError"],
  [StreamError, "StreamError"],
  [InterruptedError, "InterruptedError"],
  [ProtocolError, "ProtocolError"],
  [AbortedError, "AbortError"],
]) {
  Object.defineProperty(kind.prototype, "name", { value: name, configurable: true, writable: true });
}

export class SseParser {
  lastEventId = "";
  retryMs = null;
  #decoder = new TextDecoder(); // strips one byte order mark, and keeps a code point that a cut divides
  #line = []; // pieces of the line that has not ended: joined once, because a growing string is searched in square time
  #data = []; // lines of the event that has not ended
  #event = "";
  #id = "";
  #afterCR = false; // the last chunk ended in CR: a line feed that opens the next one belongs to it

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

  // WHATWG HTML 9.2.6, the steps for one line.
  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retryMs = Number(value);
  }

  // WHATWG HTML 9.2.6, "dispatch the event": the id counts even where there is no data.
  #dispatch(events) {
    this.lastEventId = this.#id;
    if (this.#data.length) events.push({ id: this.#id, event: this.#event || "message", data: this.#data.join("\n") });
    this.#data = [];
    this.#event = "";
  }
}

// What one frame of the plain protocol says: a list of events, mostly of one. Unknown fields are ignored.
function meaning({ id, event, data }) {
  if (event !== "message" || data === "") return [];
  let frame;
  try {
    frame = JSON.parse(data);
  } catch (cause) {
    throw new ProtocolError("A frame of the stream was not JSON", { type: "protocol_error", cause });
  }
  if (frame === null || typeof frame !== "object") return [];
  if (frame.error !== undefined) {
    const { type = "api_error", retryable, field } = frame;
    throw new StreamError(String(frame.error), { type, retryable: retryable === true, field });
  }
  const events = [];
  if (typeof frame.thinking === "string") events.push({ type: "thinking", id, text: frame.thinking });
  if (typeof frame.text === "string") events.push({ type: "text", id, text: frame.text });
  if (frame.tool_use) {
    const { index, id: toolId = null, name = null, partial_json: partialJson = "" } = frame.tool_use;
    events.push({ type: "tool", id, index, toolId, name, partialJson });
  }
  if (frame.done) {
    events.push({ type: "done", id, stopReason: frame.stop_reason ?? null, usage: frame.usage ?? null });
  }
  return events;
}

async function httpError(response) {
  const { status, headers } = response;
  let said = {};
  try {
    said = (await response.json()) ?? {};
  } catch {
    // A proxy's page, or nothing at all: the status is all there is to say.
  }
  const message = typeof said.error === "string" ? said.error : said.error?.message;
  const after = headers.get("Retry-After");
  const seconds = after === null ? null : Number(after) || (Date.parse(after) - Date.now()) / 1000;
  return new HttpError(message ?? `The server answered ${status} ${response.statusText}`.trimEnd(), {
    type: said.type ?? "http_error",
    status,
    retryable: said.retryable ?? (status === 408 || status === 429 || status >= 500),
    field: said.field,
    retryAfterS: seconds === null ? null : Math.max(0, seconds || 0),
  });
}

// The next moment at which painting makes sense. Hidden pages have no frames and slow timers: theirs is now.
function nextFrame() {
  if (globalThis.document?.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const paints = typeof requestAnimationFrame === "function";
    const timer = setTimeout(ready, paints ? FRAME_TIMEOUT_MS : 16);
    const frame = paints ? requestAnimationFrame(ready) : 0;
    function ready() {
      clearTimeout(timer);
      if (paints) cancelAnimationFrame(frame);
      resolve();
    }
  });
}

// Joins what may be joined: runs of text, runs of thinking, the pieces of one tool call's input.
function join(batch, event) {
  const last = batch.at(-1);
  const same = last?.type === event.type;
  if (same && (event.type === "text" || event.type === "thinking")) {
    last.text += event.text;
    last.id = event.id;
  } else if (same && event.type === "tool" && last.index === event.index && event.name === null) {
    last.partialJson += event.partialJson;
    last.id = event.id;
  } else {
    batch.push({ ...event });
  }
}

const END = { value: undefined, done: true };

class Stream {
  id = null; // X-Stream-Id, once the headers are here
  state = "connecting"; // then open, then one of: done, failed, aborted
  bytes = 0; // of the body, as taken over from the browser
  lastEventId = ""; // of the last event handed on
  result = { text: "", thinking: "", tools: [], stopReason: null, usage: null };
  #controller = new AbortController(); // the request
  #life = new AbortController(); // our listeners, removed when the stream is settled
  #silent = false; // aborted: nothing is handed on any more
  #taken = false; // somebody reads: a loop, or the pump
  #options;
  #opened; // promise of the body's reader
  #source; // the one generator everybody pulls from
  #done;
  #resolve;
  #reject;

  constructor(input, options) {
    this.#options = options;
    this.#done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#done.catch(() => {}); // who never asks for `done` must not meet an unhandled rejection
    const body = JSON.stringify(typeof input === "string" ? { prompt: input } : input);
    const { signal } = options;
    if (signal?.aborted) this.abort(signal.reason);
    else signal?.addEventListener("abort", () => this.abort(signal.reason), { signal: this.#life.signal });
    // The back-forward cache keeps a page, and with it the request, after the reader has left it.
    globalThis.addEventListener?.("pagehide", () => this.abort("pagehide"), { signal: this.#life.signal });
    this.#opened = this.#open(body);
    this.#opened.catch((error) => this.#settle("failed", error));
    this.#source = this.#read();
    const { onText, onThinking, onTool, onDone, onError } = options;
    if (onText || onThinking || onTool || onDone || onError) this.#pump();
  }

  get done() {
    // One microtask of grace, so that `done` may be taken just before the loop begins.
    if (!this.#taken) queueMicrotask(() => this.#taken || this.#pump());
    return this.#done;
  }

  abort(reason) {
    this.#silent = true;
    this.#settle("aborted", new AbortedError("The stream was aborted", { type: "aborted", cause: reason }));
  }

  [Symbol.asyncIterator]() {
    if (this.#taken) throw new TypeError("This stream is being read already: by callbacks, by `done` or by a loop");
    this.#taken = true;
    return {
      next: () => this.#next(),
      return: async () => {
        this.abort();
        return END;
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  #settle(state, error) {
    if (this.#life.signal.aborted) return;
    this.state = state;
    this.#life.abort();
    if (error === undefined) {
      this.#resolve(this.result);
    } else {
      this.#reject(error);
      this.#controller.abort();
    }
  }

  async #open(body) {
    const { url = "/api/stream", key, headers, credentials, fetch = globalThis.fetch } = this.#options;
    const request = { method: "POST", body, cache: "no-store", signal: this.#controller.signal };
    if (credentials) request.credentials = credentials;
    request.headers = new Headers(headers);
    request.headers.set("Content-Type", "application/json");
    request.headers.set("Accept", "text/event-stream");
    if (key) request.headers.set("Authorization", `Bearer ${key}`);
    let response;
    try {
      response = await fetch(url, request);
    } catch (cause) {
      throw new ConnectError("The server could not be reached", { type: "connect_error", retryable: true, cause });
    }
    this.id = response.headers.get("X-Stream-Id");
    if (!response.ok) throw await httpError(response);
    if (!/^text\/event-stream\b/i.test(response.headers.get("Content-Type") ?? "")) {
      throw new ProtocolError("The answer was not an event stream", { type: "protocol_error", status: response.status });
    }
    if (!this.#silent) this.state = "open";
    return response.body.getReader();
  }

  // The pull: one event for one call of next(), and one read of the network where no event is left over.
  async *#read() {
    try {
      const reader = await this.#opened;
      const parser = new SseParser();
      for (;;) {
        const chunk = await this.#chunk(reader);
        this.bytes += chunk.byteLength;
        for (const frame of parser.push(chunk)) {
          for (const event of meaning(frame)) {
            this.#keep(event);
            if (event.type === "done") {
              // The connection can serve the next request only once its end has been read.
              reader.read().then((end) => end.done || reader.cancel()).catch(() => {});
              if (!this.#silent) this.#settle("done");
            }
            yield event;
            if (event.type === "done") return;
          }
          this.lastEventId = frame.id;
        }
      }
    } catch (error) {
      if (this.#silent) return;
      this.#settle("failed", error);
      throw error;
    }
  }

  async #chunk(reader) {
    let cause;
    try {
      const { value, done } = await reader.read();
      if (!done) return value;
    } catch (error) {
      cause = error;
    }
    throw new InterruptedError("The stream broke off", { type: "interrupted", retryable: true, cause });
  }

  #keep(event) {
    const { result } = this;
    if (event.type === "text") result.text += event.text;
    else if (event.type === "thinking") result.thinking += event.text;
    else if (event.type === "done") Object.assign(result, { stopReason: event.stopReason, usage: event.usage });
    else if (event.name !== null) {
      result.tools.push({ index: event.index, toolId: event.toolId, name: event.name, json: event.partialJson });
    } else {
      const tool = result.tools.findLast((known) => known.index === event.index);
      if (tool) tool.json += event.partialJson;
    }
  }

  async #next() {
    const step = this.#silent ? END : await this.#source.next();
    return this.#silent ? END : step;
  }

  async #pump() {
    this.#taken = true;
    const { onText, onThinking, onTool, onDone, onError, batch = true } = this.#options;
    const call = { text: (e) => onText?.(e.text), thinking: (e) => onThinking?.(e.text), tool: (e) => onTool?.(e) };
    let waiting = [];
    let chars = 0;
    let frame = null; // promise of the delivery that is due, or under way
    let busy = false; // a callback returned a promise that is still pending
    const guard = async (work) => {
      try {
        await work();
      } catch (error) {
        // A callback's own mistake: the page's error handlers hear of it, and a stream nobody handles is not paid for.
        this.#silent = true;
        this.#settle("failed", error);
        if (globalThis.reportError) reportError(error);
      }
    };
    const deliver = () =>
      guard(async () => {
        const events = waiting;
        waiting = [];
        chars = 0;
        busy = true;
        for (const event of events) {
          if (!this.#silent) await call[event.type]?.(event);
        }
        busy = false;
        frame = waiting.length ? nextFrame().then(deliver) : null;
      });
    let failure;
    try {
      for (let step; !(step = await this.#next()).done; ) {
        join(waiting, step.value);
        chars += (step.value.text ?? step.value.partialJson ?? "").length;
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
  return new Stream(input, options);
}
