// Votes without knowing: until the vote the last two answers stand in a random order, and nothing on the page says which side
// wrote which. An answer that was shown with its side is never hidden again.

import { pair } from "./answers.js";
import { SIDES, talk } from "./conversation.js";
import { rich } from "./rendered.js";
import { changed, keep, kept, on } from "./state.js";
import { byId, element } from "./words.js";

const PLACES = ["left", "right"];
/** "ID|ID" of A's and B's answer -> their sides from left to right. */
const orders = new Map();
/** "ID|ID" -> the two sheets that show them without their sides. */
const sheets = new Map();
/** The pair whose vote is on its way to the server: it is told apart once the vote is kept. */
let held = null;

const keyOf = ({ a, b }) => `${a.id}|${b.id}`;

/** Return whether votes are blind. */
export const isBlind = () => Boolean(kept().blind);

/** Return whether the sides of two answers are hidden now. */
function hides({ a, b }) {
  if (!isBlind() || !a || !b || a.seen || b.seen) return false;
  return held === keyOf({ a, b }) || !talk.votes[keyOf({ a, b })];
}

/** Return whether the sides of the pair that can be voted on are hidden. */
export const isSealed = () => Boolean(pair.asked && hides(pair.asked));

/** Return the sides of the pair from left to right. */
export function order() {
  return (pair.asked && orders.get(keyOf(pair.asked))) ?? ["a", "b"];
}

/** Return the winner that a choice of a place means: "first" is the left place, "second" the right one, "tie" neither. */
export function winnerAt(place) {
  if (place === "tie") return "tie";
  return order()[place === "first" ? 0 : 1] === "a" ? "first" : "second";
}

/** Return the sides of a round in the order in which they are shown. */
export function sidesOf({ answers: { a, b } }) {
  const known = a && b && orders.get(keyOf({ a, b }));
  return known ? [...known, ...SIDES.slice(2)] : SIDES;
}

/** Hold the sides back while a vote is on its way. */
export function hold() {
  held = isSealed() ? keyOf(pair.asked) : null;
}

/** Tell the sides of a pair, or, where its vote could not be kept, go on hiding them. */
export function release(asked, told) {
  held = null;
  if (told) for (const side of ["a", "b"]) asked[side].seen = true;
  changed("talk pair");
}

// What is shown of a pair whose sides are hidden

function sheet(place) {
  const name = place[0].toUpperCase() + place.slice(1);
  const text = element("div", { class: "text", id: `answer-${place}`, tabindex: 0, role: "region", "aria-label": `${name} answer` });
  const note = element("p", { class: "small" });
  const root = element("article", { class: "answer sealed", "aria-label": `${name} answer` }, element("p", { class: "side" }, name), text, note);
  return { root, text, note, shown: "", done: false };
}

function fill(one, answer) {
  const { root, text, note } = one;
  root.classList.toggle("live", answer.live);
  if (answer.text !== one.shown) {
    one.shown = answer.text;
    one.done = false;
    text.classList.remove("rich");
    text.textContent = answer.text;
  }
  if (answer.live || one.done) return;
  one.done = true;
  if (!answer.text) text.replaceChildren(element("span", { class: "empty" }, answer.error ? "No answer." : "(an empty answer)"));
  else rich(text, answer);
  note.textContent = { length: "cut at the token limit", cancelled: "stopped", broken: "broke off" }[answer.reason] ?? "";
}

/** Return the sheets of a round whose sides are hidden, null where they are not; a round that is shown openly is seen from then on. */
export function sheetsOf({ answers }, last) {
  const both = { a: answers.a, b: answers.b };
  if (!last || !hides(both)) {
    for (const answer of Object.values(answers)) answer.seen = true;
    return null;
  }
  const key = keyOf(both);
  if (!orders.has(key)) orders.set(key, Math.random() < 0.5 ? ["a", "b"] : ["b", "a"]);
  if (!sheets.has(key)) sheets.set(key, PLACES.map(sheet));
  const drawn = sheets.get(key);
  drawn.forEach((one, k) => fill(one, both[orders.get(key)[k]]));
  return drawn.map(({ root }) => root);
}

/** Say on its sheet why an answer keeps one waiting. */
export function noted(answer, words) {
  if (!isSealed()) return;
  const place = order().findIndex((side) => pair.asked[side] === answer);
  const one = sheets.get(keyOf(pair.asked))?.[place];
  if (one) one.note.textContent = words;
}

/** Switch blind votes on or off; what is on the page already has been seen. */
export function setBlind(value) {
  keep({ blind: value });
  changed("talk pair");
}

/** Set up what hides the rest of the page while the sides of a pair are hidden. */
export function drawBlind() {
  const follow = () => {
    const sealed = isSealed();
    const before = byId("studio").classList.contains("hides");
    byId("studio").classList.toggle("hides", sealed);
    byId("hidden-note").hidden = !sealed;
    if (sealed !== before) changed("sealed");
  };
  byId("steer").parentElement.before(element("p", { class: "hidden-note small", id: "hidden-note", hidden: true }, "Preferences, front and policy are hidden until you vote."));
  on("talk pair", follow);
  on("grown", () => {
    if (!isSealed()) return;
    const drawn = sheets.get(keyOf(pair.asked));
    drawn?.forEach((one, k) => fill(one, pair.asked[order()[k]]));
  });
}
