// Asks for the server's key when a request is refused for want of one.

import { key } from "./api.js";

const element = (id) => document.getElementById(id);

/** Do work that asks the server; where it wants a key, ask for one and do it again. */
export async function withKey(work) {
  for (;;) {
    try {
      const done = await work();
      element("forget-key").hidden = !key.get();
      return done;
    } catch (error) {
      if (error.status !== 401 || !(await askForKey())) throw error;
    }
  }
}

/** Let the key be forgotten by its button. */
export function startKey() {
  element("forget-key").addEventListener("click", () => {
    key.forget();
    element("forget-key").hidden = true;
  });
}

/** Ask; whether one was given. */
function askForKey() {
  const dialog = element("key-dialog");
  element("key-error").hidden = !key.get();
  element("key").value = dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const given = element("key").value;
        element("key").value = "";
        if (dialog.returnValue === "given") key.set(given);
        resolve(dialog.returnValue === "given");
      },
      { once: true },
    );
  });
}
