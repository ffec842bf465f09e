// Markdown as it comes: a paper takes text in any pieces and puts it on the page, block by block.
// What a piece costs does not grow with the answer: a block that is closed is never touched again, and of the open one
// only what stands after its last settled place is parsed anew, TAIL_CHARS at most. Claude's text becomes text nodes
// only, never HTML; links go to http, https and mailto and nowhere else.

const TAIL_CHARS = 800; // parsed again at most; what is still open after that is taken literally
const BLOCK_CHARS = 4000; // then the browser lays out only the next block again
const INLINE =
  /(`+)([^]+?)\1(?!`)|\\([!-/:-@[-`{-~])|!?\[([^\]\n]*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)|(\*\*|__)(?=\S)([^]*?\S)\6|(\*|(?<!\w)_)(?=[^\s*_])([^]*?[^\s*_])\8(?![*\w])|~~(?=\S)([^]*?\S)~~|<?(https?:\/\/[^\s<>"'`)\]]*[^\s<>"'`)\].,;:!?])>?/g;
// May begin what has not ended yet.
const OPENER = /`|\*(?!\s)|(?<!\w)_(?!\s)|\[(?![^\]\n]*\][^(])|~(?=~|$)|<(?=h|$)|\\$|!$|https?:/;
const BULLET = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
// The beginning of a line of which nothing can be said yet.
const UNDECIDED = /^[ \t>]*(?:(?:[-*_+] ?)*|[-*+] \[[ xX]?\]?|#{1,6}|\d{1,9}[.)]?|[`~]{1,2}|(?:`{3}|~{3})[^\n]*|\|[^\n]*)$/;
const ROW_END = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

const make = (name, parent) => parent.appendChild(document.createElement(name));

function link(parent, words, address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    // Relative, or no address at all: it is not ours to say what it would mean here.
  }
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) {
    inline(parent, words);
    return;
  }
  const a = make("a", parent);
  Object.assign(a, { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" });
  if (words === null) a.textContent = address;
  else inline(a, words || address);
}

// Puts one stretch of text with its marks into `parent`.
function inline(parent, text) {
  let from = 0;
  const plain = (to) => to > from && parent.append(text.slice(from, to));
  for (const match of text.matchAll(INLINE)) {
    const [all, , code, escaped, words, address, , bold, , italic, struck, bare] = match;
    plain(match.index);
    from = match.index + all.length;
    if (code !== undefined) make("code", parent).textContent = code.replace(/^ ([^]*\S[^]*) $/, "$1");
    else if (escaped !== undefined) parent.append(escaped);
    else if (words !== undefined) link(parent, words, address);
    else if (bare !== undefined) link(parent, null, bare);
    else if (bold !== undefined) inline(make("strong", parent), bold);
    else if (italic !== undefined) inline(make("em", parent), italic);
    else inline(make("s", parent), struck);
  }
  plain(text.length);
}

// How much of `text` cannot change any more, whatever follows: up to the last blank before anything that is still open.
function settled(text) {
  let from = 0;
  let end = text.length;
  for (const { index, 0: all } of text.matchAll(INLINE)) {
    const open = text.slice(from, index).search(OPENER);
    if (open >= 0) {
      end = from + open;
      break;
    }
    from = index + all.length;
  }
  const open = end === text.length ? text.slice(from).search(OPENER) : -1;
  if (open >= 0) end = from + open;
  const blank = Math.max(text.lastIndexOf(" ", end - 1), text.lastIndexOf("\n", end - 1)) + 1;
  if (end > from && blank > from) return blank;
  return text.length > TAIL_CHARS ? Math.max(text.lastIndexOf(" ") + 1, from) || text.length : 0;
}

// An open mark is drawn as if it ended here, so that no bare asterisks flicker over the page.
function asIfEnded(text) {
  for (const mark of ["`", "**"]) {
    const last = text.lastIndexOf(mark) + mark.length;
    if (text.split(mark).length % 2 === 0 && /^\S([^]*\S)?$/.test(text.slice(last))) return text + mark;
  }
  return text;
}

// A run of text with marks, the tail of which is drawn again as it grows.
class Words {
  #parent;
  #tail = "";
  #drawn = []; // nodes of the tail
  #chars = 0;
  #dirty = false;
  #count;

  constructor(parent, count) {
    this.#parent = parent;
    this.#count = count;
  }

  add(text) {
    this.#tail += text;
    this.#dirty = true;
    // A huge piece is drawn in parts: what is parsed at once stays bounded too.
    while (this.#tail.length > 2 * TAIL_CHARS) this.#advance(2 * TAIL_CHARS);
  }

  draw() {
    if (!this.#dirty) return;
    this.#dirty = false;
    this.#advance(this.#tail.length);
    const parts = document.createDocumentFragment();
    inline(parts, asIfEnded(this.#tail));
    this.#count.parsed += this.#tail.length;
    this.#drawn = [...parts.childNodes];
    this.#parent.append(parts);
  }

  close() {
    for (const node of this.#drawn) node.remove();
    this.#drawn = [];
    inline(this.#parent, this.#tail);
    this.#count.parsed += this.#tail.length;
    this.#tail = "";
    this.#dirty = false;
  }

  // Moves what is settled within the first `most` characters of the tail out of it.
  #advance(most) {
    for (const node of this.#drawn) node.remove();
    this.#drawn = [];
    const head = this.#tail.slice(0, most);
    const end = settled(head);
    this.#count.parsed += head.length;
    if (!end) return;
    const parts = document.createDocumentFragment();
    inline(parts, head.slice(0, end));
    const [last, first] = [this.#parent.lastChild, parts.firstChild];
    if (last?.nodeType === Node.TEXT_NODE && first?.nodeType === Node.TEXT_NODE) {
      last.appendData(first.data);
      first.remove();
    }
    this.#parent.append(parts);
    this.#tail = this.#tail.slice(end);
    this.#chars += end;
    if (this.#chars < BLOCK_CHARS || this.#parent.tagName !== "P") return;
    this.#chars = 0;
    const next = document.createElement("p");
    next.className = "on";
    this.#parent.after(next);
    this.#parent = next;
  }
}

// The lines of a code block: text only, a new run of lines now and then.
class Code {
  #box;
  #text = null;
  #begun = false;

  constructor(box) {
    this.#box = box;
  }

  add(text) {
    if (!this.#text || (this.#text.length > BLOCK_CHARS && this.#text.data.endsWith("\n"))) {
      this.#text = make("span", this.#box).appendChild(document.createTextNode(""));
    }
    this.#text.appendData(text);
  }

  line() {
    if (this.#begun) this.add("\n");
    this.#begun = true;
  }

  draw() {}
  close() {}
}

export class Markdown {
  counts = { parsed: 0 }; // characters that went through the parser, those again included
  #root;
  #held = ""; // the beginning of a line that is undecided
  #begun = false; // the line's kind is known, and the rest of it goes to the leaf
  #leaf = null; // what takes text: Words or Code
  #kind = ""; // of the leaf: text, code, heading, row
  #fence = null; // what closes the code block
  #quotes = []; // open quotations, outermost first
  #lists = []; // open lists: { box, item, indent, ordered }
  #blank = false; // the line before was blank
  #table = null;
  #header = null; // a row that may turn out to be a table's head: { text, box }

  constructor(root) {
    this.#root = root;
  }

  add(text) {
    const lines = text.split("\n");
    lines.forEach((part, place) => this.#part(part, place < lines.length - 1));
  }

  draw() {
    this.#leaf?.draw();
  }

  // The text is over, or something else follows it.
  close() {
    if (this.#held) this.#part("", true);
    this.#leave();
    this.#quotes = [];
    this.#lists = [];
    this.#table = this.#fence = null;
    this.#begun = this.#blank = false;
  }

  #part(text, ends) {
    if (this.#begun) {
      if (text) this.#leaf.add(text);
    } else {
      this.#held += text;
      if (!ends && this.#held.length < TAIL_CHARS && this.#undecided()) return;
      const line = this.#held;
      this.#held = "";
      this.#begun = true;
      if (this.#kind === "code") this.#code(line);
      else this.#line(line, ends);
    }
    if (!ends) return;
    this.#begun = false;
    if (this.#kind === "heading") this.#leave();
  }

  #undecided() {
    if (this.#kind === "code") return this.#fence.maybe.test(this.#held);
    return UNDECIDED.test(this.#held);
  }

  #code(line) {
    if (this.#fence.ends.test(line)) {
      this.#leave();
      this.#fence = null;
      return;
    }
    this.#leaf.line();
    const strip = new RegExp(`^ {0,${this.#fence.indent}}`);
    this.#leaf.add(line.replace(strip, ""));
  }

  #line(line, ends) {
    const marks = /^(?: {0,3}> ?)+/.exec(line)?.[0] ?? "";
    this.#quote((marks.match(/>/g) ?? []).length);
    const rest = line.slice(marks.length);
    if (rest.trim() === "") {
      if (ends) this.#leave();
      else this.#say(rest);
      this.#blank ||= ends;
      this.#table = null;
      return;
    }
    const indent = /^[ \t]*/.exec(rest)[0].replace(/\t/g, "    ").length;
    const text = rest.trimStart();
    const fence = /^(`{3,}|~{3,})[ \t]*([^`]*)$/.exec(text);
    const heading = /^(#{1,6})[ \t]+/.exec(text);
    const rule = ends && /^([-*_])[ \t]*(?:\1[ \t]*){2,}$/.test(text);
    const bullet = rule ? null : BULLET.exec(rest);
    if (this.#table && text[0] !== "|") this.#table = null;
    if (bullet && (ends || bullet[3])) this.#item(bullet, indent, rest.slice(bullet[0].length));
    else if (fence) this.#openCode(fence, indent);
    else if (heading) this.#openWords(`h${heading[1].length}`, text.slice(heading[0].length), "heading", indent);
    else if (rule) {
      this.#leave();
      this.#outdent(indent);
      make("hr", this.#box());
    } else if (text[0] === "|" && ends) this.#row(text, indent);
    else if (this.#kind === "text" && !this.#blank) this.#say(`\n${text}`);
    else this.#openWords("p", this.#lists.length ? text : rest, "text", indent);
    if (!rule && !fence && text[0] !== "|") this.#header = null;
    this.#blank = false;
  }

  #say(text) {
    if (this.#leaf) this.#leaf.add(text);
    else this.#openWords("p", text, "text", 0);
  }

  #leave() {
    this.#leaf?.close();
    this.#leaf = null;
    this.#kind = "";
  }

  #box() {
    return this.#lists.at(-1)?.item ?? this.#quotes.at(-1) ?? this.#root;
  }

  #quote(depth) {
    if (depth === this.#quotes.length) return;
    this.#leave();
    this.#lists = [];
    this.#table = null;
    this.#quotes.length = Math.min(depth, this.#quotes.length);
    while (this.#quotes.length < depth) this.#quotes.push(make("blockquote", this.#box()));
  }

  // Closes the lists that a block so far to the left is not part of.
  #outdent(indent) {
    while (this.#lists.length && indent < this.#lists.at(-1).indent + 2) this.#lists.pop();
  }

  #item([, , mark, gap], indent, text) {
    this.#leave();
    let list = null;
    while (this.#lists.length && indent < this.#lists.at(-1).indent + 2) list = this.#lists.pop();
    const ordered = /\d/.test(mark);
    if (!list || list.ordered !== ordered || indent < list.indent - 1) {
      list = { box: make(ordered ? "ol" : "ul", this.#box()), indent, ordered };
      if (ordered && parseInt(mark, 10) !== 1) list.box.start = parseInt(mark, 10);
    }
    list.item = make("li", list.box);
    this.#lists.push(list);
    this.#table = null;
    const task = /^\[([ xX])\]\s/.exec(text);
    if (task) list.item.append(task[1] === " " ? "☐ " : "☑ ");
    this.#leaf = new Words(list.item, this.counts);
    this.#kind = "text";
    if (gap) this.#leaf.add(task ? text.slice(task[0].length) : text);
  }

  #openWords(name, text, kind, indent) {
    this.#leave();
    this.#outdent(indent);
    this.#leaf = new Words(make(name, this.#box()), this.counts);
    this.#kind = kind;
    this.#leaf.add(text);
  }

  #openCode([, mark, language], indent) {
    this.#leave();
    this.#outdent(indent);
    const box = make("pre", this.#box());
    box.tabIndex = 0; // it scrolls, and must do so without a mouse
    const name = language.trim().split(/\s/)[0];
    if (name) box.dataset.language = name;
    box.setAttribute("aria-label", name ? `Code, ${name}` : "Code");
    box.setAttribute("role", "group");
    this.#leaf = new Code(make("code", box));
    this.#kind = "code";
    this.#fence = {
      indent,
      ends: new RegExp(`^\\s*[${mark[0]}]{${mark.length},}\\s*$`),
      maybe: new RegExp(`^\\s*[${mark[0]}]*\\s*$`),
    };
  }

  #row(text, indent) {
    const cells = text.replace(/^\|/, "").replace(/\|\s*$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
    if (this.#table) {
      this.#cells(make("tr", this.#table), cells, "td");
    } else if (this.#header && ROW_END.test(text)) {
      this.#leave();
      const { box, header } = this.#header;
      const table = document.createElement("table");
      const frame = document.createElement("div");
      frame.className = "wide";
      frame.tabIndex = 0;
      frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", "Table");
      frame.append(table);
      box.replaceWith(frame);
      this.#cells(make("tr", make("thead", table)), header, "th");
      this.#table = make("tbody", table);
      this.#header = null;
    } else {
      this.#openWords("p", text, "text", indent);
      this.#header = { box: this.#box().lastElementChild, header: cells };
    }
  }

  #cells(row, cells, name) {
    for (const cell of cells) {
      inline(make(name, row), cell);
      this.counts.parsed += cell.length;
    }
  }
}
