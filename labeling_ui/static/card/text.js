// --- text from outside: only ever put into textContent ------------------------------------------

const $ = (selector) => element.querySelector(selector);
const $$ = (selector) => [...element.querySelectorAll(selector)];
// What could reorder or hide text: C0, C1, the bidirectional marks, overrides and isolates, characters
// without width (but for those that join letters), separators of lines, and tags.
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}]/u;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Verbatim: the node's textContent equals `text`, and a control character neither acts nor hides.
function setText(node, text) {
  node.replaceChildren();
  for (const part of text.split(new RegExp(`(${CONTROL.source})`, "u"))) {
    if (CONTROL.test(part)) {
      const code = "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      node.append(make("bdi", { class: "control", "data-code": code, title: code }, part));
    } else if (part) {
      node.append(part);
    }
  }
  return node;
}

const PIECE = 50_000;  // characters; a browser cannot lay out millions at once

// The text in `pre`: a very long one a piece at a time, on request.
function showText(pre, text, name) {
  if (text.length <= PIECE) return setText(pre, text);
  let shown = 0;
  const more = make("button", { type: "button", class: "link more" });
  const showMore = () => {
    const inPair = /[\ud800-\udbff]/.test(text[shown + PIECE - 1] ?? "");  // one character in two places
    const end = shown + PIECE - (inPair ? 1 : 0);
    pre.append(setText(make("span"), text.slice(shown, end)));
    shown = Math.min(end, text.length);
    more.hidden = shown === text.length;
    const [part, whole] = [shown, text.length].map((number) => number.toLocaleString("en"));
    more.textContent = `Show more of ${name} (${part} of ${whole} characters so far)`;
  };
  more.addEventListener("click", showMore);
  pre.replaceChildren();
  showMore();
  if (!more.hidden) pre.after(more);
  return pre;
}

// --- the difference of two texts, word by word ---------------------------------------------------

const MOST_CELLS = 4_000_000;  // of the table below: some 2000 words against 2000

// What turns `before` into `after`: [kind, text] with kind "same", "del" (only before) or "ins"
// (only after); null where the texts are too long. Words are compared, by a longest common
// subsequence; the space that follows a word goes with it. "same" and "ins" together are `after`.
function wordDifference(before, after) {
  const words = (text) => text.match(/^\s+|\S+\s*/gu) ?? [];
  const a = words(before), b = words(after);
  const alike = (x, y) => x.trimEnd() === y.trimEnd();
  let start = 0, end = 0;
  while (start < Math.min(a.length, b.length) && alike(a[start], b[start])) start++;
  while (end < Math.min(a.length, b.length) - start && alike(a.at(-1 - end), b.at(-1 - end))) end++;
  const rows = a.length - start - end, columns = b.length - start - end;
  if ((rows + 1) * (columns + 1) > MOST_CELLS) return null;
  const width = columns + 1;
  const longest = new Uint32Array((rows + 1) * width);  // of a[i…] and b[j…]
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      longest[i * width + j] = alike(a[start + i], b[start + j])
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const pieces = [];
  const add = (kind, text) => {
    if (pieces.at(-1)?.[0] === kind) pieces.at(-1)[1] += text;
    else if (text) pieces.push([kind, text]);
  };
  add("same", b.slice(0, start).join(""));
  let i = 0, j = 0;
  while (i < rows || j < columns) {
    if (i < rows && j < columns && alike(a[start + i], b[start + j])) {
      add("same", b[start + j++]);
      i++;
    } else if (j === columns || (i < rows && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      add("del", a[start + i++]);
    } else {
      add("ins", b[start + j++]);
    }
  }
  add("same", b.slice(b.length - end).join(""));
  return pieces;
}

function differenceNode(before, after) {
  const pieces = wordDifference(before, after);
  if (!pieces) return make("p", {}, "These two are too long to be compared word by word.");
  return make("pre", { class: "difference-text", dir: "auto" }, ...pieces.map(([kind, text]) =>
    kind === "same" ? setText(make("span"), text) : setText(make(kind), text)));
}
