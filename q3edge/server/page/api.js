// The server's API: its models, and answers as they come. What fails is a Failure, which says it in a sentence.

const KEY = "q3edge.key"; // of sessionStorage: gone with the tab

/** A request that failed: a sentence for the reader, and the HTTP status (0: there was no answer). */
export class Failure extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** The models that can be talked to: [{id, loaded}]. */
export async function listModels() {
  const models = (await (await request("v1/models")).json()).data;
  return models.filter((model) => model.kind === "language");
}

/** Events of an answer, chat.completion.chunk objects, as they come; `signal` ends it. */
export async function* answer(fields, signal) {
  const body = JSON.stringify({ ...fields, stream: true });
  const response = await request("v1/chat/completions", { method: "POST", body, signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Failure(`The answer ended early: ${event.error.message}.`, 500);
    yield event;
  }
  throw new Failure("The connection ended before the answer did.");
}

async function request(path, options = {}) {
  const headers = options.body ? { "content-type": "application/json" } : {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  const response = await reached(fetch(path, { ...options, headers, cache: "no-store" }));
  if (!response.ok) throw new Failure(await sentence(response), response.status);
  return response;
}

/** Data of server-sent events; comments, which keep a connection open, are none. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reached(reader.read());
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ")) yield part.slice("data: ".length);
    }
  }
}

async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached. Is it still running?");
  }
}

async function sentence(response) {
  const said = await response.json().then((body) => body.error.message, () => response.statusText);
  if (response.status === 503) return `The server cannot answer now: ${said}.`;
  if (response.status >= 500) return `The server failed (${response.status}): ${said}.`;
  return `The server refused this: ${said}.`;
}
