// The ballot: which button stands for which answer, what is voted on (the whole, or one objective), and whether one votes blind.

import { pair } from "./answers.js";
import { isBlind, isSealed, order, setBlind, winnerAt } from "./blind.js";
import { places } from "./expected.js";
import { on, state } from "./state.js";
import { byId, element, number } from "./words.js";

/** Places and their buttons: "first" is on the left, "second" on the right. */
export const BUTTONS = { first: "vote-first", tie: "vote-tie", second: "vote-second" };
const KEYS = { first: "1", tie: "2", second: "3" };

/** Votes on single objectives: "ID|ID" of the answers -> objective -> winner. */
const marks = new Map();
let objective = null;
let tools = null;

const marksOf = (asked) => marks.get(`${asked.a.id}|${asked.b.id}`) ?? {};

/** Return the objective that is voted on, null for the whole. */
export const votedOn = () => objective;

/** Return the winner that was voted for on what is voted on now, or null. */
export const given = () => (pair.asked && (objective === null ? pair.voted : marksOf(pair.asked)[objective])) ?? null;

/** Note a vote on an objective; a winner of null takes it back. */
export function mark(asked, name, winner) {
  const found = { ...marksOf(asked), [name]: winner };
  if (!winner) delete found[name];
  marks.set(`${asked.a.id}|${asked.b.id}`, found);
}

/** Return whether there is a vote on an objective that can be taken back. */
export const isMarked = () => [...marks.values()].some((found) => Object.keys(found).length > 0);

/** Draw the buttons: whether they can be pressed, and which one was. */
export function drawBallot(open, canSkip) {
  const sealed = isSealed();
  for (const [place, name] of Object.entries(BUTTONS)) {
    const button = byId(name);
    const side = order()[place === "first" ? 0 : 1];
    const letter = side.toUpperCase();
    const words = place === "tie" ? ["About equal"]
      : sealed ? [place === "first" ? "Left is better" : "Right is better"]
        : [element("span", { class: `mark ${side}`, "aria-hidden": "true" }, letter), `${letter} is better`];
    button.replaceChildren(...words, element("kbd", {}, KEYS[place]));
    button.setAttribute("aria-disabled", String(!open));
    button.setAttribute("aria-pressed", String(given() !== null && given() === winnerAt(place)));
  }
  byId("skip").hidden = !canSkip;
  byId("blind").checked = isBlind();
  drawObjectives();
  drawDifference();
}

/** Say by how much the own scores of A exceed those of B, once both are known and not hidden. */
function drawDifference() {
  const { policy, a, b } = isSealed() ? {} : pair.asked ?? {};
  const known = a?.own && b?.own ? policy.objectives.filter((name) => Number.isFinite(a.own[name]) && Number.isFinite(b.own[name])) : [];
  const shown = known.length ? places(policy) : {};
  const told = (name) => {
    const gap = number(a.own[name] - b.own[name], shown[name]);
    return `${name} ${Number(gap) > 0 ? "+" : ""}${gap}`;
  };
  byId("difference").hidden = !known.length;
  byId("difference").textContent = known.length ? `A − B in their own scores: ${known.map(told).join(", ")}.` : "";
}

/** Draw the choice of what is voted on; a vote that was given has a tick. */
function drawObjectives() {
  const box = byId("vote-on");
  const names = state.policy?.objectives ?? [];
  box.hidden = names.length < 2;
  if (objective !== null && !names.includes(objective)) objective = null;
  const done = pair.asked ? { ...marksOf(pair.asked), ...(pair.voted ? { "": pair.voted } : {}) } : {};
  const wanted = JSON.stringify([names, objective, Object.keys(done)]);
  if (box.dataset.drawn === wanted) return;
  box.dataset.drawn = wanted;
  const focused = box.contains(document.activeElement) ? document.activeElement.value : null;
  box.replaceChildren(element("legend", { class: "unseen" }, "Better on"), ...[null, ...names].map((name) => element("label", {},
    element("input", { type: "radio", name: "vote-on", value: name ?? "", checked: name === objective, change: () => { objective = name; tools.redraw(); } }),
    element("span", {}, name ?? "overall", done[name ?? ""] ? " ✓" : ""))));
  if (focused !== null) [...box.querySelectorAll("input")].find((input) => input.value === focused)?.focus();
}

/** Set up the ballot. `given`: vote(place), skip(), redraw(). */
export function setBallot(wanted) {
  tools = wanted;
  byId("ballot").before(element("div", { class: "row vote-tools" },
    element("label", { class: "check" }, element("input", { type: "checkbox", id: "blind", change: (event) => setBlind(event.target.checked) }), " Blind"),
    element("span", { class: "group" }, element("span", { class: "small", "aria-hidden": "true" }, "Better on"), element("fieldset", { class: "segments", id: "vote-on" })),
    element("button", { type: "button", class: "link", id: "skip", hidden: true, click: () => tools.skip() }, "Skip this pair", element("kbd", {}, "S"))));
  byId("ballot").after(element("p", { class: "small difference", id: "difference", hidden: true }));
  on("scored", drawDifference);
  for (const [place, name] of Object.entries(BUTTONS)) byId(name).addEventListener("click", () => tools.vote(place));
}
