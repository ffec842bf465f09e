// The marks within a run of text: code, links, emphasis, as nodes. Claude's text becomes text nodes only, never HTML;
// links go to http, https and mailto and nowhere else.
// What a mark means is decided by the WINDOW characters from it on, and only once these have come or the text is over.
// So it means the same however the text was cut, and costs the same however long the text is. What means nothing is text.

export const WINDOW = 800;
const DEEPEST = 8; // marks within marks; deeper ones are text
const OPEN = -1; // not decided yet

const SPECIAL = /[\\`*_~[<]|!(?=\[|$)|h(?=ttps?:\/\/|t{0,2}p?s?:?\/?$)/g;
const LINK = /!?\[([^\]\n]*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:[ \t]+"([^"\n]*)")?[ \t]*\)/y;
const LINK_BEGUN = /!?(?:\[(?:[^\]\n]*(?:\](?:\([^\n]*)?)?)?)?$/y;
const BARE = /https?:\/\/[^\s<>"'`)\]]+/y;
const ANGLE = /<(https?:\/\/[^\s<>]+)>/y;
const ANGLE_BEGUN = /<(?:h(?:t(?:t(?:p(?:s?(?::(?:\/(?:\/[^\s<>]*)?)?)?)?)?)?)?)?$/y;
const WORD = /[\p{L}\p{N}_]/u;
const EMPHASIS = { "*": [[], ["em"], ["strong"], ["strong", "em"]], _: [[], ["em"], ["strong"], ["strong", "em"]], "~": [[], [], ["s"], []] };

export const make = (name, parent) => parent.appendChild(document.createElement(name));

// Puts `text` into `parent`; returns how much of it is settled, which is all of it where the text has `ended`.
// `before` is the character in front of it; `linked` says that it stands within a link, `depth` within how many marks.
export function inline(parent, text, { ended = true, before = "", linked = false, depth = 0 } = {}) {
  const clear = {}; // by mark: up to here nothing closes it; else a text of openers would be searched in square time
  let plain = "";
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const special = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, special);
    at = special;
    if (at === text.length) break;
    const window = text.slice(at, at + WINDOW);
    const open = !ended && window.length < WINDOW;
    const mark = READERS[window[0]](window, { at, open, clear, before: text[at - 1] ?? before, linked, depth });
    if (mark === OPEN) break;
    if (typeof mark === "number") {
      plain += window.slice(0, mark);
      at += mark;
      continue;
    }
    if (mark.node) {
      if (plain) parent.append(plain);
      plain = "";
      parent.append(mark.node);
    } else {
      plain += mark.text;
    }
    at += mark.size;
  }
  if (plain) parent.append(plain);
  return at;
}

// Each reads the mark that a window begins with: OPEN; how many characters of it are mere text; or a mark of so many
// characters, with its node or its text.
const READERS = { "\\": escaped, "`": code, "*": emphasis, _: emphasis, "~": emphasis, "[": link, "!": link, "<": angled, h: bare };

function escaped(window, { open }) {
  if (window.length === 1) return open ? OPEN : 1;
  return /[!-/:-@[-`{-~]/.test(window[1]) ? { size: 2, text: window[1] } : 1;
}

function run(text, from = 0) {
  let to = from + 1;
  while (text[to] === text[from]) to += 1;
  return to - from;
}

// The first run of the character a window begins with, after the one it begins with, that `closes`: its place and size,
// and where it ends. OPEN where that may come yet; null where it will not.
function closing(window, size, { at, open, clear }, closes) {
  const key = window.slice(0, size);
  let known = window.length; // nothing closes before it
  for (let from = Math.max(size, (clear[key] ?? 0) - at), to; ; from = to) {
    const place = window.indexOf(window[0], from);
    if (place < 0) break;
    to = place + run(window, place);
    if (to === window.length) {
      if (open) return OPEN; // the run may go on
      known = place;
    }
    if (closes(to - place, window[place - 1], window[to] ?? "")) return { place, to };
  }
  if (open) return OPEN;
  clear[key] = at + known;
  return null;
}

function code(window, context) {
  const size = run(window);
  const end = closing(window, size, context, (other) => other === size);
  if (end === OPEN || end === null) return end ?? size;
  const words = window.slice(size, end.place);
  const padded = words.trim() && words[0] === " " && words.at(-1) === " ";
  const node = document.createElement("code");
  node.textContent = padded ? words.slice(1, -1) : words;
  return { size: end.to, node };
}

function emphasis(window, context) {
  const mark = window[0];
  const size = run(window);
  if (size === window.length) return context.open ? OPEN : size;
  const names = EMPHASIS[mark][size] ?? [];
  const { before, linked, depth } = context;
  if (!names.length || depth === DEEPEST || /\s/.test(window[size]) || (mark === "_" && WORD.test(before))) return size;
  const inWord = mark === "_" || size === 1; // as in 2*3*4 and snake_case
  const fits = (other) => other === size || (other === 3 && mark !== "~"); // three close one and two as well
  const end = closing(window, size, context, (other, last, next) => fits(other) && !/[\s\\]/.test(last) && !(inWord && WORD.test(next)));
  if (end === OPEN || end === null) return end ?? size;
  const node = document.createElement(names[0]);
  const inner = names[1] ? make(names[1], node) : node;
  inline(inner, window.slice(size, end.to - size), { before: mark, linked, depth: depth + 1 });
  return { size: end.to, node };
}

function link(window, { open, linked, depth }) {
  const [all, words, address, title] = matched(LINK, window) ?? [];
  if (all === undefined) return open && matched(LINK_BEGUN, window) ? OPEN : 1;
  const node = linked || depth === DEEPEST ? null : anchor(address, title);
  if (node === null) return 1; // relative, or no address: the words are shown, and what was to be behind them
  inline(node, words, { linked: true, depth: depth + 1 });
  if (!words) node.textContent = address;
  return { size: all.length, node };
}

function angled(window, { open, linked }) {
  const [all, address] = matched(ANGLE, window) ?? [];
  if (all === undefined) return open && matched(ANGLE_BEGUN, window) ? OPEN : 1;
  const node = linked ? null : anchor(address);
  if (node === null) return 1;
  node.textContent = address;
  return { size: all.length, node };
}

function bare(window, { open, before, linked }) {
  const end = matched(BARE, window)?.[0].length ?? 0;
  if (end === 0) return open && window.length <= "https://".length ? OPEN : 1;
  if (end === window.length && open) return OPEN;
  if (end === WINDOW || linked || WORD.test(before)) return end;
  let size = end;
  while (".,;:!?".includes(window[size - 1])) size -= 1; // these are the sentence's
  const address = window.slice(0, size);
  const node = anchor(address);
  if (node === null) return end;
  node.textContent = address;
  return { size, node };
}

function matched(pattern, window) {
  pattern.lastIndex = 0;
  return pattern.exec(window);
}

// A link to an address; null where that is none, or none for a link: it is not ours to say what it would mean here.
function anchor(address, title) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  const a = document.createElement("a");
  return Object.assign(a, { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, title && { title });
}
