/** Sluiceway for React 18 and newer: `import { useStream } from "sluiceway-client/react"`. */

import type { SluicewayError, StreamOptions, StreamRequest, StreamResult, StreamState } from "./client.js";

/** What a component shows of its answer. It changes at most once an animation frame. */
export interface Answer extends StreamResult {
  /** `idle` before the first question; `done` and `failed` come together with the last of the text. */
  state: StreamState | "idle";
  /** Set where `state` is `failed`. */
  error: SluicewayError | null;
}

export interface StreamControls {
  /** Asks, once; an answer that is running is stopped, and its text goes. For event handlers, not for rendering. */
  send(input: string | StreamRequest): void;
  /** Stops the generation for good; tells whether the service took it, as `StreamHandle.stop` does. */
  stop(): Promise<boolean>;
  /**
   * Goes on where the text stands: after `detach`, or where coming back by itself was given up (`failed`) and the
   * stream is resumable. Does nothing otherwise.
   */
  resume(): void;
}

/**
 * One answer as a component's state. Rendering sends nothing, so that StrictMode's second rendering and effects cost no
 * second answer; unmounting stops the generation. With `save` an answer that was running when the tab was reloaded is
 * found again on mounting. `send` takes the `options` of the last rendering, and so does each call of a callback among them,
 * which follows once what it tells of was shown. The three functions stay the same for the component's life.
 */
export function useStream(options?: StreamOptions): Answer & StreamControls;
