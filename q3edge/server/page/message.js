// The view of one message: what was asked, or an answer with its thinking folded in front of it.

import { make, makeButton, makeCopyButton } from "./elements.js";
import { MarkdownView } from "./markdown.js";

const makeAgain = (act) => Object.assign(makeButton("Again", act), { className: "again" });
function seconds(milliseconds) {
  if (milliseconds < 100) return "less than 0.1 s";
  return `${(milliseconds / 1000).toFixed(milliseconds < 9950 ? 1 : 0)} s`;
}

/** The list item of a question; `ask` is called with an edited text. */
export function makeQuestion(message, ask) {
  const text = make("div", { className: "text" }, message.content);
  const item = make("li", { className: "question" }, text);
  const actions = make("div", { className: "actions" }, makeCopyButton(() => message.content));
  actions.append(makeButton("Edit", () => item.replaceChildren(makeEditor())));
  item.append(actions);
  return item;

  function makeEditor() {
    const area = make("textarea", { value: message.content, rows: 3, ariaLabel: "Edited message" });
    const cancel = makeButton("Cancel", () => item.replaceChildren(text, actions));
    const send = make("button", { type: "submit", className: "main" }, "Send");
    const form = make("form", { className: "editor" }, area, make("div", { className: "row" }, cancel, send));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (area.value.trim()) ask(area.value.trim());
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel.click();
    });
    requestAnimationFrame(() => area.focus());
    return form;
  }
}

/** The view of an answer, while it comes and afterwards. */
export class AnswerView {
  #message;
  #details = make("details", { className: "thinking", hidden: true });
  #summary = make("summary");
  #thought = make("div", { className: "text" });
  #waiting = make("p", { className: "waiting" });
  #content = make("div", { className: "markdown" });
  #markdown = new MarkdownView(this.#content);
  #notes = make("div", { className: "notes" });
  #actions = make("div", { className: "actions" });
  #folded = false;

  /** `again` is called to have the answer anew. */
  constructor(message, again) {
    this.#message = message;
    this.#details.append(this.#summary, this.#thought);
    const stats = make("span", { className: "stats" });
    this.#actions.append(makeCopyButton(() => message.content.trim()), makeAgain(again), stats);
    this.element = make("li", { className: "answer" }, this.#details, this.#waiting, this.#content, this.#notes);
    this.element.append(this.#actions);
  }

  /** Show the message as it is now. */
  update() {
    const { times, content } = this.#message;
    const now = times.ended ?? performance.now();
    const running = times.ended === undefined;
    this.element.setAttribute("aria-busy", String(running));
    this.#waiting.hidden = !running || times.first !== undefined;
    this.#waiting.textContent = `${this.#message.isOpening ? "Opening the model" : "Reading"}… ${seconds(now - times.asked)}`;
    this.#updateThinking(running, now);
    this.#markdown.show(content);
    this.#actions.hidden = running;
    if (!running) this.#finish();
  }

  #updateThinking(running, now) {
    const { times, thinking } = this.#message;
    const isThinking = running && times.answer === undefined;
    if (thinking && this.#details.hidden) {
      this.#details.hidden = false;
      this.#details.open = isThinking;
    }
    if (!isThinking && !this.#folded) {
      this.#folded = true;
      this.#details.open = false;
    }
    this.#details.classList.toggle("running", isThinking);
    const lasted = seconds((times.answer ?? now) - (times.first ?? now));
    this.#summary.textContent = isThinking ? `Thinking… ${lasted}` : `Thought for ${lasted}`;
    const shown = this.#thought.firstChild?.length ?? 0; // code units: the rest is appended, the selection stays
    if (!shown) this.#thought.textContent = thinking.trimStart();
    else this.#thought.firstChild.appendData(thinking.trimStart().slice(shown));
  }

  #finish() {
    const { problem, notices, finish, content, model } = this.#message;
    const notes = problem ? [make("p", { className: "problem", role: "alert" }, problem)] : [];
    const told = notices.map((notice) => `Note: ${notice}.`);
    if (finish === "length") told.unshift("The answer is cut: it reached the most tokens allowed.");
    if (finish === "stopped") told.unshift("Stopped.");
    this.#notes.replaceChildren(...notes, ...told.map((text) => make("p", {}, text)));
    this.#actions.firstElementChild.hidden = !content;
    this.#actions.lastElementChild.textContent = [...this.#measured(), model].filter(Boolean).join(" · ");
  }

  #measured() {
    const { times, timings } = this.#message;
    if (!timings || times.first === undefined) return [];
    const speed = timings.predicted_per_second;
    return [
      speed && `${speed < 99.5 ? speed.toPrecision(2) : Math.round(speed)} tokens/s`,
      `${timings.predicted_n} ${timings.predicted_n === 1 ? "token" : "tokens"}`,
      `first after ${seconds(times.first - times.asked)}`,
    ];
  }
}
