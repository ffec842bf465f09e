// Sluiceway for React: one answer as state. Rendering asks nothing; `send` does, once a call.
import { useEffect, useState, useSyncExternalStore } from "react";
import { nextFrame, restore, resume, stream } from "./client.js";

const EMPTY = { text: "", thinking: "", tools: [], stopReason: null, usage: null, error: null };
const IDLE = { ...EMPTY, state: "idle" };

// What a component shows, and the stream behind it. Everything that comes waits in `#next` until the frame that shows it.
class Answer {
  options = {};
  shown = IDLE;
  #next = IDLE;
  #handle = null;
  #due = null; // promise of the frame at which `#next` is shown
  #listeners = new Set();
  #mounted = false;

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  get = () => this.shown;

  send = (input) => {
    this.#handle?.abort();
    this.#begin(EMPTY, (options) => stream(input, options));
  };

  stop = () => this.#handle?.stop() ?? Promise.resolve(false);

  resume = () => {
    const was = this.#handle;
    if (was?.state === "detached") was.attach();
    else if (was?.resumable && this.#next.state === "failed") {
      const { id, stopToken, lastEventId } = was;
      this.#begin({ ...this.#next, error: null }, (options) => resume(id, { ...options, stopToken, lastEventId }));
    }
  };

  // StrictMode takes every effect back and does it again in one breath: only who stays away has left.
  mount = () => {
    this.#mounted = true;
    const { save } = this.options;
    if (save && !this.#handle) this.#begin(EMPTY, (options) => restore(save, options));
    return () => {
      this.#mounted = false;
      queueMicrotask(() => this.#mounted || this.#handle?.abort());
    };
  };

  #begin(from, open) {
    let handle = null;
    const show = (what) => (this.#handle === handle ? this.#show({ ...this.#next, ...what }) : null);
    // What a callback returns is waited for: nothing more is read before the frame has shown it.
    const grow = (name, callback) => async (more) => {
      await show({ [name]: this.#next[name] + more });
      await this.options[callback]?.(more);
    };
    handle = open({
      ...this.options,
      onText: grow("text", "onText"),
      onThinking: grow("thinking", "onThinking"),
      onTool: async (event) => {
        await show({ tools: withTool(this.#next.tools, event) });
        await this.options.onTool?.(event);
      },
      // An end is shown with the last of the text, not before it.
      onState: (state) => {
        if (state !== "done" && state !== "failed") show({ state });
        this.options.onState?.(state);
      },
      onDone: async (result) => {
        await show({ state: "done", stopReason: result.stopReason, usage: result.usage });
        await this.options.onDone?.(result);
      },
      onError: async (error) => {
        await show({ state: "failed", error });
        await this.options.onError?.(error);
      },
    });
    if (!handle) return;
    this.#handle = handle;
    show({ ...from, state: handle.state });
  }

  #show(next) {
    this.#next = next;
    this.#due ??= nextFrame().then(() => {
      this.#due = null;
      this.shown = this.#next;
      for (const listener of this.#listeners) listener();
    });
    return this.#due;
  }
}

function withTool(tools, { index, toolId, name, partialJson }) {
  if (name !== null) return [...tools, { index, toolId, name, json: partialJson }];
  const at = tools.findLastIndex((tool) => tool.index === index);
  return tools.map((tool, place) => (place === at ? { ...tool, json: tool.json + partialJson } : tool));
}

export function useStream(options = {}) {
  const [answer] = useState(() => new Answer());
  useEffect(() => {
    answer.options = options;
  });
  useEffect(answer.mount, [answer]);
  const { send, stop, resume: goOn } = answer;
  return { ...useSyncExternalStore(answer.subscribe, answer.get, () => IDLE), send, stop, resume: goOn };
}
