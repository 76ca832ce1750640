// Two answers to one prompt, streamed side by side at the preferences of A and B, with the preferences that were served.

import { Refusal, call, stream } from "./api.js";
import { changed, state } from "./state.js";
import { byId, element, interval, listing, number, plainly, preferenceText, same } from "./words.js";
import { expectedWords, places } from "./expected.js";

const MOST_TRIES = 60;
const LONGEST_WAIT = 60;
/** Codes of a 503 that waiting does not mend: what the server needs behind it fails. */
const LASTING = ["unavailable", "upstream_failed", "store_unavailable", "audit_unavailable", "draining"];
const CLASSES = [0.05, 0.2, 0.5, 1.0];

/**
 * The last pair: {prompt, policy, a, b, scoring}, each answer {text, about, reason, pieces, own}; null before the first. `own` are
 * the answer's own scores, null while they are not known; `scoring` is done once they are, or once it is known that there are none.
 * `whole`: both have ended by themselves, so that they can be compared. `apart`: they are at different preferences.
 */
export const pair = { asked: null, running: false, whole: false, apart: false, voted: null };

const cards = {};
let stopping = null;

/** Return a card that shows one answer as it grows. */
function makeCard(side) {
  const letter = side.toUpperCase();
  const what = element("span", { class: "what" });
  const snap = element("span", { class: "snap" });
  const text = element("div", { class: "text", id: `answer-${side}`, tabindex: 0, role: "region", "aria-label": `Answer ${letter}` });
  const note = element("p", { class: "note" });
  const meter = element("div", { class: "meter", hidden: true });
  const scores = element("div", { class: "figures" });
  const foot = element("p", { class: "small" });
  const card = element("article", { class: `answer ${side}`, "aria-label": `Answer ${letter}` },
    element("p", { class: "side" }, element("span", { class: `mark ${side}`, "aria-hidden": "true" }, letter), what, snap),
    text, note, meter, scores, foot);
  byId("answers").append(card);
  return { card, what, snap, text, note, meter, scores, foot };
}

/** Draw the two empty cards. */
export function drawAnswers() {
  for (const side of ["a", "b"]) {
    cards[side] = makeCard(side);
    cards[side].text.append(element("span", { class: "empty" }, `The answer at preference ${side.toUpperCase()}.`));
  }
}

/** Return the colour class of a conflict in nats: 0 where the policies agree, 4 where they differ most. */
const grade = (conflict) => CLASSES.filter((bound) => conflict >= bound).length;

/** Return where the mixed policies disagreed, in words: the alternative to the colours. */
function describeConflict(pieces) {
  const all = pieces.flatMap((piece) => piece.conflicts);
  const mean = all.reduce((sum, value) => sum + value, 0) / all.length;
  const most = [...pieces].filter((piece) => piece.text.trim()).sort((p, q) => q.most - p.most).slice(0, 3).filter((piece) => grade(piece.most) > 0);
  const where = most.length ? ` Most at ${most.map((piece) => `“${piece.text.trim()}” (${number(piece.most, 2)})`).join(", ")}.` : " They agree almost everywhere.";
  return `Conflict of the mixed policies: ${number(mean, 2)} nats per token.${where}`;
}

function append(side, answer, piece, conflicts) {
  const { text } = cards[side];
  const held = [...answer.waiting, ...conflicts];
  if (!piece) return void (answer.waiting = held);
  answer.waiting = [];
  if (!answer.text) text.replaceChildren();
  answer.text += piece;
  const stick = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
  if (held.length) {
    const most = Math.max(...held);
    answer.pieces.push({ text: piece, conflicts: held, most });
    text.append(element("span", { class: `conflict c${grade(most)}`, title: `conflict ${number(most, 2)} nats` }, piece));
  } else {
    text.append(piece);
  }
  if (stick) text.scrollTop = text.scrollHeight;
}

/** Show the scores of an answer itself, beside those that the front expects at its preference. */
function showScores(side, policy, answer, missing = {}) {
  const { scores } = cards[side];
  const expected = answer.about?.expected;
  if (!expected && !answer.own) return void scores.replaceChildren();
  const shown = places(policy);
  const mine = (name) => (answer.own ? number(answer.own[name], shown[name]) : answer.scoring ? "…" : "-");
  const row = (name) => element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "mine" }, mine(name)),
    element("td", {}, expected ? interval(expected[name], shown[name]) : "-"));
  const reasons = policy.objectives.filter((name) => missing[name]).map((name) => `no score of its own on ${name}: ${missing[name]}`);
  scores.replaceChildren(
    element("table", {},
      element("thead", {}, element("tr", {}, element("td", {}), ...["this answer", expectedWords()].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...policy.objectives.map(row))),
    reasons.length ? element("p", { class: "small" }, `${listing(reasons)}.`) : "");
}

/** Fetch the scores of both answers themselves; without them a vote is learned from what the front expects. */
async function scoreBoth(asked) {
  const { policy } = asked;
  if (policy.scored?.length === 0) return;
  for (const side of ["a", "b"]) { asked[side].scoring = true; showScores(side, policy, asked[side]); }
  let missing = {};
  try {
    const answers = ["a", "b"].map((side) => ({ text: asked[side].text, truncated: asked[side].reason === "length" }));
    const found = await call("POST", "/api/score", { policy: policy.name, messages: [{ role: "user", content: asked.prompt }], answers });
    missing = found.missing ?? {};
    ["a", "b"].forEach((side, k) => (asked[side].own = found.scores[k]));
  } catch (error) {
    missing = Object.fromEntries(policy.objectives.map((name) => [name, error.message]));
  }
  for (const side of ["a", "b"]) {
    asked[side].scoring = false;
    if (pair.asked === asked) showScores(side, policy, asked[side], missing);
  }
}

function showAbout(side, policy, answer) {
  const { what, snap } = cards[side];
  const { about } = answer;
  what.textContent = preferenceText(about.preference);
  const notes = [];
  if (about.snapped && !same(about.asked, about.preference)) notes.push(`nearest to ${preferenceText(about.asked)}`);
  if (about.upstream_model) notes.push(`answered by ${about.upstream_model}`);
  snap.textContent = notes.join(", ");
  showScores(side, policy, answer);
}

function finish(side, answer) {
  const { card, text, foot, meter } = cards[side];
  card.classList.remove("live");
  if (!answer.text && answer.reason) text.replaceChildren(element("span", { class: "empty" }, "(an empty answer)"));
  const words = answer.text.split(/\s+/).filter(Boolean).length;
  const ends = { length: "cut at the token limit", cancelled: "stopped" }[answer.reason];
  foot.textContent = [`${words} ${words === 1 ? "word" : "words"}`, ends, answer.about && `seed ${answer.about.seed}`].filter(Boolean).join(" · ");
  meter.hidden = !answer.pieces.length;
  if (answer.pieces.length) {
    meter.replaceChildren(
      element("span", { class: "scale", "aria-hidden": "true" }, "agree", ...[0, 1, 2, 3, 4].map((k) => element("i", { class: `conflict c${k}` })), "differ"),
      element("span", {}, describeConflict(answer.pieces)));
  }
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("stopped", "AbortError")); }, { once: true });
  });

/**
 * Return what `attempt` returns. A busy or starting server is asked again after the time that it states, for which `told` gets the
 * words, and "" at its end, as long as `repeatable` is true.
 */
export async function patiently(attempt, signal, told, repeatable = () => true) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      const passes = error.status === 429 || (error.status === 503 && !LASTING.includes(error.code));
      if (!(error instanceof Refusal && error.retryAfter && passes && tries < MOST_TRIES && repeatable())) throw error;
      for (let left = Math.min(LONGEST_WAIT, error.retryAfter); left > 0; left -= 1) {
        told(`${plainly(error)} Trying again in ${left} s.`);
        await pause(Math.min(1, left), signal);
      }
      told("");
    }
  }
}

/** Fetch one answer; a request to a busy or starting server is repeated after the time that it states. */
async function run(side, body, policy, answer, signal) {
  const { card, text, note, foot, meter, scores, snap } = cards[side];
  card.className = `answer ${side} live`;
  text.replaceChildren();
  for (const part of [note, foot, meter, scores, snap]) part.textContent = "";
  meter.hidden = true;
  cards[side].what.textContent = preferenceText(body.preference);
  await patiently(
    () => stream(body, (chunk) => {
      const [choice] = chunk.choices;
      if (chunk.paretune?.preference) { answer.about = chunk.paretune; showAbout(side, policy, answer); }
      if (!choice) return;
      append(side, answer, choice.delta.content ?? "", chunk.paretune?.conflicts ?? []);
      answer.reason = choice.finish_reason ?? answer.reason;
    }, signal),
    signal, (text) => (note.textContent = text), () => !answer.text);
}

async function attempt(side, body, policy, answer, signal) {
  try {
    await run(side, body, policy, answer, signal);
  } catch (error) {
    if (error.name === "AbortError") {
      answer.reason = "cancelled";
      cards[side].note.textContent = "";
      if (!answer.text) cards[side].text.replaceChildren(element("span", { class: "empty" }, "No answer: it was stopped."));
    } else {
      answer.error = error;
      cards[side].note.textContent = answer.text ? "The answer broke off here." : "";
      if (!answer.text) cards[side].text.replaceChildren(element("span", { class: "empty" }, "No answer."));
    }
  }
  finish(side, answer);
}

/** Request both answers; returns the first error, or null. Both have the same seed, so that only the preference differs. */
export async function ask(prompt, options) {
  stop();
  const policy = state.policy;
  const mine = (stopping = new AbortController());
  const fresh = () => ({ text: "", about: null, reason: null, pieces: [], waiting: [], error: null, own: null, scoring: false });
  Object.assign(pair, { asked: { prompt, policy, a: fresh(), b: fresh() }, running: true, whole: false, apart: false, voted: null });
  changed("pair");
  const asked = pair.asked;
  const body = { model: policy.name, messages: [{ role: "user", content: prompt }], seed: Math.floor(Math.random() * 2 ** 31), ...options };
  await Promise.all(["a", "b"].map((side) =>
    attempt(side, { ...body, preference: state.sides[side].preference }, policy, asked[side], mine.signal)));
  if (pair.asked !== asked) return null;
  pair.running = false;
  pair.whole = ["a", "b"].every((side) => ["stop", "length"].includes(asked[side].reason) && asked[side].about);
  pair.apart = pair.whole && !same(asked.a.about.preference, asked.b.about.preference);
  if (pair.whole) asked.scoring = scoreBoth(asked);
  changed("pair");
  return asked.a.error ?? asked.b.error;
}

/** Cancel the running answers; their text so far stays. */
export function stop() {
  stopping?.abort();
  stopping = null;
}

/** Mark the card that the vote prefers. */
export function showVote(winner) {
  pair.voted = winner;
  cards.a.card.classList.toggle("won", winner === "first");
  cards.b.card.classList.toggle("won", winner === "second");
  changed("pair");
}
