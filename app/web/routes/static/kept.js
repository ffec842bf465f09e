// What the tab keeps of its run, so that a reload shows the same: the question, the times, and at the end the answer.
// sessionStorage: this tab alone, and no longer than it lives. The key is kept apart, the same way.
const RUN = "sluiceway.run";
const KEY = "sluiceway.key";
const MOST_CHARS = 1_500_000; // browsers give a site some 5 MB

function write(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, value);
  } catch {
    // No storage here, or no room: a reload only begins anew.
  }
}

export function keepRun(run) {
  const text = JSON.stringify(run);
  write(RUN, text.length > MOST_CHARS ? null : text);
}

export function keptRun() {
  try {
    return JSON.parse(sessionStorage.getItem(RUN));
  } catch {
    return null;
  }
}

export const keepKey = (key) => write(KEY, key || null);

export function keptKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

// Blanks and invisible characters, which come along where a key is copied from a page.
const ENDS = /^[\s\u200b-\u200f\u2060\u00ad]+|[\s\u200b-\u200f\u2060\u00ad]+$/g;
const UNSENDABLE = /[^\t -~\u0080-\u00ff]/;

// The key without those at its ends; null where a character is left that no header can hold.
export function sendableKey(written) {
  const key = written.replace(ENDS, "");
  return UNSENDABLE.test(key) ? null : key;
}
