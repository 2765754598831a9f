// Markdown as models write it, made into elements while it comes. There is no HTML in it, and there are no images.

import { make, makeCopyButton } from "./elements.js";
import { appendInline } from "./inline.js";

const DEEPEST = 8; // levels of lists and quotes
const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(?=\S)/;
const DELIMITERS = /^\|? *:?-+:? *(?:\| *:?-+:? *)*\|?$/;

/** A Markdown text in an element. Blocks that have not changed since the last `show` stay the elements they are. */
export class MarkdownView {
  #element;
  #sources = [];

  constructor(element) {
    this.#element = element;
  }

  /** Show a text. */
  show(text) {
    const blocks = splitBlocks(text.split("\n"));
    const same = blocks.findIndex((block, index) => block.source !== this.#sources[index]);
    const kept = same < 0 ? blocks.length : same;
    while (this.#element.childElementCount > kept) this.#element.lastElementChild.remove();
    for (const block of blocks.slice(kept)) this.#element.append(block.make(0));
    this.#sources = blocks.map((block) => block.source);
  }
}

/** Cut lines into blocks: {source, make(depth)}. */
function splitBlocks(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const read = [readFence, readHeading, readRule, readQuote, readList, readTable, readParagraph];
    const [end, makeBlock] = read.reduce((found, reader) => found ?? reader(lines, at), null);
    blocks.push({ source: lines.slice(at, end).join("\n"), make: makeBlock });
    at = end;
  }
  return blocks;
}

function appendBlocks(parent, lines, depth) {
  if (depth >= DEEPEST) parent.append(make("p", {}, lines.join("\n")));
  else for (const block of splitBlocks(lines)) parent.append(block.make(depth));
  return parent;
}

/** Index of the first line from `at` on for which `test` holds, or the number of lines. */
function findLine(lines, at, test) {
  while (at < lines.length && !test(lines[at])) at++;
  return at;
}

function readFence(lines, at) {
  const [, indent, fence, language] = FENCE.exec(lines[at]) ?? [];
  if (!fence) return null;
  const isEnd = (line) => {
    const found = line.trim();
    return found.length >= fence.length && found === fence[0].repeat(found.length);
  };
  const end = findLine(lines, at + 1, isEnd);
  const code = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent.length, line.search(/\S|$/))));
  return [Math.min(end + 1, lines.length), () => makeCode(code.join("\n"), language)];
}

function makeCode(code, language) {
  const head = make("div", {}, make("span", {}, language || "text"), makeCopyButton(() => code));
  return make("div", { className: "code" }, head, make("pre", { tabIndex: 0 }, make("code", {}, code)));
}

function readHeading(lines, at) {
  const [, marks, text] = HEADING.exec(lines[at]) ?? [];
  if (!marks) return null;
  return [at + 1, () => inlineOf(`h${Math.min(marks.length + 2, 6)}`, text.replace(/\s#+\s*$/, ""))];
}

function readRule(lines, at) {
  return RULE.test(lines[at]) ? [at + 1, () => make("hr")] : null;
}

function readQuote(lines, at) {
  if (!QUOTE.test(lines[at])) return null;
  const end = findLine(lines, at, (line) => !QUOTE.test(line));
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [end, (depth) => appendBlocks(make("blockquote"), inner, depth + 1)];
}

function readList(lines, at) {
  const first = ITEM.exec(lines[at]);
  if (!first) return null;
  const ordered = /\d/.test(first[2]);
  const isItem = (line) => {
    const item = ITEM.exec(line);
    return item !== null && item[1].length <= first[1].length + 1 && /\d/.test(item[2]) === ordered;
  };
  const items = [];
  let end = at;
  while (end < lines.length && isItem(lines[end])) {
    const width = ITEM.exec(lines[end])[0].length;
    const start = end;
    end = endOfItem(lines, end + 1, first[1].length);
    items.push([lines[start].slice(width), ...lines.slice(start + 1, end).map((line) => dedent(line, width))]);
    const next = findLine(lines, end, (line) => line.trim());
    if (next < lines.length && isItem(lines[next])) end = next;
  }
  return [end, (depth) => {
    const list = make(ordered ? "ol" : "ul", ordered ? { start: Number.parseInt(first[2], 10) } : {});
    list.append(...items.map((item) => appendBlocks(make("li"), item, depth + 1)));
    return list;
  }];
}

/** Where an item ends: at another item of its level, at a block, or at a line behind a blank one that is not indented. */
function endOfItem(lines, at, indent) {
  for (; at < lines.length; at++) {
    const line = lines[at];
    const depth = line.search(/\S/);
    if (depth < 0) {
      const next = findLine(lines, at, (each) => each.trim());
      if (next === lines.length || lines[next].search(/\S/) <= indent) return at;
      at = next;
    } else if (depth <= indent + 1 && (ITEM.test(line) || startsBlock(line))) {
      return at;
    }
  }
  return at;
}

const dedent = (line, width) => line.slice(Math.min(width, line.search(/\S|$/)));
const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);

function readTable(lines, at) {
  if (!lines[at].includes("|") || !DELIMITERS.test(lines[at + 1]?.trim() ?? "")) return null;
  const head = cellsOf(lines[at]);
  const aligned = cellsOf(lines[at + 1]).map(alignmentOf);
  if (aligned.length !== head.length) return null;
  const end = findLine(lines, at + 2, (line) => !line.includes("|"));
  const row = (tag, cells) => {
    const made = head.map((_, index) => inlineOf(tag, cells[index] ?? ""));
    made.forEach((cell, index) => (cell.style.textAlign = aligned[index]));
    return make("tr", {}, ...made);
  };
  return [end, () => {
    const rows = lines.slice(at + 2, end).map((line) => row("td", cellsOf(line)));
    const table = make("table", {}, make("thead", {}, row("th", head)), make("tbody", {}, ...rows));
    return make("div", { className: "table", tabIndex: 0 }, table);
  }];
}

function alignmentOf(delimiter) {
  if (!delimiter.endsWith(":")) return "start";
  return delimiter.startsWith(":") ? "center" : "end";
}

const cellsOf = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

function readParagraph(lines, at) {
  const end = findLine(lines, at + 1, (line) => !line.trim() || startsBlock(line) || ITEM.test(line));
  return [end, () => inlineOf("p", lines.slice(at, end).map((line) => line.trim()).join("\n"))];
}

function inlineOf(tag, text) {
  const element = make(tag);
  appendInline(element, text);
  return element;
}
