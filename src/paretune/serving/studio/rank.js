// A person ranks several answers to one prompt by comparing two at a time. The server sorts and says which two come next (PairS);
// which preference wrote an answer is shown at the end only. Each comparison is kept as a vote.

import { call } from "./api.js";
import { patiently } from "./asking.js";
import { changed, admitted, on, state } from "./state.js";
import { byId, element, number, preferenceText, same } from "./words.js";
import { places } from "./expected.js";

const FEWEST = 3;
const MOST = 8;
const USUAL = 5;
const WINNERS = { left: ["first", "second"], tie: ["tie", "tie"], right: ["second", "first"] };

/**
 * The ranking on the page: {prompt, policy, profile, answers, verdicts, next, order, most, swapped, waiting, unkept}; null before
 * the first. A verdict is {first, second, winner, vote}, `vote` the id under which it is kept, or null. `swapped`: the first of
 * the pair stands on the right. `unkept`: why comparisons are not kept as votes.
 */
let task = null;
let stopping = null;
let tools = null;

/** Return at most `count` preferences that lie far apart: each next one is the farthest from those before. */
export function spread(policy, count) {
  const stops = policy.dial?.length ? policy.dial : policy.points ?? [];
  const known = policy.anchored && policy.anchors?.length ? policy.anchors : stops.map((stop) => stop.preference);
  const candidates = [];
  for (const preference of [...known, policy.default].map((one) => admitted(policy, one))) {
    if (!candidates.some((other) => same(other, preference))) candidates.push(preference);
  }
  const apart = (p, q) => policy.objectives.reduce((sum, name) => sum + Math.abs(p[name] - q[name]), 0);
  const chosen = candidates.splice(0, 1);
  while (chosen.length < count && candidates.length) {
    const nearest = candidates.map((one) => Math.min(...chosen.map((other) => apart(one, other))));
    chosen.push(...candidates.splice(nearest.indexOf(Math.max(...nearest)), 1));
  }
  return chosen;
}

/** Return the answers at some preferences, in a random order; those that the same preference served count once. */
async function written(policy, prompt, preferences, signal) {
  const seed = Math.floor(Math.random() * 2 ** 31);
  let done = 0;
  const one = async (preference) => {
    const body = { model: policy.name, messages: [{ role: "user", content: prompt }], seed, preference, ...tools.options() };
    const made = await patiently(() => call("POST", "/v1/chat/completions", body, signal), signal, (text) => text && busy(text));
    done += 1;
    busy(`${done} of ${preferences.length} answers are written.`);
    const [choice] = made.choices;
    return { text: choice.message.content ?? "", truncated: choice.finish_reason === "length", preference: made.paretune.preference, own: null };
  };
  const answers = await Promise.all(preferences.map(one));
  const different = answers.filter((answer, n) => answers.findIndex((other) => same(other.preference, answer.preference)) === n);
  for (let n = different.length - 1; n > 0; n -= 1) {
    const k = Math.floor(Math.random() * (n + 1));
    [different[n], different[k]] = [different[k], different[n]];
  }
  return different;
}

/** Fetch the answers' own scores; without them votes are learned from what the front expects. */
async function score({ policy, prompt, answers }, signal) {
  if (policy.scored?.length === 0) return;
  const texts = answers.map(({ text, truncated }) => ({ text, truncated }));
  try {
    const body = { policy: policy.name, messages: [{ role: "user", content: prompt }], answers: texts };
    const found = await call("POST", "/api/score", body, signal);
    answers.forEach((answer, n) => (answer.own = found.scores[n]));
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
}

/** Write the answers and begin to compare. */
async function begin() {
  const prompt = tools.prompt();
  if (!prompt) {
    tools.say("Write a prompt first; the answers to it are ranked.");
    return void byId("prompt").focus();
  }
  const { policy, profile } = state;
  const preferences = spread(policy, Number(byId("rank-count").value));
  if (preferences.length < 2) return tools.notice(`${policy.title ?? policy.name} has one preference here, so there is nothing to rank.`);
  stopping?.abort();
  const mine = (stopping = new AbortController());
  task = { prompt, policy, profile, answers: [], verdicts: [], next: null, order: null, most: 0, swapped: false, waiting: true, unkept: "" };
  busy(`0 of ${preferences.length} answers are written.`);
  try {
    const made = task;
    made.answers = await written(policy, prompt, preferences, mine.signal);
    if (made.answers.length < 2) {
      leave();
      return tools.notice("All of these preferences are served by the same one, so there is nothing to rank.");
    }
    await score(made, mine.signal);
    await goOn();
  } catch (error) {
    if (stopping !== mine) return;
    leave();
    tools.report(error, begin);
  }
}

/** Ask the server which two answers come next. Answers of the same words are a tie that nobody is asked about. */
async function goOn() {
  const made = task;
  for (;;) {
    const verdicts = made.verdicts.map(({ first, second, winner }) => ({ first, second, winner }));
    const at = await call("POST", "/api/rank", { count: made.answers.length, verdicts }, stopping?.signal);
    if (task !== made) return;
    Object.assign(made, at, { waiting: false });
    if (!made.next || made.answers[made.next.first].text !== made.answers[made.next.second].text) break;
    made.verdicts.push({ ...made.next, winner: "tie", vote: null, same: true });
  }
  made.swapped = Math.random() < 0.5;
  draw();
  if (made.order) tools.say("The answers are ranked.");
  byId(made.order ? "rank-title" : "rank-left")?.focus();
}

/** Keep a comparison as a vote; returns its id, or null where the server keeps none. */
async function keepVote(made, { first, second, winner }) {
  if (made.unkept) return null;
  const voted = (answer) => ({ text: answer.text, preference: answer.preference, truncated: answer.truncated, ...(answer.own ? { scores: answer.own } : {}) });
  const body = { profile: made.profile, policy: made.policy.name, messages: [{ role: "user", content: made.prompt }], first: voted(made.answers[first]), second: voted(made.answers[second]), winner };
  try {
    return (await call("POST", "/api/votes", body)).id;
  } catch (error) {
    if (error.status !== 409) throw error;
    made.unkept = error.message;
    return null;
  }
}

/** Choose between the two that are shown: "left", "right" or "tie". */
async function choose(side) {
  const made = task;
  if (!made?.next || made.waiting) return;
  made.waiting = true;
  draw();
  const verdict = { ...made.next, winner: WINNERS[side][Number(made.swapped)] };
  try {
    verdict.vote = await keepVote(made, verdict);
    made.verdicts.push(verdict);
    if (verdict.vote !== null) tools.voted();
    await goOn();
  } catch (error) {
    made.waiting = false;
    if (task === made) draw();
    tools.report(error, () => (made.verdicts.includes(verdict) ? goOn() : choose(side)));
  }
}

/** Take back the last comparison, and the vote that it is kept as. */
async function back() {
  const made = task;
  if (made.waiting) return;
  const asked = made.verdicts.findLastIndex((verdict) => !verdict.same);
  const last = made.verdicts[asked];
  if (!last) return;
  made.waiting = true;
  draw();
  try {
    if (last.vote !== null) await call("DELETE", `/api/votes/${last.vote}`);
    made.verdicts.splice(asked);
    if (last.vote !== null) tools.voted();
    await goOn();
  } catch (error) {
    made.waiting = false;
    if (task === made) draw();
    tools.report(error, back);
  }
}

function leave() {
  stopping?.abort();
  stopping = null;
  task = null;
  draw();
}

function busy(text) {
  byId("rank").replaceChildren(
    element("p", { class: "small", role: "status" }, text),
    element("button", { type: "button", id: "rank-stop", click: leave }, "Stop"));
}

// What is shown

function draw() {
  const root = byId("rank");
  if (!task) root.replaceChildren(...opening());
  else if (task.order) root.replaceChildren(...ranking());
  else if (task.next) root.replaceChildren(...comparison());
}

function opening() {
  const most = Math.min(MOST, Math.max(2, spread(state.policy, MOST).length));
  const fewest = Math.min(FEWEST, most);
  const numbers = Array.from({ length: most - fewest + 1 }, (_, n) => fewest + n);
  const count = element("select", { id: "rank-count" }, ...numbers.map((n) => element("option", { value: n, selected: n === Math.min(USUAL, most) }, n)));
  return [
    element("p", { class: "lead" }, "Answers to your prompt, at preferences far apart, are ranked by comparing two at a time. You see at the end which preference wrote which. Each comparison is kept as a vote."),
    element("div", { class: "row" }, element("label", { class: "inline" }, "Number of answers ", count),
      element("button", { type: "button", id: "rank-begin", click: begin }, "Write and rank them")),
  ];
}

function comparison() {
  const { next, answers, verdicts, most, swapped, waiting } = task;
  const asked = verdicts.filter((verdict) => !verdict.same).length;
  const pair = swapped ? [next.second, next.first] : [next.first, next.second];
  const card = (n, name) => element("article", { class: "answer", "aria-label": `${name} answer` },
    element("div", { class: "text", tabindex: 0, role: "region", "aria-label": `Text of the ${name.toLowerCase()} answer` }, answers[n].text || element("span", { class: "empty" }, "(an empty answer)")),
    answers[n].truncated ? element("p", { class: "small" }, "cut at the token limit") : null);
  const choice = (side, text) => element("button", { type: "button", id: `rank-${side}`, "aria-disabled": String(waiting), click: () => choose(side) }, text);
  return [
    element("p", { class: "small", role: "status" }, `Comparison ${asked + 1} of at most ${most}.`),
    element("p", { class: "asked" }, task.prompt),
    element("div", { class: "answers" }, card(pair[0], "Left"), card(pair[1], "Right")),
    element("div", { class: "ballot" }, choice("left", "Left is better"), choice("tie", "About equal"), choice("right", "Right is better")),
    element("div", { class: "row" },
      asked ? element("button", { type: "button", class: "link", id: "rank-back", "aria-disabled": String(waiting), click: back }, "Take back the last comparison") : null,
      element("button", { type: "button", class: "link", id: "rank-stop", click: leave }, "Stop")),
  ];
}

function ranking() {
  const { order, answers, verdicts, policy, unkept } = task;
  const shown = places(policy);
  const votes = verdicts.filter((verdict) => verdict.vote !== null && !verdict.same).length;
  const kept = unkept ? `Your comparisons are not kept: ${unkept}.` : `${votes} ${votes === 1 ? "comparison is" : "comparisons are"} kept as votes.`;
  const line = (n, place) => {
    const { text, preference, own } = answers[n];
    const scores = own ? policy.objectives.filter((name) => name in own).map((name) => `${name} ${number(own[name], shown[name])}`).join(", ") : "";
    return element("li", {},
      element("span", { class: "name" }, String(place + 1)),
      element("div", {}, element("p", { class: "small" }, [`at ${preferenceText(preference)}`, scores && `scored ${scores}`].filter(Boolean).join("; ")), element("p", { class: "told-text" }, text || "(an empty answer)")),
      element("span", { class: "row" }, ...tools.bothSides(`the preference of place ${place + 1}`, admitted(policy, preference))));
  };
  return [
    element("h3", { id: "rank-title", tabindex: -1 }, "Your ranking, the best first"),
    element("ol", { class: "list ranks" }, ...order.map(line)),
    element("p", { class: "small" }, verdicts.some((verdict) => verdict.same) ? `${kept} Answers of the same words were not compared; they are equal.` : kept),
    element("div", { class: "row" },
      element("button", { type: "button", class: "link", id: "rank-back", click: back }, "Take back the last comparison"),
      element("button", { type: "button", id: "rank-again", click: leave }, "Rank other answers")),
  ];
}

/** Set up the tab. `given`: report, say, notice, prompt(), options(), voted(), bothSides(what, preference). */
export function drawRank(given) {
  tools = given;
  on("policy profile", () => state.policy && leave());
}
