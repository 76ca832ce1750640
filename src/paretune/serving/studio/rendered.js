// Markdown, code, tables and formulas of an answer: the server renders and cleans them, the page shows what it returns.

import { call } from "./api.js";
import { element } from "./words.js";

let possible = true;
let waiting = [];

/** Return the HTML of texts, all that wait in one request; null for each where the server cannot render. */
function render(text) {
  return new Promise((resolve) => {
    waiting.push({ text, resolve });
    if (waiting.length === 1) queueMicrotask(flush);
  });
}

async function flush() {
  const batch = waiting;
  waiting = [];
  let html = [];
  try {
    if (possible) html = (await call("POST", "/api/render", { texts: batch.map(({ text }) => text) })).html;
  } catch (error) {
    // An older server, or one without the packages: the text stays as it is.
    if ([404, 405, 409, 501].includes(error.status)) possible = false;
  }
  batch.forEach(({ resolve }, k) => resolve(html[k] ?? null));
}

/** Copy a text; `button` says whether it worked. */
export async function copy(button, text, say) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not copied";
  }
  setTimeout(() => (button.textContent = before), 1600);
}

/** Show an answer with its markup in `box`, which holds its plain text; without a renderer it stays plain. */
export async function rich(box, answer) {
  const { text } = answer;
  answer.html ??= await render(text);
  if (!answer.html || answer.text !== text || answer.live) return;
  // The server has cleaned it (see /api/render); the page's policy runs no inline script either.
  box.innerHTML = answer.html;
  box.classList.add("rich");
  for (const code of box.querySelectorAll("pre:not(.plain)")) {
    const button = element("button", { type: "button", class: "copy", "aria-label": "Copy this code" }, "Copy");
    button.addEventListener("click", () => copy(button, code.querySelector("code")?.textContent ?? code.textContent, () => {}));
    const frame = element("div", { class: "code" });
    code.replaceWith(frame);
    frame.append(code, button);
  }
  for (const table of box.querySelectorAll("table")) {
    const frame = element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
}
