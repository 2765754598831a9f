// Elements of the page. Text becomes text nodes, whatever it holds: nothing here or elsewhere parses it as HTML.

/** Make an element with properties, and with children that are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Make a button that calls `act`. */
export function makeButton(text, act) {
  const button = make("button", { type: "button" }, text);
  button.addEventListener("click", act);
  return button;
}

/** Make a button that copies what `text()` gives. */
export function makeCopyButton(text) {
  const button = makeButton("Copy", async () => {
    button.textContent = (await copied(text())) ? "Copied" : "Could not copy";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedBySelection(text); // a page of plain HTTP has no clipboard, unless it is of this machine
  }
}

function copiedBySelection(text) {
  const area = make("textarea", { className: "hidden", value: text });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
