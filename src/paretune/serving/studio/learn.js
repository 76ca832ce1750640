// Votes, the preference that they reveal, and the next pair to ask about.

import { call } from "./api.js";
import { pair, showVote } from "./answers.js";
import { drawBallot, given as voted, isMarked, mark, setBallot, votedOn } from "./ballot.js";
import { drawBlind, hold, isBlind, isSealed, release, winnerAt } from "./blind.js";
import { changed, on, state } from "./state.js";
import { setWhy } from "./why.js";
import { byId, element, listing, number, preferenceText } from "./words.js";

const DONE_AFTER = 900;

const learning = { posterior: null, on: false, off: null, busy: false };
/** Settles once the last vote is saved or has failed. Keys pressed meanwhile act after it, as people vote and go on at once. */
let saving = Promise.resolve();
let tools = null;

/** Fetch what the votes so far reveal; a server without a store or a front returns the reason. */
export async function reload() {
  const [policy, profile] = [state.policy, state.profile];
  Object.assign(learning, { posterior: null, off: null, on: false });
  draw();
  let result = null;
  try {
    result = await call("POST", "/api/elicit/next", { policy: policy.name, profile });
  } catch (error) {
    if (error.status !== 409) tools.report(error, reload);
    learning.off = error;
  }
  if (state.policy !== policy || state.profile !== profile) return;
  learning.posterior = result?.posterior ?? null;
  draw();
}

/** Set A and B to the pair whose vote teaches most, and ask both. */
export async function next() {
  await saving;
  if (learning.busy || pair.running) return;
  const prompt = tools.prompt();
  if (!prompt) {
    tools.say("Write a prompt first; both will answer it.");
    return void byId("prompt").focus();
  }
  learning.on = true;
  learning.busy = true;
  draw();
  try {
    const result = await call("POST", "/api/elicit/next", { policy: state.policy.name, profile: state.profile });
    learning.posterior = result.posterior;
    if (!result.first) {
      learning.on = false;
      tools.say("There is nothing left to learn: the answers of this policy differ too little.");
    } else {
      tools.move("a", result.first.preference);
      tools.move("b", result.second.preference);
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

/** Return an answer as a vote has it. */
const cast = (answer) => ({
  text: answer.text, preference: answer.about.preference, truncated: answer.reason === "length", ...(answer.own ? { scores: answer.own } : {}),
});

/** Note a vote on what is voted on, the whole or an objective; a winner of null takes it back. */
function note(asked, objective, winner) {
  if (objective === null) return showVote(winner);
  mark(asked, objective, winner);
  changed("pair");
}

/** Keep a vote, and learn from it; returns whether it is kept. */
async function keepVote(asked, winner, objective, profile) {
  learning.busy = true;
  if (objective === null) hold();
  note(asked, objective, winner);
  try {
    // What is learned from a vote is learned from the scores of these very answers.
    await asked.scoring;
    const body = { profile, policy: asked.policy.name, messages: asked.messages, first: cast(asked.a), second: cast(asked.b), winner, ...(objective === null ? {} : { objective }) };
    const made = await call("POST", "/api/votes", body);
    changed("votes");
    if (state.policy === asked.policy && state.profile === profile) learning.posterior = made.posterior ?? learning.posterior;
    if (objective === null) release(asked, true);
    tools.say(objective === null ? `Vote ${learning.posterior?.votes ?? ""} is saved. ${inWords()}` : `The vote on ${objective} is saved.`);
    return true;
  } catch (error) {
    if (pair.asked === asked) note(asked, objective, null);
    if (objective === null) release(asked, false);
    tools.report(error, () => sendVote(winner, objective));
    return false;
  } finally {
    learning.busy = false;
    draw();
  }
}

/** Vote for a place: "first" is the answer on the left, "second" that on the right, "tie" neither. */
export const vote = (place) => sendVote(winnerAt(place), votedOn());

/** Send a vote: "first" (A), "second" (B) or "tie", on the whole or on an objective. The buttons are enabled again if it fails. */
async function sendVote(winner, objective) {
  if (!open()) return void (pair.whole && !voted() && tools.say(obstacle()));
  const { asked } = pair;
  saving = keepVote(asked, winner, objective, state.profile);
  // Who votes blind reads what was revealed, and goes on by themselves.
  if (!(await saving) || !learning.on || objective !== null || isBlind()) return;
  if (learning.posterior?.done) {
    learning.on = false;
    draw();
  } else {
    setTimeout(() => learning.on && pair.asked === asked && next(), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : DONE_AFTER);
  }
}

/** Return whether the pair can be left without a vote: it has ended, and has none. */
const canSkip = () => pair.whole && !pair.voted && !learning.busy && (isSealed() || learning.on);

/** Go on to the next pair without a vote on this one; its sides are told. */
export async function skip() {
  await saving;
  if (!canSkip()) return;
  release(pair.asked, true);
  tools.say("Skipped; no vote is kept.");
  await next();
}

/** Take back the person's last vote on this policy; the answers on the page can then be voted on again. */
export async function undo() {
  await saving;
  if (learning.busy || !(learning.posterior?.votes || isMarked())) return;
  const [policy, profile] = [state.policy, state.profile];
  learning.busy = true;
  learning.on = false;
  draw();
  try {
    const result = await call("POST", "/api/votes/undo", { profile, policy: policy.name });
    taken(policy, profile, result);
    tools.say(`The last vote is taken back. ${inWords()}`);
  } catch (error) {
    tools.report(error, undo);
  } finally {
    learning.busy = false;
    draw();
  }
}

/** Draw what remains after a vote was deleted: `result` is the server's response. */
export function taken(policy, profile, { vote: gone, posterior }) {
  if (policy !== state.policy || profile !== state.profile) return;
  learning.posterior = posterior ?? learning.posterior;
  const mine = pair.asked && ["first", "second"].every((side, k) => gone[side].text === pair.asked["ab"[k]].text);
  if (mine && (gone.objective ?? null) !== null) note(pair.asked, gone.objective, null);
  else if (pair.voted && mine) showVote(null);
  changed("votes");
  draw();
}

function inWords() {
  const { posterior } = learning;
  if (!posterior?.votes) return "";
  return `${listing(Object.keys(posterior.mean).map((name) => `${name} ${number(posterior.mean[name], 2)} ± ${number(posterior.deviation[name], 2)}`))}.`;
}

/** Draw one line per objective: the mean of its weight, with a band of one standard deviation to each side. */
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

/** Return why the current answers cannot be voted on, in words; "" where nothing stands against it. */
function obstacle() {
  if (!pair.whole) return "";
  if (pair.mixed) return "A and B are of different policies, so a vote would say nothing about preferences of one. Let both be of one policy and ask again.";
  if (!pair.apart) return "A and B are at the same preference, so a vote would teach nothing. Move one of them and ask again.";
  return "";
}

/** Return whether the current answers can be voted on. */
function open() {
  return pair.whole && voted() === null && !learning.busy && learning.off?.code !== "no_store" && !obstacle();
}

/** Draw the buttons and the result of the votes; typed text and focus stay where they are. */
function draw() {
  drawBallot(open(), canSkip());
  const reason = obstacle();
  byId("vote-note").textContent = reason;
  byId("vote-note").hidden = !reason;
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
    root.replaceChildren(element("p", { class: "small" }, off.status === 409 ? `Votes cannot be used here: ${off.message}.` : ""));
    return;
  }
  if (!posterior) return root.replaceChildren();
  const votes = `${posterior.votes} ${posterior.votes === 1 ? "vote" : "votes"}`;
  const best = posterior.best ?? posterior.mean;
  const again = element("button", { type: "button", id: "next", "aria-disabled": String(learning.busy || pair.running), click: next },
    learning.on || posterior.votes ? "Next pair" : "Find my preference", element("kbd", {}, "N"));
  const back = posterior.votes || isMarked()
    ? element("button", { type: "button", id: "undo", class: "link", "aria-disabled": String(learning.busy), click: undo }, "Take back the last vote", element("kbd", {}, "U"))
    : null;
  const halt = learning.on ? element("button", { type: "button", id: "halt", class: "link", click: () => { learning.on = false; draw(); } }, "Stop") : null;
  const name = element("input", { id: "learned-name", "aria-label": "Name of the preset", placeholder: "Name, such as mine", maxlength: 64, autocomplete: "off" });
  const save = element("form", { class: "row save", submit: (event) => { event.preventDefault(); tools.savePreset(name.value.trim(), best, name); } },
    name, element("button", { type: "submit", id: "learned-save" }, "Save as preset"),
    element("button", { type: "button", id: "learned-go", class: "link", click: () => tools.move("a", best) }, "Move A there"));
  if (posterior.done && posterior.votes) {
    root.replaceChildren(
      element("div", { class: "words" }, element("p", { class: "told" }, `Your votes lead to ${preferenceText(best)}.`),
        element("p", { class: "small" }, `${votes}; more would change little.`), save),
      lines(posterior), element("div", { class: "row" }, again, halt, back));
    return;
  }
  const lead = posterior.votes
    ? element("p", { class: "small" }, `${votes}. Your weights so far, ± one standard deviation. The best preference for them is ${preferenceText(best)}.`)
    : element("p", { class: "small" }, learning.on ? "Choose the answer that you like better." : "Vote on a few pairs, and the studio learns your preference.");
  root.replaceChildren(
    element("div", { class: "words" }, lead, posterior.votes >= 3 ? element("details", { class: "more" }, element("summary", { id: "learned-more" }, "Save the preference so far"), save) : null),
    posterior.votes ? lines(posterior) : "", element("div", { class: "row" }, again, halt, back));
}

/**
 * Set up voting. `given`: report(error, retry), say(text), move(side, preference), prompt(), askBoth(),
 * savePreset(name, preference, input).
 */
export function drawVotes(given) {
  tools = given;
  setBallot({ vote, skip, redraw: draw });
  drawBlind();
  setWhy(given.report);
  on("pair", draw);
}
