// How a run stands, from what was heard of it and when: all words on the page follow from this, and none from hope.
// No clock and no page in here: `now` comes in, in milliseconds of the page's time.
import { heldShare, isStale } from "./gauges.js";

const SILENT_MS = 3000; // without a word of the service, though it was asked
const QUIET_MS = 3000; // without anything from Claude
const ASLEEP_MS = 2000; // between two looks: the page itself was away, which says nothing of the network
const UNTOLD_MS = 3000; // after a gap; then nobody says how far the answer is, and what comes is taken for new
export const STILL = 0.8; // of the time between two figures

const sum = ({ text, thinking, input_json: tool }, withThinking) => text + tool + (withThinking ? thinking : 0);

export class Standing {
  figures = null; // the service's last ones
  share = 0; // of the time between the last two that Claude was held still
  gone = false; // the service has no such stream any more: Claude has finished
  silent = false; // nothing is heard of the service, though it was asked
  behind; // what comes was written before: after a gap, until the page has what there was at its end
  #startedAt;
  #lookedAt;
  #heardAt;
  #movedAt; // when Claude's count went up
  #askedAt = null; // the first request for figures since the last answer
  #bytes = 0;
  #backAt = null; // when the gap ended
  #goal = null; // characters on the page, then it has caught up
  #withThinking = false;

  // `again`: the answer began before this page did.
  constructor(now, { again = false, figures = null } = {}) {
    this.#startedAt = this.#lookedAt = this.#heardAt = this.#movedAt = now;
    this.behind = again;
    this.figures = figures;
  }

  asked(now) {
    this.#askedAt ??= now;
  }

  heard() {
    this.#askedAt = null;
  }

  // What the service said to a request of `askedAt`: figures, or null where it has no such stream.
  answered(figures, askedAt) {
    this.heard();
    this.gone = figures === null;
    if (this.gone) return;
    const before = this.figures;
    if (!before || before.generated_tokens !== figures.generated_tokens || figures.paused) this.#movedAt = figures.at;
    // What Claude did in a gap says nothing of how it is held now, nor does a single moment.
    this.share = before && !(this.behind && this.#goal === null) ? heldShare(figures, before) : 0;
    this.figures = figures;
    if (this.behind && this.#backAt !== null && askedAt >= this.#backAt)
      this.#goal ??= sum(figures.generated_chars, this.#withThinking);
  }

  // Takes a look: the stream's bytes so far, its characters on the page, whether the connection is known to be lost, and
  // whether the service was reached at all.
  look({ now, bytes, chars, lost, connecting, withThinking }) {
    this.#withThinking = withThinking;
    const asleep = now - this.#lookedAt > ASLEEP_MS;
    this.#lookedAt = now;
    if (bytes !== this.#bytes || asleep || lost) this.#heardAt = now;
    this.#bytes = bytes;
    if (asleep && this.#askedAt !== null) this.#askedAt = now;
    const asked = connecting ? this.#startedAt : (this.#askedAt ?? Infinity);
    this.silent = !lost && now - Math.max(asked, this.#heardAt) > SILENT_MS;
    if (lost || asleep || (this.silent && !connecting)) this.#fall();
    else if (this.behind) this.#catchUp(now, chars);
  }

  #fall() {
    this.behind = true;
    this.#backAt = this.#goal = null;
  }

  #catchUp(now, chars) {
    this.#backAt ??= now;
    if (this.gone) return; // all of the rest was written before
    if (this.#goal === null ? now - this.#backAt > UNTOLD_MS : chars >= this.#goal) this.behind = false;
  }

  isStale(now) {
    return this.figures !== null && !this.gone && isStale(this.figures, now);
  }

  // Whether the service said just now that Claude stands still.
  isStill(now) {
    return this.figures !== null && !this.gone && this.share >= STILL && !this.isStale(now);
  }

  // For how long Claude has sent nothing, though nobody holds it; 0 while it does, and where that is not known.
  quietMs(now) {
    const known = this.figures?.reader === "attached" && !this.gone && !this.isStale(now);
    const ms = now - this.#movedAt;
    return known && ms > QUIET_MS ? ms : 0;
  }

  // Of what the page lacks, as the service counts it.
  missing(chars) {
    const all = sum(this.figures.generated_chars, true);
    const lacking = Math.max(0, sum(this.figures.generated_chars, this.#withThinking) - chars);
    return all ? (this.figures.generated_tokens * lacking) / all : 0;
  }
}

// The one word for a run that its chip says.
export function stateOf({ handle, ended, firstAt, standing }, speed) {
  if (ended) return ended;
  if (handle.state === "reconnecting" || handle.state === "detached") return handle.state;
  if (standing.silent) return "silent";
  if (firstAt === null) return handle.state === "connecting" ? "connecting" : "waiting";
  if (speed === 0) return "held";
  return standing.behind ? "behind" : "open";
}

// How fast what is new comes: characters a second in the last two seconds. What was written before, or comes at once after
// a standstill, is not counted.
const WINDOW_MS = 2000;

export class Pace {
  #seen = []; // [time, characters], oldest first
  #movedAt = 0;

  // Null while it cannot be told.
  look(now, chars, behind) {
    const [, last] = this.#seen.at(-1) ?? [now, chars];
    const standstill = chars !== last && now - this.#movedAt > WINDOW_MS;
    if (behind || standstill || !chars) this.#seen = [];
    if (chars !== last || !this.#seen.length) this.#movedAt = now;
    this.#seen.push([now, chars]);
    while (this.#seen.length > 2 && now - this.#seen[0][0] > WINDOW_MS) this.#seen.shift();
    const [since, already] = this.#seen[0];
    return now - since < 400 ? null : (1000 * (chars - already)) / (now - since);
  }
}
