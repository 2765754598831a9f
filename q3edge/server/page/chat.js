// The page's start: what the reader does becomes requests, and what comes back becomes messages.

import { answer, listModels } from "./api.js";
import { addEvent, asSent, keepMessages, loadMessages, newAnswer } from "./conversation.js";
import { startKey, withKey } from "./key.js";
import { AnswerView, makeQuestion } from "./message.js";
import { requestFields, startSettings } from "./settings.js";

const TICK = 200; // milliseconds between two looks at the clock while an answer is awaited
const NEAR = 60; // CSS pixels from the end within which the view follows an answer
const element = (id) => document.getElementById(id);
const [list, scroll, text, model] = ["messages", "scroll", "text", "model"].map(element);

let messages = loadMessages();
let models = [];
let running = null; // AbortController of the answer that is coming

function send(content) {
  add({ role: "user", content });
  askForAnswer();
}

async function askForAnswer() {
  const message = newAnswer(models.length > 1 ? model.value : "");
  message.isOpening = models.find(({ id }) => id === model.value)?.loaded === false;
  const fields = { ...requestFields(asSent(messages)), ...(model.value && { model: model.value }) };
  const view = add(message);
  follow(true);
  const show = makeShow(view);
  const ticking = setInterval(show, TICK);
  const mine = setRunning(new AbortController());
  say(message.isOpening ? "Opening the model" : "Waiting for the answer");
  try {
    await withKey(async () => {
      for await (const event of answer(fields, mine.signal)) {
        addEvent(message, event);
        show();
      }
    });
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else message.problem = error.message;
  }
  clearInterval(ticking);
  message.times.ended = performance.now();
  if (running !== mine) return; // the conversation has gone on without it
  setRunning(null);
  const wasNear = isNear();
  view.update();
  follow(wasNear);
  say(message.problem ?? `Answer: ${message.content}`);
  keep();
  loadModels();
}

/** A function that shows an answer, at most once a frame. */
function makeShow(view) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      const wasNear = isNear();
      view.update();
      follow(wasNear);
    });
  };
}

function add(message) {
  messages.push(message);
  const view = append(message);
  keep();
  return view;
}

function append(message) {
  element("welcome").hidden = true;
  const place = list.childElementCount;
  if (message.role === "user") {
    list.append(makeQuestion(message, (edited) => rewind(place, () => send(edited))));
    return null;
  }
  const view = new AnswerView(message, () => rewind(place, askForAnswer));
  list.append(view.element);
  view.update();
  return view;
}

/** Forget the messages from one on, and go on from there. */
function rewind(place, then) {
  running?.abort();
  setRunning(null);
  messages = messages.slice(0, place);
  while (list.childElementCount > place) list.lastElementChild.remove();
  element("welcome").hidden = place > 0;
  keep();
  then();
}

function keep() {
  if (!keepMessages(messages)) say("This conversation is too long to survive a reload of the page.");
}

function setRunning(controller) {
  running = controller;
  element("send").hidden = running !== null;
  element("stop").hidden = running === null;
  return running;
}

/** Tell readers of the screen by ear. */
function say(sentence) {
  element("status").textContent = sentence;
}

const isNear = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;

function follow(wanted = isNear()) {
  if (wanted) scroll.scrollTop = scroll.scrollHeight;
  element("to-end").hidden = isNear();
}

async function loadModels() {
  let problem = "";
  try {
    models = await withKey(listModels);
    if (!models.length) problem = "The server has no model to chat with.";
    const chosen = models.find(({ id }) => id === model.value) ?? models[0];
    model.replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === chosen.id)));
    model.disabled = !models.length;
  } catch (error) {
    problem = error.message;
  }
  element("problem").hidden = !problem;
  element("problem").firstElementChild.textContent = problem;
}

function fitText() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

function start() {
  startSettings();
  startKey();
  messages.forEach(append);
  follow(true);
  element("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const content = text.value.trim();
    if (!content || running) return;
    text.value = "";
    fitText();
    text.focus();
    send(content);
  });
  text.addEventListener("input", fitText);
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    element("composer").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open], .editor")) running?.abort();
  });
  element("stop").addEventListener("click", () => {
    running?.abort();
    text.focus();
  });
  element("new-chat").addEventListener("click", () => rewind(0, () => text.focus()));
  element("open-settings").addEventListener("click", () => element("settings").showModal());
  element("try-again").addEventListener("click", loadModels);
  element("to-end").addEventListener("click", () => follow(true));
  scroll.addEventListener("scroll", () => (element("to-end").hidden = isNear()));
  addEventListener("pagehide", keep);
  loadModels();
}

start();
