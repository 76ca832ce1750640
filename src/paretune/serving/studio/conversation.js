// The conversation as a tree of turns: a user's turn has answers of A, B and the base model, and each answer may be gone on from.
// The path to `head` is what is shown; what leaves it stays as a branch. Nothing here is drawn or sent.

import { newAnswer } from "./asking.js";

export const SIDES = ["a", "b", "base"];
const TITLE = 60;

/**
 * remote: id in the server's store, null while there is none; turns: id -> turn, in the order in which they were made;
 * head: id of the answer that the next message goes on from, or of a user's turn without any; shown: id of a user's turn ->
 * {side: id of the answer that is shown}; votes: "ID|ID" of A's and B's answer -> winner.
 * A user's turn is {id, parent, role, text}; an answer is as in asking.js, with id, parent, role and preference.
 */
export const talk = {};

/** Begin an empty conversation; the system prompt stays. */
export function restart(system = talk.system ?? "") {
  Object.assign(talk, { remote: null, title: "", system, turns: new Map(), head: null, shown: {}, votes: {}, count: 0 });
}
restart();

/** Return the turn of an id. */
export const turnOf = (id) => talk.turns.get(id);

/** Return the turns that follow `id`, or the first turns where it is null. */
export const following = (id) => [...talk.turns.values()].filter((turn) => turn.parent === id);

function add(turn) {
  talk.count += 1;
  turn.id ??= `t${talk.count}`;
  talk.turns.set(turn.id, turn);
  return turn;
}

/** Add a user's turn after an answer, or at the beginning where `parent` is null, and go there. */
export function addUser(text, parent = talk.head) {
  const turn = add({ parent, role: "user", text });
  talk.head = turn.id;
  talk.title ||= text.length > TITLE ? `${text.slice(0, TITLE - 1)}…` : text;
  return turn;
}

/** Add an answer of a side to a user's turn, and show it. */
export function addAnswer(user, side, more) {
  const answer = add(newAnswer(side, { parent: user.id, role: "assistant", ...more }));
  (talk.shown[user.id] ??= {})[side] = answer.id;
  return answer;
}

/** Remove a user's turn that got no answer at all. */
export function removeTurn(user) {
  for (const turn of [user, ...following(user.id)]) talk.turns.delete(turn.id);
  talk.head = user.parent;
  if (!talk.turns.size) talk.title = "";
}

/** Return the turns from the first to the one of an id. */
function lineage(id) {
  const line = [];
  for (let turn = turnOf(id); turn; turn = turnOf(turn.parent)) line.unshift(turn);
  return line;
}

/**
 * Return what is shown, from the first message on: {user, answers: {side: answer}, chosen}; `chosen` is the answer that the
 * conversation goes on from, null before there is any.
 */
export function rounds() {
  const line = lineage(talk.head);
  return line.filter((turn) => turn.role === "user").map((user) => {
    const chosen = line.find((turn) => turn.parent === user.id) ?? null;
    const shown = {};
    for (const side of SIDES) {
      const versions = versionsOf(user, side);
      const id = chosen?.side === side ? chosen.id : talk.shown[user.id]?.[side];
      if (versions.length) shown[side] = versions.find((answer) => answer.id === id) ?? versions.at(-1);
    }
    return { user, answers: shown, chosen };
  });
}

/** Return the answers of one side to a user's turn, the oldest first. */
export const versionsOf = (user, side) => following(user.id).filter((turn) => turn.side === side);

/** Return a user's turn and those that were written in its place, the oldest first. */
export const editsOf = (user) => following(user.parent).filter((turn) => turn.role === "user");

/** Return the conversation up to a user's turn, as messages of a request. */
export function messagesTo(user) {
  const line = lineage(user.id).map((turn) => ({ role: turn.role, content: turn.text }));
  return [...(talk.system.trim() ? [{ role: "system", content: talk.system.trim() }] : []), ...line];
}

/** Go to a turn, and from there to the last message that follows it. */
export function goTo(turn) {
  for (let at = turn; at; at = next(at)) talk.head = at.id;
}

function next(turn) {
  const after = following(turn.id);
  if (turn.role === "assistant") return after.at(-1);
  return after.filter((answer) => following(answer.id).length).at(-1) ?? preferred(turn, after);
}

/** Return the answer to go on from where nobody has chosen yet: the one that a vote prefers, else the first with a text. */
function preferred(user, answers) {
  const shown = SIDES.map((side) => answers.filter((answer) => answer.side === side).at(-1)).filter(Boolean);
  const kept = turnOf(talk.shown[user.id]?.chosen);
  return kept ?? shown.find((answer) => answer.text && !answer.error) ?? shown[0];
}

/** Go on from an answer: it is part of what the next request says. */
export function choose(answer) {
  (talk.shown[answer.parent] ??= {})[answer.side] = answer.id;
  talk.shown[answer.parent].chosen = answer.id;
  goTo(answer);
}

/** Show another version of an answer; where the conversation went on from the one before, it goes to what follows this one. */
export function showVersion(answer) {
  (talk.shown[answer.parent] ??= {})[answer.side] = answer.id;
  const round = rounds().find(({ user }) => user.id === answer.parent);
  if (round?.chosen?.side === answer.side) choose(answer);
}

/** Return the answers that are on their way. */
export const live = () => [...talk.turns.values()].filter((turn) => turn.live);

const KEPT = ["id", "parent", "role", "side", "text", "about", "reason", "own", "missing", "first", "took", "tokens", "preference", "policy", "remote", "pieces", "seen"];

/** Return the conversation as JSON can hold it. An answer on its way is marked, as it would be cut there. */
export function dumped() {
  const turns = [...talk.turns.values()].map((turn) => ({
    ...Object.fromEntries(KEPT.filter((key) => turn[key] !== undefined).map((key) => [key, turn[key]])),
    ...(turn.live || turn.error ? { reason: "broken" } : {}),
  }));
  return { ...talk, turns };
}

/** Take a conversation as `dumped` returned it, or as made from the store. */
export function restored(held) {
  restart("");
  Object.assign(talk, held, { turns: new Map() });
  for (const turn of held.turns) {
    talk.turns.set(turn.id, turn.role === "user" ? turn : { ...newAnswer(turn.side), ...turn });
  }
  talk.count = Math.max(talk.count ?? 0, held.turns.length);
  if (talk.head !== null && !turnOf(talk.head)) talk.head = null;
  if (talk.head === null && following(null).length) goTo(following(null).at(-1));
}
