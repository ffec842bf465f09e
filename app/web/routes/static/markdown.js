// Markdown as it comes: a paper takes text in any pieces and puts it on the page, block by block.
// What a piece costs does not grow with the answer: a block that is closed is never touched again, and of the open one
// only what stands after its last settled place is parsed anew, some WINDOW characters. What a line is, is decided at the
// first character that tells, so that the same text becomes the same page however it was cut.
import { WINDOW, inline, make } from "./marks.js";

const BLOCK_CHARS = 4000; // then the browser lays out only the next block again
const DEEPEST = 16; // quotations, and lists within lists; deeper ones are text, or stand beside
const BULLET = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
const QUOTES = new RegExp(`^(?: {0,3}> ?){0,${DEEPEST}}`);
const IN_ITEM = /^ *> ?/; // a quotation within a list
const FENCE = /^(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^(#{1,6})[ \t]+/;
const RULE = /^([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = / {0,3}> ?/y;
// The beginning of a line of which nothing can be said yet.
const UNDECIDED = /^[ \t>]*(?:(?:[-*_+] ?)*|[-*+] \[[ xX]?\]?|#{1,6}|\d{1,9}[.)]?|[`~]{1,2}|(?:`{3}|~{3})[^\n]*|\|[^\n]*)$/;

// An open mark is drawn as if it ended here, so that no bare asterisks flicker over the page.
function asIfEnded(text) {
  for (const mark of ["`", "**"]) {
    const last = text.lastIndexOf(mark) + mark.length;
    if (text.split(mark).length % 2 === 0 && /\S/.test(text[last] ?? "") && /\S/.test(text.at(-1))) return text + mark;
  }
  return text;
}

// How many of at most `most` quotations a line is marked with, and where the marks end.
function quoted(line, most) {
  let count = 0;
  let end = 0;
  for (QUOTE.lastIndex = 0; count < most && QUOTE.test(line); count += 1) end = QUOTE.lastIndex;
  return [count, end];
}

// A run of text with marks, the tail of which is drawn again as it grows.
class Words {
  #parent;
  #tail = "";
  #before = ""; // the character in front of the tail
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
    while (this.#tail.length > 2 * WINDOW) this.#advance(2 * WINDOW);
  }

  draw() {
    if (!this.#dirty) return;
    this.#dirty = false;
    this.#advance(this.#tail.length);
    const parts = document.createDocumentFragment();
    this.#parse(parts, asIfEnded(this.#tail), true);
    this.#drawn = [...parts.childNodes];
    this.#parent.append(parts);
  }

  close() {
    this.#undraw();
    this.#parse(this.#parent, this.#tail, true);
    this.#tail = "";
    this.#dirty = false;
  }

  #undraw() {
    for (const node of this.#drawn) node.remove();
    this.#drawn = [];
  }

  #parse(parent, text, ended) {
    this.#count.parsed += text.length;
    return inline(parent, text, { ended, before: this.#before });
  }

  // Moves what is settled within the first `most` characters of the tail out of it: up to a blank, so that a paragraph is
  // divided between words; beyond WINDOW characters there is always something to move.
  #advance(most) {
    this.#undraw();
    const blank = Math.max(this.#tail.lastIndexOf(" ", most - 1), this.#tail.lastIndexOf("\n", most - 1)) + 1;
    if (!blank && most <= WINDOW) return;
    let to = blank > WINDOW || most <= WINDOW ? blank : most;
    if (/[\uD800-\uDBFF]/.test(this.#tail[to - 1])) to -= 1; // the other half of the character comes
    const parts = document.createDocumentFragment();
    const end = this.#parse(parts, this.#tail.slice(0, to), false);
    if (!end) return;
    const [last, first] = [this.#parent.lastChild, parts.firstChild];
    if (last?.nodeType === Node.TEXT_NODE && first?.nodeType === Node.TEXT_NODE) {
      last.appendData(first.data);
      first.remove();
    }
    this.#parent.append(parts);
    this.#before = this.#tail[end - 1];
    this.#tail = this.#tail.slice(end);
    this.#chars += end;
    if (this.#chars < BLOCK_CHARS || this.#parent.tagName !== "P" || /\S/.test(this.#before)) return;
    this.#chars = 0;
    const next = document.createElement("p");
    next.className = "on";
    next.dir = this.#parent.dir;
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

// A block whose direction is that of its first letter, for all that is in it: what has a direction of its own would not
// count for the block around it, and a list's marks and a quotation's line would stand on the wrong side.
function block(name, parent) {
  const made = make(name, parent);
  if (!parent.closest("[dir]")) made.dir = "auto";
  return made;
}

export class Markdown {
  counts = { parsed: 0 }; // characters that went through the parser, those again included
  #root;
  #held = ""; // the beginning of a line that is undecided
  #begun = false; // the line's kind is known, and the rest of it goes to the leaf
  #leaf = null; // what takes text: Words or Code
  #kind = ""; // of the leaf: text, code, heading, row
  #fence = null; // what closes the code block
  #quoted = null; // the open quotation within a list's item
  #quotes = []; // open quotations, outermost first
  #lists = []; // open lists: { box, item, indent, ordered }
  #blank = false; // the line before was blank
  #table = null;
  #header = null; // a row that may turn out to be a table's head: { text, box }

  constructor(root) {
    this.#root = root;
  }

  add(text) {
    for (let from = 0, end; from < text.length; from = end + 1) {
      end = text.indexOf("\n", from);
      this.#part(text.slice(from, end < 0 ? text.length : end));
      if (end < 0) break;
      this.#endLine();
    }
  }

  draw() {
    this.#leaf?.draw();
  }

  // The text is over, or something else follows it.
  close() {
    if (this.#held) this.#endLine();
    this.#leave();
    this.#quotes = [];
    this.#lists = [];
    this.#table = this.#header = this.#fence = null;
    this.#begun = this.#blank = false;
  }

  // A part of a line, without its end.
  #part(text) {
    let taken = 0;
    while (!this.#begun && taken < text.length) {
      this.#held += text[taken];
      taken += 1;
      if (this.#held.length === WINDOW || !this.#undecided()) this.#begin(false);
    }
    if (taken < text.length) this.#leaf.add(text.slice(taken));
  }

  #endLine() {
    if (!this.#begun) this.#begin(true);
    this.#begun = false;
    if (this.#kind === "heading") this.#leave();
  }

  // What the line is has been found out; `whole` says that there is no more of it than what was held.
  #begin(whole) {
    const line = this.#held;
    this.#held = "";
    this.#begun = true;
    if (this.#kind === "code") this.#code(line, whole);
    else this.#line(line, whole);
  }

  #undecided() {
    if (this.#kind !== "code") return UNDECIDED.test(this.#held);
    const [count, end] = quoted(this.#held, this.#quotes.length);
    const rest = this.#held.slice(end);
    if (count === this.#quotes.length) return this.#fence.maybe.test(rest);
    if (/^ {0,3}$/.test(rest)) return true;
    this.#endCode();
    return UNDECIDED.test(this.#held);
  }

  // Each line of a code block has the marks of the quotations that it is in; one that has fewer ends it.
  #code(line, whole) {
    const [count, end] = quoted(line, this.#quotes.length);
    if (count < this.#quotes.length) {
      this.#endCode();
      this.#line(line, whole);
      return;
    }
    const rest = line.slice(end);
    if (whole && this.#fence.ends.test(rest)) {
      this.#endCode();
      return;
    }
    this.#leaf.line();
    const strip = new RegExp(`^ {0,${this.#fence.indent}}`);
    this.#leaf.add(rest.replace(strip, ""));
  }

  #endCode() {
    this.#leave();
    this.#fence = null;
  }

  #line(line, whole) {
    const aside = IN_ITEM.exec(line)?.[0] ?? "";
    if (this.#lists.length && !this.#quotes.length && aside.indexOf(">") >= this.#lists.at(-1).indent + 2) {
      this.#aside(line.slice(aside.length), aside.indexOf(">"), whole);
      return;
    }
    const marks = QUOTES.exec(line)[0];
    this.#quote(marks.split(">").length - 1);
    const rest = line.slice(marks.length);
    const text = rest.trimStart();
    if (text[0] !== "|" || !whole) this.#table = this.#header = null;
    if (!text) {
      if (whole) this.#leave();
      else this.#say(rest);
      this.#blank ||= whole;
      return;
    }
    const indent = rest.slice(0, -text.length).replaceAll("\t", "    ").length;
    const fence = whole && FENCE.exec(text);
    const heading = HEADING.exec(text);
    const bullet = BULLET.exec(rest);
    if (whole && RULE.test(text)) {
      this.#leave();
      this.#outdent(indent);
      make("hr", this.#box());
    } else if (bullet && (whole || bullet[3])) this.#item(bullet, indent, rest.slice(bullet[0].length));
    else if (fence) this.#openCode(fence, indent);
    else if (heading) this.#openWords(`h${heading[1].length}`, text.slice(heading[0].length), "heading", indent);
    else if (whole && text[0] === "|") this.#row(text, indent);
    else if (this.#kind === "text" && !this.#blank) this.#say(`\n${text}`);
    else this.#openWords("p", this.#lists.length ? text : rest, "text", indent);
    this.#blank = false;
  }

  // A quotation within a list's item holds text; whatever else is in it is text too.
  #aside(text, indent, whole) {
    const goesOn = this.#kind === "aside";
    if (goesOn && this.#leaf && text.trim()) {
      this.#leaf.add(`\n${text}`);
      return;
    }
    this.#leave();
    this.#kind = "aside";
    if (goesOn && whole && !text.trim()) return;
    this.#outdent(indent);
    if (!goesOn) this.#quoted = block("blockquote", this.#box());
    this.#leaf = new Words(block("p", this.#quoted), this.counts);
    this.#leaf.add(text);
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
    this.#table = this.#header = null;
    this.#quotes.length = Math.min(depth, this.#quotes.length);
    while (this.#quotes.length < depth) this.#quotes.push(block("blockquote", this.#box()));
  }

  // Closes the lists that a block so far to the left is not part of.
  #outdent(indent) {
    while (this.#lists.length && indent < this.#lists.at(-1).indent + 2) this.#lists.pop();
  }

  #item([, , mark, gap], indent, text) {
    this.#leave();
    let list = null;
    while (this.#lists.length === DEEPEST || indent < this.#lists.at(-1)?.indent + 2) list = this.#lists.pop();
    const ordered = /\d/.test(mark);
    if (!list || list.ordered !== ordered || indent < list.indent - 1) {
      list = { box: block(ordered ? "ol" : "ul", this.#box()), indent, ordered };
      if (ordered && parseInt(mark, 10) !== 1) list.box.start = parseInt(mark, 10);
    }
    list.item = block("li", list.box);
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
    this.#leaf = new Words(block(name, this.#box()), this.counts);
    this.#kind = kind;
    this.#leaf.add(text);
  }

  #openCode([, mark, language], indent) {
    this.#leave();
    this.#outdent(indent);
    const frame = make("div", this.#box());
    frame.className = "code";
    frame.dir = "ltr";
    const name = language.trim(); // and whatever else is said there
    const title = make("span", frame);
    title.textContent = name;
    const button = make("button", frame);
    Object.assign(button, { type: "button", className: "copy-code", textContent: "Copy" });
    button.setAttribute("aria-label", name ? `Copy the code, ${name}` : "Copy the code");
    const box = make("pre", frame);
    box.tabIndex = 0; // it scrolls, and must do so without a mouse
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
    const bars = text.replace(/^\|/, "").replace(/\|\s*$/, "").split(/(?<!\\)\|/);
    const cells = bars.map((cell) => cell.trim().replaceAll("\\|", "|"));
    if (this.#table) {
      this.#cells(make("tr", this.#table), cells, "td");
    } else if (this.#header && cells.every((cell) => /^:?-+:?$/.test(cell))) {
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
      inline(block(name, row), cell);
      this.counts.parsed += cell.length;
    }
  }
}
