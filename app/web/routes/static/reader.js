// The reader: a slider says how fast it takes the text.
import { tick } from "./paper.js";

const SLOWEST_CHARS_S = 5;
const FASTEST_CHARS_S = 2000;

const slider = document.getElementById("speed");

// Characters a second: 0 holds still, Infinity takes what comes. Between them the slider is logarithmic.
export function speed() {
  const value = Number(slider.value);
  if (value === 0) return 0;
  if (value === 100) return Infinity;
  const rate = SLOWEST_CHARS_S * (FASTEST_CHARS_S / SLOWEST_CHARS_S) ** ((value - 1) / 98);
  return rate < 100 ? Math.round(rate) : Math.round(rate / 10) * 10;
}

export function speedInWords() {
  const value = speed();
  return value === 0 ? "hold still" : value === Infinity ? "no limit" : `${value.toLocaleString("en")} characters/s`;
}

export function toFullSpeed() {
  slider.value = 100;
  slider.dispatchEvent(new Event("input"));
}

// Puts a text on the paper at the reader's speed. While this is pending nothing is pulled from the stream.
export async function read(text, paper, handle) {
  let from = 0;
  let allowance = 0;
  let before = performance.now();
  while (from < text.length && handle.state !== "aborted") {
    if (speed() === Infinity) {
      paper.add(text.slice(from));
      return;
    }
    const now = await tick();
    allowance += (Math.min(speed(), FASTEST_CHARS_S) * (now - before)) / 1000;
    before = now;
    let to = Math.min(text.length, from + Math.floor(allowance));
    if (to < text.length && to > from && /[\uD800-\uDBFF]/.test(text[to - 1])) to -= 1; // never half a code point
    allowance -= to - from;
    if (to > from && handle.state !== "aborted") paper.add(text.slice(from, to));
    from = to;
  }
}
