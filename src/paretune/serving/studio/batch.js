// A batch: all prompts of a set are asked at A and at B, and a table says what came of it, with the mean scores and their difference.

import { patiently } from "./asking.js";
import { call } from "./api.js";
import { talk } from "./conversation.js";
import { csv, fileName, save } from "./files.js";
import { places } from "./expected.js";
import { MOST, keepSet, keptSets, promptsOf } from "./prompt_sets.js";
import { policyOf, state } from "./state.js";
import { byId, element, faultOfName, interval, number, plainly, preferenceArgument, preferenceText } from "./words.js";

const TOGETHER = 3;
const SIDES = ["a", "b"];

/** The batch on the page: {policies, preferences, rows, means, why}; a row is {prompt, seed, a, b}, an answer {text, truncated, own}. */
let batch = null;
let stopping = null;
let tools = null;

// Asking

const body = (side, row, made) => ({
  model: made.policies[side], preference: made.preferences[side], seed: row.seed, ...made.options,
  messages: [...(made.system ? [{ role: "system", content: made.system }] : []), { role: "user", content: row.prompt }],
});

/** Fetch both answers to a prompt, and their own scores where the server has scorers. */
async function answer(row, made, signal) {
  await Promise.all(SIDES.map(async (side) => {
    const found = await patiently(() => call("POST", "/v1/chat/completions", body(side, row, made), signal), signal, (words) => words && progress(words));
    const [choice] = found.choices;
    row[side] = { text: choice.message.content ?? "", truncated: choice.finish_reason === "length", served: found.paretune.preference, own: null };
  }));
  try {
    const answers = SIDES.map((side) => ({ text: row[side].text, truncated: row[side].truncated }));
    const found = await call("POST", "/api/score", { policy: made.policies.a, messages: body("a", row, made).messages, answers }, signal);
    SIDES.forEach((side, k) => (row[side].own = found.scores[k]));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    made.why = error.message;
  }
}

/** Ask all prompts at A and B, a few at a time; stopping keeps what is there. */
async function begin(event) {
  event.preventDefault();
  if (stopping) return stop();
  let prompts;
  try {
    prompts = promptsOf(byId("batch-prompts").value);
  } catch (error) {
    byId("batch-said").textContent = `These prompts cannot be asked: ${error.message}.`;
    return void byId("batch-prompts").focus();
  }
  const { seed = Math.floor(Math.random() * 2 ** 30), ...options } = tools.options();
  const made = (batch = {
    policies: Object.fromEntries(SIDES.map((side) => [side, policyOf(side).name])), preferences: { a: state.sides.a.preference, b: state.sides.b.preference },
    policy: policyOf("a"), system: talk.system?.trim() ?? "", options, means: null, why: "", rows: prompts.map((prompt, n) => ({ prompt, seed: seed + n, a: null, b: null })),
  });
  const mine = (stopping = new AbortController());
  const waiting = [...made.rows];
  drawResult();
  progress();
  let failure = null;
  const work = async () => {
    for (let row = waiting.shift(); row && !mine.signal.aborted; row = waiting.shift()) {
      await answer(row, made, mine.signal);
      drawRow(row);
      progress();
    }
  };
  try {
    await Promise.all(Array.from({ length: TOGETHER }, work));
  } catch (error) {
    if (error.name !== "AbortError") failure = error;
    mine.abort();
  }
  stopping = null;
  await compare(made);
  progress();
  tools.say(`${whole(made)} of ${made.rows.length} prompts are answered.`);
  if (failure) byId("batch-said").textContent = `${plainly(failure)} What was answered before is kept below.`;
}

function stop() {
  stopping?.abort();
}

const done = (row) => Boolean(row.a && row.b);
const whole = (made) => made.rows.filter(done).length;

/** Fetch the means and the paired difference of what is scored. */
async function compare(made) {
  const rows = made.rows.filter((row) => done(row) && row.a.own && row.b.own);
  if (!rows.length) return drawMeans();
  try {
    made.means = await call("POST", "/api/score/paired", { first: rows.map((row) => row.a.own), second: rows.map((row) => row.b.own) });
  } catch (error) {
    made.why = error.message;
  }
  drawMeans();
}

// What is shown

function progress(words) {
  const running = Boolean(stopping);
  byId("batch-begin").textContent = running ? "Stop" : "Ask all at A and B";
  byId("batch-begin").classList.toggle("stop", running);
  byId("batch-save").hidden = !batch || !whole(batch);
  const bar = byId("batch-progress");
  bar.hidden = !running;
  if (!batch) return;
  bar.max = batch.rows.length;
  bar.value = whole(batch);
  byId("batch-said").textContent = words ?? `${whole(batch)} of ${batch.rows.length} prompts are answered.`;
}

const letter = (side) => element("span", { class: `mark ${side}`, "aria-hidden": "true" }, side.toUpperCase());

function drawResult() {
  const { rows, preferences, policies } = batch;
  const head = (side) => element("th", { scope: "col" }, letter(side), ` ${side.toUpperCase()}: ${preferenceText(preferences[side])}${policies.a === policies.b ? "" : ` (${policies[side]})`}`);
  byId("batch-means").replaceChildren();
  byId("batch-rows").replaceChildren(element("table", { class: "batch" },
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Prompt"), ...SIDES.map(head))),
    element("tbody", {}, ...rows.map((row, n) => element("tr", { "data-row": n }, element("th", { scope: "row" }, row.prompt), element("td", {}, "…"), element("td", {}, "…"))))));
}

function drawRow(row) {
  const line = byId("batch-rows").querySelector(`[data-row="${batch.rows.indexOf(row)}"]`);
  if (!line) return;
  const shown = places(batch.policy);
  const scored = (own) => batch.policy.objectives.filter((name) => own && name in own).map((name) => `${name} ${number(own[name], shown[name])}`).join(" · ");
  SIDES.forEach((side, k) => line.children[k + 1].replaceChildren(
    element("p", { class: "told-text" }, row[side].text || "(an empty answer)"),
    element("p", { class: "small" }, [scored(row[side].own), row[side].truncated && "cut at the token limit"].filter(Boolean).join("; "))));
}

function drawMeans() {
  const root = byId("batch-means");
  const found = Object.entries(batch.means?.objectives ?? {});
  if (!found.length) return root.replaceChildren(element("p", { class: "small" }, batch.why ? `There are no own scores to compare: ${batch.why}.` : "This run has no scorer that the server uses, so there are no own scores to compare."));
  const shown = places(batch.policy);
  const rows = found.map(([name, { prompts, first, second, difference }]) => element("tr", {},
    element("th", { scope: "row" }, name), ...[first, second, difference].map((one) => element("td", { class: "num" }, interval(one, shown[name]))), element("td", { class: "num" }, prompts)));
  root.replaceChildren(
    element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Mean own scores" }, element("table", {},
      element("thead", {}, element("tr", {}, ...["Mean own score", "A", "B", "A − B", "Prompts"].map((name) => element("th", { scope: "col" }, name)))), element("tbody", {}, ...rows))),
    element("p", { class: "small" }, "95 % intervals over the prompts by the percentile bootstrap, as for the front (2000 draws with a fixed seed); A − B is paired, prompt by prompt. Prompts whose answers both have a score count."));
}

function saveTable() {
  const names = batch.policy.objectives;
  const head = ["prompt", "seed", ...SIDES.flatMap((side) => [`policy_${side}`, `preference_${side}`, `answer_${side}`, `truncated_${side}`, ...names.map((name) => `${name}_${side}`)])];
  const rows = batch.rows.filter(done).map((row) => [row.prompt, row.seed, ...SIDES.flatMap((side) => [
    batch.policies[side], preferenceArgument(row[side].served ?? batch.preferences[side]), row[side].text, String(row[side].truncated), ...names.map((name) => row[side].own?.[name])])]);
  save(`${fileName("batch", batch.policies.a)}.csv`, csv([head, ...rows]), "text/csv");
}

// Sets

function drawSets() {
  const names = Object.keys(keptSets()).sort();
  byId("set-list").replaceChildren(element("option", { value: "" }, names.length ? "Choose a set" : "No set is kept yet"), ...names.map((name) => element("option", { value: name }, name)));
  byId("set-delete").hidden = true;
}

function openSet(name) {
  byId("set-delete").hidden = !name;
  if (!name) return;
  byId("batch-prompts").value = (keptSets()[name] ?? []).join("\n");
  byId("set-name").value = name;
}

/** Keep the prompts under a name; a line break within a prompt becomes a space, as a line is a prompt. */
function keepThese() {
  const field = byId("set-name");
  const name = field.value.trim();
  field.setCustomValidity(faultOfName(name));
  if (!field.reportValidity()) return field.addEventListener("input", () => field.setCustomValidity(""), { once: true });
  try {
    const prompts = promptsOf(byId("batch-prompts").value);
    const kept = keepSet(name, prompts);
    byId("batch-said").textContent = kept ? `Kept ${prompts.length} prompts as ${name}, in this browser.` : "This browser has no room for the set.";
  } catch (error) {
    byId("batch-said").textContent = `These prompts cannot be kept: ${error.message}.`;
    return;
  }
  drawSets();
  byId("set-list").value = name;
  byId("set-delete").hidden = false;
}

async function load(event) {
  const [file] = event.target.files;
  if (!file) return;
  try {
    const prompts = promptsOf(await file.text(), file.name);
    byId("batch-prompts").value = prompts.map((prompt) => prompt.replaceAll(/\s*\n\s*/g, " ")).join("\n");
    byId("batch-said").textContent = `${prompts.length} prompts of ${file.name}.`;
  } catch (error) {
    byId("batch-said").textContent = `${file.name} cannot be read: ${error.message}.`;
  }
  event.target.value = "";
}

/** Set up the tab. `given`: say(text), options(). */
export function drawBatch(given) {
  tools = given;
  byId("batch").append(
    element("p", { class: "lead" }, `Up to ${MOST} prompts are asked at A and at B, with the settings of the message bar. Nothing of it is kept on the server.`),
    element("form", { class: "batch-form", submit: begin },
      element("label", { for: "batch-prompts" }, "Prompts, one a line"),
      element("textarea", { id: "batch-prompts", rows: 5, maxlength: 1_000_000 }),
      element("div", { class: "row" },
        element("label", { class: "inline small" }, "From a file (.txt, .csv, .jsonl)", element("input", { type: "file", id: "batch-file", accept: ".txt,.csv,.jsonl", change: load }))),
      element("div", { class: "row" },
        element("label", { class: "inline small" }, "Kept sets", element("select", { id: "set-list", change: (event) => openSet(event.target.value) })),
        element("input", { id: "set-name", "aria-label": "Name of the set", placeholder: "Name of the set", maxlength: 64, autocomplete: "off" }),
        element("button", { type: "button", id: "set-keep", click: keepThese }, "Keep these"),
        element("button", { type: "button", class: "link", id: "set-delete", hidden: true, click: () => { keepSet(byId("set-list").value, null); drawSets(); byId("set-list").focus(); } }, "Delete the set")),
      element("div", { class: "row" },
        element("button", { type: "submit", class: "main", id: "batch-begin" }, "Ask all at A and B"),
        element("progress", { id: "batch-progress", hidden: true, max: 1, value: 0, "aria-label": "Prompts answered" }),
        element("span", { class: "small", id: "batch-said", role: "status" }),
        element("button", { type: "button", id: "batch-save", hidden: true, click: saveTable }, "Save as CSV"))),
    element("div", { id: "batch-means" }), element("div", { class: "scroll", id: "batch-rows", tabindex: 0, role: "group", "aria-label": "Answers of the batch" }));
  drawSets();
}
