// Votes, what they say of a person's preference, and the next pair to ask about.

import { call } from "./api.js";
import { pair, showVote } from "./answers.js";
import { on, state } from "./state.js";
import { byId, element, listing, number, preferenceText } from "./words.js";

const BUTTONS = { first: "vote-first", tie: "vote-tie", second: "vote-second" };
const DONE_AFTER = 900;

const learning = { posterior: null, on: false, off: null, busy: false };
let tools = null;

/** Fetch what the votes so far say; a server without a store or a front says why there are none. */
export async function reload() {
  const [policy, profile] = [state.policy, state.profile];
  Object.assign(learning, { posterior: null, off: null, on: false });
  draw();
  let found = null;
  try {
    found = await call("POST", "/api/elicit/next", { policy: policy.name, profile });
  } catch (error) {
    if (error.status !== 409) tools.report(error, reload);
    learning.off = error;
  }
  if (state.policy !== policy || state.profile !== profile) return;
  learning.posterior = found?.posterior ?? null;
  draw();
}

/** Set A and B to the pair that would teach most, and ask both. */
export async function next() {
  if (learning.busy || pair.running) return;
  const prompt = tools.prompt();
  if (!prompt) {
    tools.say("Write a prompt first: both will answer it.");
    return void byId("prompt").focus();
  }
  learning.on = true;
  learning.busy = true;
  draw();
  try {
    const found = await call("POST", "/api/elicit/next", { policy: state.policy.name, profile: state.profile });
    learning.posterior = found.posterior;
    if (!found.first) {
      learning.on = false;
      tools.say("There is nothing left to learn: what this policy serves differs too little.");
    } else {
      tools.move("a", found.first.preference);
      tools.move("b", found.second.preference);
      learning.busy = false;
      draw();
      await tools.askBoth();
    }
  } catch (error) {
    tools.report(error, next);
  } finally {
    learning.busy = false;
    draw();
  }
}

/** Keep a vote: "first" (A), "second" (B) or "tie". The buttons come back if it could not be kept. */
export async function vote(winner) {
  if (!open()) return;
  const { asked } = pair;
  const said = (answer) => ({ text: answer.text, preference: answer.about.preference, truncated: answer.reason === "length" });
  learning.busy = true;
  showVote(winner);
  try {
    const body = { profile: state.profile, policy: asked.policy.name, messages: [{ role: "user", content: asked.prompt }], first: said(asked.a), second: said(asked.b), winner };
    const made = await call("POST", "/api/votes", body);
    if (state.policy === asked.policy) learning.posterior = made.posterior ?? learning.posterior;
    tools.say(`Vote ${learning.posterior?.votes ?? ""} is kept. ${inWords()}`);
  } catch (error) {
    if (pair.asked === asked) showVote(null);
    tools.report(error, () => vote(winner));
    return;
  } finally {
    learning.busy = false;
    draw();
  }
  if (!learning.on) return;
  if (learning.posterior?.done) {
    learning.on = false;
    draw();
  } else {
    setTimeout(() => learning.on && pair.asked === asked && next(), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : DONE_AFTER);
  }
}

function inWords() {
  const { posterior } = learning;
  if (!posterior?.votes) return "";
  return `${listing(Object.keys(posterior.mean).map((name) => `${name} ${number(posterior.mean[name], 2)} ± ${number(posterior.deviation[name], 2)}`))}.`;
}

/** Draw one line an objective: the mean of what is known of its weight, and a band one deviation to each side. */
function lines(posterior) {
  return element("dl", { class: "tastes" }, ...Object.keys(posterior.mean).map((name) => {
    const [mean, deviation] = [posterior.mean[name], posterior.deviation[name]];
    const band = element("i", { class: "band" }), dot = element("i", { class: "dot" });
    const [low, high] = [Math.max(0, mean - deviation), Math.min(1, mean + deviation)];
    band.style.left = `${100 * low}%`;
    band.style.width = `${100 * (high - low)}%`;
    dot.style.left = `${100 * mean}%`;
    return element("div", {}, element("dt", {}, name), element("dd", { class: "track", "aria-hidden": "true" }, band, dot),
      element("dd", { class: "figure" }, `${number(mean, 2)} ± ${number(deviation, 2)}`));
  }));
}

/** Return whether the answers that are there can be voted on. */
function open() {
  return pair.whole && !pair.voted && !learning.busy && learning.off?.code !== "no_store";
}

/** Draw buttons and what is known; whoever is typing or focused in it stays where he is. */
function draw() {
  for (const [winner, name] of Object.entries(BUTTONS)) {
    byId(name).setAttribute("aria-disabled", String(!open()));
    byId(name).setAttribute("aria-pressed", String(pair.voted === winner));
  }
  const root = byId("learned");
  const focused = root.contains(document.activeElement) ? document.activeElement.id : "";
  const [typed, unfolded] = [byId("learned-name")?.value, root.querySelector("details")?.open];
  drawLearned(root);
  if (typed && byId("learned-name")) byId("learned-name").value = typed;
  if (unfolded && root.querySelector("details")) root.querySelector("details").open = true;
  if (focused) byId(focused)?.focus();
}

function drawLearned(root) {
  const { posterior, off } = learning;
  if (off) {
    root.replaceChildren(element("p", { class: "small" }, off.status === 409 ? `Nothing can be learned from votes here: ${off.message}.` : ""));
    return;
  }
  if (!posterior) return root.replaceChildren();
  const votes = `${posterior.votes} ${posterior.votes === 1 ? "vote" : "votes"}`;
  const best = posterior.best ?? posterior.mean;
  const again = element("button", { type: "button", id: "next", "aria-disabled": String(learning.busy || pair.running), click: next },
    learning.on || posterior.votes ? "Next pair" : "Find my preference", element("kbd", {}, "N"));
  const halt = learning.on ? element("button", { type: "button", id: "halt", class: "link", click: () => { learning.on = false; draw(); } }, "Stop asking") : null;
  const name = element("input", { id: "learned-name", "aria-label": "Name of the preset", placeholder: "Name, such as mine", maxlength: 64, autocomplete: "off" });
  const save = element("form", { class: "row save", submit: (event) => { event.preventDefault(); tools.savePreset(name.value.trim(), best, name); } },
    name, element("button", { type: "submit", id: "learned-save" }, "Save as preset"),
    element("button", { type: "button", id: "learned-go", class: "link", click: () => tools.move("a", best) }, "Put A there"));
  if (posterior.done && posterior.votes) {
    root.replaceChildren(
      element("div", { class: "words" }, element("p", { class: "told" }, `Your votes come to ${preferenceText(best)}.`),
        element("p", { class: "small" }, `${votes}, and more would change little.`), save),
      lines(posterior), element("div", { class: "row" }, again, halt));
    return;
  }
  const lead = posterior.votes
    ? element("p", { class: "small" }, `${votes}: your weights so far, ± one deviation. Best served by ${preferenceText(best)}.`)
    : element("p", { class: "small" }, learning.on ? "Say which answer you like better." : "Vote on a few pairs, and the studio learns which preference is yours.");
  root.replaceChildren(
    element("div", { class: posterior.votes ? "words" : "words wide" }, lead, posterior.votes >= 3 ? element("details", { class: "more" }, element("summary", { id: "learned-more" }, "Save what is known so far"), save) : null),
    posterior.votes ? lines(posterior) : "", element("div", { class: "row" }, again, halt));
}

/**
 * Set up voting. `given`: report(error, retry), say(text), move(side, preference), prompt(), askBoth(),
 * savePreset(name, preference, input).
 */
export function drawVotes(given) {
  tools = given;
  for (const [winner, name] of Object.entries(BUTTONS)) byId(name).addEventListener("click", () => vote(winner));
  on("pair", draw);
}

