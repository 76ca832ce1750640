// The card of one answer: its preference, its text as it grows, what it measured, and how it ended.

import { state } from "./state.js";
import { element, interval, listing, number, preferenceText, same } from "./words.js";
import { expectedWords, places } from "./expected.js";

const CLASSES = [0.05, 0.2, 0.5, 1.0];

/** Return the letter of a side: A, B, or C for the base model. */
export const letterOf = (side) => (side === "base" ? "C" : side.toUpperCase());

/** Return the class of a side's colour and shape. */
export const classOf = (side) => (side === "base" ? "c" : side);

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

/** Return how many words, why it ended, how fast it was and with which seed, as one line. */
export function facts(answer) {
  const words = answer.text.split(/\s+/).filter(Boolean).length;
  const ends = { length: "cut at the token limit", cancelled: "stopped", broken: "broke off" }[answer.reason];
  const since = answer.first === null ? 0 : answer.took - answer.first;
  const speed = answer.tokens > 1 && since > 0 ? `${number((1000 * (answer.tokens - 1)) / since)} tokens/s` : "";
  const first = answer.first === null ? "" : `first text after ${number(answer.first / 1000, 1)} s`;
  return [`${words} ${words === 1 ? "word" : "words"}`, ends, first, speed, answer.about && `seed ${answer.about.seed}`].filter(Boolean).join(" · ");
}

/** A card of a side. `root` is its element; `policy` is what answers, as /api/front describes it. */
export class Card {
  constructor(side) {
    const letter = letterOf(side);
    this.side = side;
    this.what = element("span", { class: "what" });
    this.snap = element("span", { class: "snap" });
    this.text = element("div", { class: "text", tabindex: 0, role: "region", "aria-label": `Answer ${letter}` });
    this.note = element("p", { class: "note" });
    this.meter = element("div", { class: "meter", hidden: true });
    this.scores = element("div", { class: "figures" });
    this.foot = element("p", { class: "small" });
    this.acts = element("div", { class: "acts" });
    this.root = element("article", { class: `answer ${classOf(side)}`, "aria-label": `Answer ${letter}` },
      element("p", { class: "side" }, element("span", { class: `mark ${classOf(side)}`, "aria-hidden": "true" }, letter), this.what, this.snap),
      this.text, this.note, this.acts, this.meter, this.scores, this.foot);
  }

  /** Show words in place of a text. */
  empty(words) {
    this.text.replaceChildren(element("span", { class: "empty" }, words));
  }

  /** Clear the card for an answer that is on its way at a preference. */
  begin(preference) {
    this.root.className = `answer ${classOf(this.side)} live`;
    this.text.replaceChildren();
    for (const part of [this.note, this.foot, this.meter, this.scores, this.snap]) part.textContent = "";
    this.meter.hidden = true;
    this.what.textContent = preference ? preferenceText(preference) : "base model";
  }

  /** Add a piece of text at the end. What is read from the beginning on stays where it is. */
  append(piece) {
    const { text } = this;
    if (piece.conflicts.length) {
      text.append(element("span", { class: `conflict c${grade(piece.most)}`, title: `conflict ${number(piece.most, 2)} nats` }, piece.text));
    } else {
      text.append(piece.text);
    }
  }

  /** Show the scores of the answer itself, beside those that the front expects at its preference. */
  showScores(policy, answer) {
    const expected = answer.about?.expected;
    if (!policy || (!expected && !answer.own)) return void this.scores.replaceChildren();
    const shown = places(policy);
    const mine = (name) => (answer.own ? number(answer.own[name], shown[name]) : answer.scoring ? "…" : "-");
    const row = (name) => element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "mine" }, mine(name)),
      expected ? element("td", {}, interval(expected[name], shown[name])) : null);
    const reasons = policy.objectives.filter((name) => answer.missing[name]).map((name) => `no score of its own on ${name}: ${answer.missing[name]}`);
    this.scores.replaceChildren(
      element("table", {},
        element("thead", {}, element("tr", {}, element("td", {}), ...["this answer", ...(expected ? [expectedWords()] : [])].map((name) => element("th", { scope: "col" }, name)))),
        element("tbody", {}, ...policy.objectives.map(row))),
      reasons.length ? element("p", { class: "small" }, `${listing(reasons)}.`) : "");
  }

  /** Show which preference was served. */
  describe(policy, answer) {
    const { about } = answer;
    this.what.textContent = about.preference ? preferenceText(about.preference) : "base model";
    const notes = [];
    if (about.preference && policy && policy !== state.policy) notes.push(policy.title ?? policy.name);
    if (about.snapped && !same(about.asked, about.preference)) notes.push(`nearest to ${preferenceText(about.asked)}`);
    if (about.upstream_model) notes.push(`answered by ${about.upstream_model}`);
    this.snap.textContent = notes.join(", ");
    this.showScores(policy, answer);
  }

  /** Show how the answer ended. */
  finish(answer) {
    this.root.classList.remove("live");
    if (answer.reason === "cancelled") this.note.textContent = "";
    else if (answer.error || answer.reason === "broken") this.note.textContent = answer.text ? "The answer broke off here." : "";
    if (!answer.text) this.empty(answer.reason === "cancelled" ? "No answer: it was stopped." : answer.error || answer.reason === "broken" ? "No answer." : "(an empty answer)");
    this.foot.textContent = facts(answer);
    this.meter.hidden = !answer.pieces.length;
    if (answer.pieces.length) {
      this.meter.replaceChildren(
        element("span", { class: "scale", "aria-hidden": "true" }, "agree", ...[0, 1, 2, 3, 4].map((k) => element("i", { class: `conflict c${k}` })), "differ"),
        element("span", {}, describeConflict(answer.pieces)));
    }
  }
}
