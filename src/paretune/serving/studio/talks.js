// The conversations in the server's store: found again, opened, renamed, deleted and taken along as a file.

import { pair, stop } from "./answers.js";
import { call, download } from "./api.js";
import { talk } from "./conversation.js";
import { begin, keepsTalks, open, sync } from "./keeping.js";
import { changed, on, state } from "./state.js";
import { byId, element } from "./words.js";

const PAGE = 50;
/** Milliseconds without a key before the search begins. */
const CALM = 200;
const LONGEST = 200;
let tools = null;
let searching = 0;
let wanted = 0;

const place = (id) => `/api/conversations/${encodeURIComponent(id)}`;

/** List the profile's conversations, the newest first; `before` is the last one that is listed. */
async function list(before) {
  const mine = (wanted += 1);
  const search = byId("talks-search").value.trim();
  const query = new URLSearchParams({ profile: state.profile, limit: PAGE, ...(search ? { search } : {}), ...(before ? { before } : {}) });
  try {
    const { conversations } = await call("GET", `/api/conversations?${query}`);
    if (mine !== wanted) return;
    const lines = conversations.map(line);
    if (before) byId("talks-list").append(...lines);
    else byId("talks-list").replaceChildren(...lines);
    const some = byId("talks-list").children.length > 0;
    byId("talks-told").textContent = some ? "" : search ? "No conversation has these words." : "There are no conversations yet.";
    byId("talks-more").hidden = conversations.length < PAGE;
    byId("talks-more").onclick = () => list(conversations.at(-1).id);
  } catch (error) {
    if (mine !== wanted) return;
    byId("talks-list").replaceChildren();
    byId("talks-told").textContent = error.status === 409 ? `Conversations are not kept: ${error.message}.` : "The conversations could not be loaded.";
    if (error.status !== 409) tools.report(error, () => list(before));
  }
}

function line(found) {
  const { id, title, updated, turns } = found;
  const name = title || "Untitled";
  const when = updated ? new Date(updated).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "";
  const act = (text, click, label) => element("button", { type: "button", class: "link", "aria-label": `${label} ${name}`, click }, text);
  const row = element("li", { "data-talk": id },
    element("button", { type: "button", class: "link open", "aria-current": id === talk.remote ? "true" : null, click: () => show(id) }, name),
    element("span", { class: "small" }, `${turns} ${turns === 1 ? "turn" : "turns"} · ${when}`),
    element("span", { class: "acts" },
      act("Rename", () => rename(row, found), "Rename"), act("JSON", () => save(id, name, "json"), "Export as JSON:"),
      act("Markdown", () => save(id, name, "markdown"), "Export as Markdown:"), act("Delete", () => remove(id, name), "Delete")));
  return row;
}

async function show(id) {
  try {
    const found = await call("GET", place(id));
    stop();
    open(found);
    byId("talks-dialog").close();
    tools.say(`Opened ${found.title || "the conversation"}.`);
    byId("prompt").focus();
  } catch (error) {
    tools.report(error, () => show(id));
  }
}

/** Let a title be written anew, in its line. */
function rename(row, found) {
  const field = element("input", { value: found.title, maxlength: LONGEST, "aria-label": "New title", autocomplete: "off" });
  const back = () => { row.replaceWith(line(found)); byId("talks-list").querySelector(`[data-talk="${CSS.escape(found.id)}"] .open`)?.focus(); };
  const save = async (event) => {
    event.preventDefault();
    const title = field.value.trim();
    if (!title) return void field.focus();
    try {
      await call("PATCH", place(found.id), { title });
      found.title = title;
      if (found.id === talk.remote) { talk.title = title; changed("talk"); }
      back();
    } catch (error) {
      tools.report(error, () => save(event));
    }
  };
  field.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); back(); } });
  row.replaceChildren(element("form", { class: "row", submit: save }, field, element("button", { type: "submit" }, "Save"), element("button", { type: "button", click: back }, "Cancel")));
  field.focus();
  field.select();
}

async function save(id, name, format) {
  try {
    const ending = format === "json" ? "json" : "md";
    await download(`${place(id)}/export?format=${format}`, `${name.replaceAll(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "conversation"}.${ending}`);
    tools.say("Saved as a file.");
  } catch (error) {
    tools.report(error, () => save(id, name, format));
  }
}

async function remove(id, name) {
  byId("talks-dialog").close();
  const yes = await tools.sure(`The conversation “${name}” is deleted for good. This cannot be taken back.`, "Delete this conversation?");
  try {
    if (yes) {
      await call("DELETE", place(id));
      if (id === talk.remote) { stop(); begin(); }
      tools.say("The conversation is deleted.");
    }
    await opened();
  } catch (error) {
    tools.report(error, () => remove(id, name));
  }
}

/** Show the list. */
export async function opened() {
  await sync();
  if (!byId("talks-dialog").open) byId("talks-dialog").showModal();
  byId("talks-search").focus();
  await list();
}

/** Set up the list. `given`: report(error, retry), say(text), sure(text, title). */
export function drawTalks(given) {
  tools = given;
  byId("talks").addEventListener("click", opened);
  byId("talks-close").addEventListener("click", () => byId("talks-dialog").close());
  byId("talks-search").addEventListener("input", () => { clearTimeout(searching); searching = setTimeout(() => list(), CALM); });
  byId("new-talk").addEventListener("click", () => { stop(); begin(); byId("prompt").focus(); });
  on("talk policy pair", () => {
    byId("talks").hidden = !keepsTalks();
    byId("new-talk").setAttribute("aria-disabled", String(!talk.turns.size && !pair.running));
  });
}
