// The conversation on the page: for each turn the message, and the cards of the answers with what can be done with them.

import { pair, refreshPair } from "./answers.js";
import { isSealed, noted, sheetsOf, sidesOf } from "./blind.js";
import { Card, letterOf } from "./card.js";
import { choose, editsOf, goTo, live, rounds, showVersion, talk, turnOf, versionsOf } from "./conversation.js";
import { copy, rich } from "./rendered.js";
import { changed, policyNamed, state } from "./state.js";
import { byId, element } from "./words.js";

const cards = new Map();
const blocks = new Map();
let tools = null;

const link = (key, text, click, more = {}) => element("button", { type: "button", class: "link", "data-key": key, click, ...more }, text);

/** Put children into a box; what had the focus there has it afterwards. */
function refill(box, ...children) {
  const key = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.replaceChildren(...children.filter(Boolean));
  if (key) box.querySelector(`[data-key="${key}"]`)?.focus();
}

/** Return arrows that go through versions, with "2 of 3" between them; null where there is one. */
function arrows(what, versions, at, go) {
  if (versions.length < 2) return null;
  const place = versions.indexOf(at);
  const step = (by, sign, name) => {
    const target = versions[place + by];
    return link(`${what}${by}`, sign, () => target && go(target), { class: "arrow", "aria-label": `${name} version of ${what}`, "aria-disabled": String(!target) });
  };
  return element("span", { class: "versions" }, step(-1, "‹", "Previous"), element("span", {}, `${place + 1} of ${versions.length}`), step(1, "›", "Next"));
}

function update() {
  refreshPair();
  changed("talk pair");
}

// Answers

const policyFor = (answer) => policyNamed(answer.policy) ?? (answer.side === "base" ? state.policy : null);

/** Return the card of an answer. */
function cardOf(answer) {
  if (cards.has(answer.id)) return cards.get(answer.id);
  const card = new Card(answer.side);
  cards.set(answer.id, card);
  card.begin(answer.preference);
  if (answer.text && answer.live) card.text.append(answer.text);
  if (answer.about) card.describe(policyFor(answer), answer);
  if (!answer.live) ended(card, answer);
  return card;
}

function ended(card, answer) {
  if (answer.pieces.length && card.text.childElementCount === 0) { card.text.replaceChildren(); answer.pieces.forEach((piece) => card.append(piece)); }
  else if (!card.text.childNodes.length) card.text.textContent = answer.text;
  card.finish(answer);
  if (answer.text && !answer.pieces.length) rich(card.text, answer);
}

function drawActs(card, answer, round) {
  const letter = letterOf(answer.side);
  const versions = versionsOf(round.user, answer.side);
  const chosen = round.chosen === answer;
  const running = pair.running;
  const cut = answer.text && !answer.live && (answer.error || ["length", "broken"].includes(answer.reason));
  const disabled = { "aria-disabled": String(running) };
  const unless = (act) => () => pair.running || act();
  const on = answer.text || round.chosen === answer
    ? element("button", { type: "button", class: "go-on", "data-key": "go-on", "aria-pressed": String(chosen), "aria-disabled": String(running),
      title: chosen ? "The next message goes on from this answer" : null, click: unless(() => { choose(answer); update(); tools.say(`The conversation goes on from ${letter}.`); }) },
    chosen ? `Going on with ${letter}` : `Continue with ${letter}`)
    : null;
  refill(card.acts,
    on,
    answer.text && !answer.live ? link("copy", "Copy", (event) => copy(event.target, answer.text, tools.say), { "aria-label": `Copy answer ${letter}` }) : null,
    answer.live ? null : link("again", "Ask again", unless(() => tools.again(round.user, [answer.side])), { "aria-label": `Ask ${letter} again`, ...disabled }),
    cut ? link("more", "Continue", unless(() => tools.carryOn(answer)), { "aria-label": `Continue answer ${letter}`, ...disabled }) : null,
    arrows(`answer ${letter}`, versions, answer, (version) => { if (!pair.running) { showVersion(version); update(); } }));
  card.root.classList.toggle("chosen", chosen);
  const won = { a: "first", b: "second" }[answer.side];
  card.root.classList.toggle("won", Boolean(pair.voted && pair.voted === won && [pair.asked.a, pair.asked.b].includes(answer)));
}

// Turns

class Block {
  constructor(user) {
    this.user = user;
    this.message = element("div", { class: "message" });
    this.acts = element("div", { class: "acts" });
    this.answers = element("div", { class: "answers" });
    this.root = element("section", { class: "round" }, element("div", { class: "said" }, this.message, this.acts), this.answers);
    this.editing = false;
  }

  /** Show a round; `place` counts from 1. */
  update(round, place, last) {
    const { user } = this;
    this.root.setAttribute("aria-label", `Turn ${place}`);
    if (!this.editing) this.message.textContent = user.text;
    const running = pair.running;
    refill(this.acts,
      this.editing ? null : link("edit", "Edit", () => this.edit(), { "aria-label": `Edit message ${place}` }),
      this.editing ? null : link("both", "Ask both again", () => pair.running || tools.again(user, ["a", "b"]), { "aria-label": `Ask both again for message ${place}`, "aria-disabled": String(running) }),
      this.editing ? null : arrows(`message ${place}`, editsOf(user), user, (turn) => { if (!pair.running) { goTo(turn); update(); } }));
    const sheets = sheetsOf(round, last);
    const shown = sidesOf(round).map((side) => round.answers[side]).filter(Boolean);
    const wanted = sheets ?? shown.map((answer) => cardOf(answer).root);
    if (wanted.length !== this.answers.children.length || wanted.some((root, k) => this.answers.children[k] !== root)) this.answers.replaceChildren(...wanted);
    this.answers.classList.toggle("three", wanted.length > 2);
    for (const answer of shown) {
      const card = cardOf(answer);
      card.text.id = last ? `answer-${answer.side}` : `answer-${answer.side}-${user.id}`;
      const name = `Answer ${letterOf(answer.side)}${last ? "" : ` to message ${place}`}`;
      for (const part of [card.root, card.text]) part.setAttribute("aria-label", name);
      drawActs(card, answer, round);
    }
  }

  /** Let the message be written anew; the one before stays as a branch. */
  edit() {
    if (pair.running) return;
    this.editing = true;
    const field = element("textarea", { rows: 3, maxlength: 100000, "aria-label": "The message, to be written anew", id: `edit-${this.user.id}` });
    field.value = this.user.text;
    const leave = () => { this.editing = false; changed("talk"); this.acts.querySelector("[data-key=edit]")?.focus(); };
    const send = () => { const text = field.value.trim(); if (!text) return void field.focus(); leave(); tools.send(text, this.user.parent); };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); leave(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    });
    this.message.replaceChildren(field, element("div", { class: "row" },
      element("button", { type: "button", class: "main", click: send }, "Ask both"), element("button", { type: "button", click: leave }, "Cancel")));
    refill(this.acts);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}

/** Draw the conversation as it is; cards and messages that stay are left alone. */
export function drawThread() {
  const root = byId("thread");
  const shown = rounds();
  const wanted = shown.map((round) => {
    if (!blocks.has(round.user.id)) blocks.set(round.user.id, new Block(round.user));
    return blocks.get(round.user.id);
  });
  shown.forEach((round, k) => { if (k < shown.length - 1) wanted[k].update(round, k + 1, false); });
  if (shown.length) wanted.at(-1).update(shown.at(-1), shown.length, true);
  wanted.forEach((block, k) => { if (root.children[k] !== block.root) root.insertBefore(block.root, root.children[k] ?? null); });
  while (root.children.length > wanted.length) root.lastElementChild.remove();
  byId("welcome").hidden = shown.length > 0;
  byId("talk-title").textContent = talk.title || "New conversation";
  document.title = talk.title ? `${talk.title} · paretune studio` : "paretune studio";
}

/** Forget what was drawn, before another conversation is shown. */
export function clearThread() {
  cards.clear();
  blocks.clear();
  byId("thread").replaceChildren();
}

/** Bring the last message to the top of the window, so that its answers are in view. */
export function showLast() {
  byId("thread").lastElementChild?.scrollIntoView({ block: "start" });
}

/** Return what shows answers as they grow, see `showAnswersBy`. */
export const views = {
  told: (answer, text) => { cardOf(answer).note.textContent = text; noted(answer, text); },
  described: (answer) => cardOf(answer).describe(policyFor(answer), answer),
  grew: (answer, piece) => { cardOf(answer).append(piece); changed("grown"); },
  ended: (answer) => {
    ended(cardOf(answer), answer);
    const waiting = live().map((one) => letterOf(one.side));
    if (waiting.length && !isSealed()) tools.say(`${letterOf(answer.side)} is complete; ${waiting.join(" and ")} ${waiting.length > 1 ? "are" : "is"} still answering.`);
  },
  scored: (answer) => cardOf(answer).showScores(policyFor(answer), answer),
};

/** Set up the conversation. `given`: say(text), send(text, parent), again(user, sides), carryOn(answer). */
export function setThread(given) {
  tools = given;
}

/** Return the answer of a card's element, or undefined. */
export const answerOf = (root) => turnOf([...cards].find(([, card]) => card.root === root)?.[0]);
