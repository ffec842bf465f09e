// A paper: text on the page, put there at most once a frame.
import { Markdown } from "./markdown.js";

export class Paper {
  chars = 0;
  following = true;
  #root;
  #scroll; // the element to keep at its end, as long as the reader has not scrolled away from it
  #text; // what draws the text: Markdown, or Plain once that has failed
  #after; // the element that the text stands behind; null at the top
  #words; // the text since then, as it came
  #due = false;

  constructor(root, scroll) {
    this.#root = root;
    this.#scroll = scroll;
    this.#heed();
    this.clear();
  }

  clear() {
    this.#root.replaceChildren();
    this.#begin(Markdown, null);
    this.chars = 0;
    this.following = true;
  }

  add(text) {
    this.chars += text.length;
    this.#words += text;
    this.#safely(() => this.#text.add(text));
    if (this.#due) return;
    this.#due = true;
    tick().then(() => this.flush());
  }

  // Something that is not text stands between what came and what comes.
  put(element) {
    this.end();
    this.#root.append(element);
    this.#begin(this.#text.constructor, element);
  }

  toStart() {
    this.following = false;
    this.#scroll.scrollTop = 0;
  }

  toEnd() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  flush() {
    this.#due = false;
    this.#safely(() => this.#text.draw());
    if (this.following) this.toEnd();
  }

  end() {
    this.#safely(() => this.#text.close());
  }

  #begin(Kind, after) {
    this.#text = new Kind(this.#root);
    this.#after = after;
    this.#words = "";
  }

  // Whatever is wrong with the drawing of a text, the answer goes on: the text then stands here as it came.
  #safely(draw) {
    try {
      draw();
    } catch (error) {
      reportError(error);
      while (this.#root.lastChild !== this.#after) this.#root.lastChild.remove();
      this.#text = new Plain(this.#root);
      this.#text.add(this.#words);
    }
  }

  // Only the reader's own hand ends the following: blocks that are laid out late move the end as well.
  #heed() {
    const box = this.#scroll;
    let handAt = -Infinity;
    for (const hand of ["wheel", "touchmove", "pointerdown", "keydown"]) {
      box.addEventListener(hand, () => (handAt = performance.now()), { passive: true });
    }
    box.addEventListener("scroll", () => {
      const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
      if (atEnd || performance.now() - handAt < 1000) this.following = atEnd;
    });
  }
}

// Text as it came.
class Plain {
  #text = document.createTextNode("");

  constructor(root) {
    root.appendChild(document.createElement("p")).append(this.#text);
  }

  add(text) {
    this.#text.appendData(text);
  }

  draw() {}
  close() {}
}

// Resolves at the next frame, or soon where there are no frames.
export function tick() {
  return new Promise((resolve) => {
    const timer = setTimeout(ready, 100);
    const frame = requestAnimationFrame(ready);
    function ready() {
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      resolve(performance.now());
    }
  });
}
