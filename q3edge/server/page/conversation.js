// The conversation: a list of messages, kept in sessionStorage, so that a reload shows it and a closed tab forgets it.
// A message is {role, content}; an answer has {thinking, model, times, timings, finish, notices, problem} too.

const KEPT = "q3edge.conversation";

/** The messages that this tab has kept. */
export function loadMessages() {
  return JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
}

/** Keep messages; false: they are too long for that. */
export function keepMessages(messages) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(messages.map(ended)));
    return true;
  } catch {
    sessionStorage.removeItem(KEPT);
    return false;
  }
}

/** A message as it is if nothing more comes. */
function ended(message) {
  if (message.role === "user" || message.times.ended !== undefined) return message;
  return { ...message, finish: "stopped", times: { ...message.times, ended: performance.now() } };
}

/** Make an answer that has not begun. */
export function newAnswer(model) {
  return { role: "assistant", content: "", thinking: "", model, times: { asked: performance.now() }, notices: [] };
}

/** Add one event of the server's stream to an answer. */
export function addEvent(message, event) {
  const [choice] = event.choices;
  const now = performance.now();
  const { reasoning_content: thinking, content } = choice?.delta ?? {};
  if (thinking || content) message.times.first ??= now;
  if (content) message.times.answer ??= now;
  message.thinking += thinking ?? "";
  message.content += content ?? "";
  if (choice?.finish_reason) message.finish = choice.finish_reason;
  if (event.timings) message.timings = event.timings;
  message.notices.push(...(event.notices ?? []).map((notice) => notice.detail));
}

/** Messages as the API takes them: without thinking, and without answers that have no text. */
export function asSent(messages) {
  return messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
}
