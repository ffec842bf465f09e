/**
 * Sluiceway's browser client. One ES module without dependencies: `import { stream } from "sluiceway-client"` where the
 * package is installed, or `from "/client.js"` on a page of the service.
 */

/** The body of `POST /api/stream`; what is not named here is passed on to the Messages API. */
export interface StreamRequest {
  prompt?: string;
  messages?: Array<{ role: "user" | "assistant"; content: unknown }>;
  model?: string;
  max_tokens?: number;
  system?: unknown;
  thinking?: { type: string; [field: string]: unknown };
  tools?: unknown[];
  [field: string]: unknown;
}

export interface TextEvent {
  type: "text";
  /** The frame's number, for resuming. */
  id: string;
  text: string;
}

export interface ThinkingEvent {
  type: "thinking";
  id: string;
  text: string;
}

/** A tool call: first its name and id, then its input in pieces of JSON. */
export interface ToolEvent {
  type: "tool";
  id: string;
  /** The content block's position in the message. */
  index: number;
  /** Set in the first event of a call, null in the others. */
  toolId: string | null;
  name: string | null;
  /** Joined over all events of one index, this is the input. */
  partialJson: string;
}

export interface DoneEvent {
  type: "done";
  id: string;
  stopReason: string | null;
  usage: Record<string, unknown> | null;
}

export type StreamEvent = TextEvent | ThinkingEvent | ToolEvent | DoneEvent;

export interface StreamResult {
  text: string;
  thinking: string;
  tools: Array<{ index: number; toolId: string | null; name: string; json: string }>;
  stopReason: string | null;
  usage: Record<string, unknown> | null;
}

/**
 * With a callback the stream is read at once, as fast as it comes. A callback may return a promise: nothing more is
 * read while it is pending. A callback that throws, or whose promise rejects, is reported to the page's error handlers
 * (`reportError`), and the stream goes on: one text that a renderer fails at must not cost the answer. `result` has it
 * all the same. A loop's body that throws leaves the loop, and that ends the stream.
 */
export interface StreamOptions {
  /** Default `/api/stream`; without a query, because the paths of resume and stop begin with it. */
  url?: string | URL;
  /**
   * Asks for a stream that outlives its connection (the body's `resumable`). Where it is lost the client comes back by
   * itself: after 0.13 to 0.25 s, then twice as long each time up to 10 s, with jitter, for ten tries without a frame
   * in between; at once when the page comes to the front, out of the back-forward cache, or the network is back. It
   * asks for every frame after the last one it has, so that nothing comes twice and nothing is missing. The POST
   * itself is never repeated. Leaving the page lets go of the stream, and the service waits for its grace period.
   */
  resumable?: boolean;
  /**
   * Asks the service to run ahead of what was *shown* by a bounded window only (the body's `credits`): shown is what a
   * callback has returned from, and what a loop has gone on from. A browser buffers megabytes that nobody reads;
   * this is what holds generation back all the same. A number is how many bytes may be out, from 2,048 up to what the
   * service allows (64 kB by default, which true stands for). Every quarter of them costs one small request.
   * While the page is visible, and has at most four streams, it says so every 7 s, so that a page that vanished is found within 20 s, behind a proxy too.
   */
  credits?: boolean | number;
  /** Keeps where the stream is found (not its text, not the key) in sessionStorage under this name; see `restore`. */
  save?: string;
  /** The caller's key, sent as `Authorization: Bearer`. */
  key?: string;
  headers?: HeadersInit;
  credentials?: RequestCredentials;
  /** Aborts the stream, as `abort()` does. */
  signal?: AbortSignal;
  /**
   * Default true: callbacks are called at most once an animation frame, with all that came since joined. A hidden page
   * has no frames; there they are called as the network delivers. False: once for every event.
   */
  batch?: boolean;
  /** Default the global `fetch`. */
  fetch?: typeof fetch;
  onText?(text: string): void | Promise<void>;
  onThinking?(text: string): void | Promise<void>;
  onTool?(event: ToolEvent): void | Promise<void>;
  /** Each change of `state`; no reader in itself. */
  onState?(state: StreamState): void;
  /** Last of a good stream. */
  onDone?(result: StreamResult): void | Promise<void>;
  /** Last of a failed stream, after all that came before the failure. Not called for an abort. */
  onError?(error: SluicewayError): void | Promise<void>;
}

export type StreamState = "connecting" | "open" | "reconnecting" | "detached" | "done" | "failed" | "aborted";

/**
 * One request and its stream. It has one reader: the callbacks where there are any, else a `for await` loop, else
 * `done`. A loop is the one that holds a stream back: the network is read only as the loop asks.
 */
export interface StreamHandle extends AsyncIterable<StreamEvent> {
  /** The service's name for this stream (`X-Stream-Id`); null until the headers have come. */
  readonly id: string | null;
  readonly state: StreamState;
  /** Whoever has it may stop and acknowledge this stream (`X-Stop-Token`); null until the headers have come. */
  readonly stopToken: string | null;
  /** Whether the service keeps this stream for a reader that comes back. */
  readonly resumable: boolean;
  /** Bytes of the body taken over from the browser so far. */
  readonly bytes: number;
  /** The number of the last frame that was handed on entirely; empty before the first. */
  readonly lastEventId: string;
  /** What has been handed on so far; after a failure, what there is of the answer. */
  readonly result: StreamResult;
  /**
   * The whole answer, or a SluicewayError; an AbortedError (named "AbortError") after an abort. Reads the stream where
   * nobody else does: take it before or in the same breath as the loop begins. Never an unhandled rejection.
   */
  readonly done: Promise<StreamResult>;
  /**
   * Ends the stream for good, and the generation with it: a resumable one is told to stop, any other by closing its
   * connection. Nothing is handed on afterwards: no callback is called, a loop ends without an error, `done` rejects.
   * Safe at any time and any number of times: the cleanup of a React effect. Leaving a loop (break, return, throw)
   * does the same, and so does leaving the page where the stream is not resumable (with a beacon beside it).
   */
  abort(reason?: unknown): void;
  /** The same, and always says so to the service; tells whether the service took it. */
  stop(reason?: unknown): Promise<boolean>;
  /**
   * Lets go of the connection of a resumable stream; the service holds the generation still for its grace period.
   * A stream that is not resumable is aborted. Leaving the page does this by itself.
   */
  detach(): void;
  /** Comes back after `detach`. Coming back to the page does this by itself. */
  attach(): void;
  /** Throws TypeError where the stream has a reader already. */
  [Symbol.asyncIterator](): AsyncIterableIterator<StreamEvent>;
}

/** Sends the request, once, and returns its handle at once. A string is a prompt. */
export function stream(input: string | StreamRequest, options?: StreamOptions): StreamHandle;

/**
 * Reads a stream that was begun elsewhere or before: every frame after `lastEventId` (default: all of them), then what
 * is still to come. `result` holds what came through this handle. A second reader takes the stream over: the first one
 * fails with a StreamError of type `taken_over`, and does not come back by itself.
 */
export function resume(
  id: string,
  options?: StreamOptions & { lastEventId?: string; stopToken?: string | null },
): StreamHandle;

/**
 * After a reload of the tab: the stream that was saved under this name, from its first frame, or null where none is
 * running any more. `const handle = restore("chat", options) ?? stream(prompt, { ...options, save: "chat" })`.
 */
export function restore(name: string, options?: StreamOptions): StreamHandle | null;

export interface SluicewayErrorFields {
  /** Absent means "error". */
  type?: string;
  status?: number | null;
  retryable?: boolean;
  field?: string | null;
  source?: "service" | "upstream" | null;
  retryAfterS?: number | null;
  cause?: unknown;
}

export class SluicewayError extends Error {
  constructor(message: string, fields?: SluicewayErrorFields);
  /** The word to decide by: the service's or Claude's (`overloaded_error`), or one of the words named below. */
  readonly type: string;
  /** HTTP status, where the answer had one that matters. */
  readonly status: number | null;
  /** Whether asking again may help. That is for the caller to do: this module never sends a question twice. */
  readonly retryable: boolean;
  /** The field of the request that is wrong, if one is. */
  readonly field: string | null;
  /**
   * Whose word it is: the service's own, or that of Claude's side (`upstream`); null where neither said anything. The
   * same type asks other people to act: an `authentication_error` of the service is about the caller's key, one of
   * `upstream` about the operator's.
   */
  readonly source: "service" | "upstream" | null;
  /** Seconds, from `Retry-After`. */
  readonly retryAfterS: number | null;
}

/** No answer at all: type `connect_error`. */
export class ConnectError extends SluicewayError {}
/** The service refused, with a status of 400 or more. */
export class HttpError extends SluicewayError {}
/**
 * The stream itself said that it failed, or why it ended: Claude's types, and `taken_over`, `stopped`, `expired`,
 * `shutdown` (retryable: ask anew).
 */
export class StreamError extends SluicewayError {}
/** The connection was lost before the stream was done, and coming back was not possible: type `interrupted`. */
export class InterruptedError extends SluicewayError {}
/** Not this protocol: type `protocol_error`. */
export class ProtocolError extends SluicewayError {}
/** Aborted by this side: type `aborted`, name "AbortError". */
export class AbortedError extends SluicewayError {}

/** Resolves at the next animation frame; at once where the page is hidden, and within 250 ms where frames do not come. */
export function nextFrame(): Promise<void>;

export interface SseEvent {
  id: string;
  /** "message" where the stream names none. */
  event: string;
  data: string;
}

/** Server-sent events (WHATWG HTML 9.2.6), from bytes cut anywhere; linear in their number. */
export class SseParser {
  /** Takes the next bytes; returns the events that they complete. */
  push(bytes: Uint8Array): SseEvent[];
  readonly lastEventId: string;
  readonly retryMs: number | null;
}
