// Markdown within a line: code, strong, emphasis, struck text, links (an image is one, too). What is none of these stays as it is written.

import { make } from "./elements.js";

const DEEPEST = 8; // levels of marks in marks
const SPECIAL = /[\\`*_~[]|!\[|\bhttps?:/g;
const LINK = /!?\[([^[\]\n]{1,300})\]\((https?:\/\/[^\s()<>]{1,2000})\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`*]{1,2000}[^\s<>"'`*.,:;!?)\]]/y;
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const isWord = (character) => /[\p{L}\p{N}_]/u.test(character ?? "");
const isBlank = (character) => character === undefined || /\s/.test(character);

/** Append Markdown's text to an element. What it holds cannot make it slow: a mark that nothing closes is sought once. */
export function appendInline(parent, text, depth = 0) {
  const absent = new Set(); // marks that nothing behind closes
  let plain = "";
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    if (at === text.length) break;
    const found = readEscape(text, at) ?? readCode(text, at, absent) ?? readLink(text, at)
      ?? readMark(text, at, absent, depth);
    if (found) {
      if (plain) parent.append(plain);
      plain = "";
      parent.append(found.node);
      at = found.end;
    } else {
      plain += text[at++];
    }
  }
  if (plain) parent.append(plain);
}

function readEscape(text, at) {
  if (text[at] !== "\\" || !/[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) return null;
  return { node: text[at + 1], end: at + 2 };
}

function readCode(text, at, absent) {
  if (text[at] !== "`") return null;
  let start = at;
  while (text[start] === "`") start++;
  const fence = text.slice(at, start);
  for (let close = absent.has(fence) ? -1 : text.indexOf(fence, start); close >= 0; ) {
    let end = close;
    while (text[end] === "`") end++;
    if (end - close === fence.length) {
      return { node: make("code", {}, text.slice(start, close).replace(/^ (.+) $/s, "$1")), end };
    }
    close = text.indexOf(fence, end);
  }
  absent.add(fence);
  return { node: fence, end: start };
}

function readLink(text, at) {
  LINK.lastIndex = ADDRESS.lastIndex = at;
  const link = LINK.exec(text);
  const [address] = ADDRESS.exec(text) ?? [];
  const [label, target] = link ? link.slice(1) : [address, address];
  if (!target || !URL.canParse(target)) return null;
  return { node: makeLink(label, new URL(target)), end: link ? LINK.lastIndex : ADDRESS.lastIndex };
}

/** A link that says where it leads; the label alone is what the model made of it. */
function makeLink(label, url) {
  const link = make("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, label);
  return label.includes(url.host) ? link : make("span", {}, link, make("small", {}, ` (${url.host})`));
}

function readMark(text, at, absent, depth) {
  for (const [mark, tag] of depth < DEEPEST ? MARKS : []) {
    if (absent.has(mark) || !text.startsWith(mark, at) || isBlank(text[at + mark.length])) continue;
    if (mark[0] === "_" && isWord(text[at - 1])) continue;
    const close = findClose(text, mark, at + mark.length + 1);
    if (close < 0) {
      absent.add(mark);
      continue;
    }
    const node = make(tag);
    appendInline(node, text.slice(at + mark.length, close), depth + 1);
    return { node, end: close + mark.length };
  }
  return null;
}

function findClose(text, mark, from) {
  for (let close = text.indexOf(mark, from); close >= 0; close = text.indexOf(mark, close + mark.length)) {
    const behind = text[close + mark.length];
    if (isBlank(text[close - 1]) || (mark[0] === "_" && isWord(behind))) continue;
    if (mark.length === 1 && (behind === mark || text[close - 1] === mark)) continue;
    return mark.length === 2 && behind === mark[0] ? close + 1 : close; // of ***, the outer two
  }
  return -1;
}
