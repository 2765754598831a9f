// The settings: kept in localStorage, and as fields of a request. An empty one is the server's to choose.

const KEPT = "q3edge.settings";
const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "thinking_budget"];
const input = (id) => document.getElementById(id);

/** Show what is kept, and keep what is changed. */
export function startSettings() {
  const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
  for (const id of ["system", ...NUMBERS]) input(id).value = kept[id] ?? "";
  input("thinking").checked = kept.thinking ?? true;
  input("settings").addEventListener("input", keep);
  input("thinking").addEventListener("change", keep);
  input("reset").addEventListener("click", () => {
    for (const id of ["system", ...NUMBERS]) input(id).value = "";
    keep();
  });
}

/** Whether the answer is to think. */
const thinking = () => input("thinking").checked;

/** Fields of a request for the next message of a conversation. */
export function requestFields(messages) {
  const system = input("system").value.trim();
  const fields = { messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  for (const id of NUMBERS) {
    if (input(id).value !== "" && input(id).validity.valid) fields[id] = input(id).valueAsNumber;
  }
  if (!thinking()) delete fields.thinking_budget;
  return { ...fields, chat_template_kwargs: { enable_thinking: thinking() } };
}

function keep() {
  const kept = Object.fromEntries(["system", ...NUMBERS].map((id) => [id, input(id).value]));
  localStorage.setItem(KEPT, JSON.stringify({ ...kept, thinking: thinking() }));
}
