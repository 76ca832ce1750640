// Asking: a user's turn is answered at the preferences of A and B, and by the base model where that is wanted, all with one seed.

import { call } from "./api.js";
import { fetchAnswer } from "./asking.js";
import { SIDES, addAnswer, addUser, choose, messagesTo, removeTurn, rounds, talk, turnOf } from "./conversation.js";
import { changed, policyNamed, policyOf, state } from "./state.js";
import { same } from "./words.js";

const LETTERS = ["a", "b"];

/**
 * The last pair: {user, prompt, messages, policy, a, b, scoring}, null before the first; `messages` is the whole conversation that
 * both answer, `user` its last turn, and each answer is as in asking.js. `scoring` is done once the answers' own scores are known,
 * or once it is known that there are none. `whole`: both have ended by themselves, so that they can be compared. `apart`: they are
 * at different preferences. `mixed`: they are of different policies.
 */
export const pair = { asked: null, running: false, whole: false, apart: false, mixed: false, voted: null };

let stopping = null;
/** What shows an answer as it grows: told(answer, text), described(answer), grew(answer, piece), ended(answer), scored(answer). */
let views = null;

/** Set what shows the answers. */
export function showAnswersBy(given) {
  views = given;
}

const ended = (answer) => ["stop", "length"].includes(answer?.reason) && answer.about && !answer.live;
const keyOf = ({ a, b }) => `${a?.id}|${b?.id}`;

/** Make the pair that of the last round, as it is shown. */
export function refreshPair() {
  const last = rounds().at(-1);
  const { a, b } = last?.answers ?? {};
  const held = pair.asked;
  if (!a || !b) pair.asked = null;
  else if (held?.a !== a || held?.b !== b) {
    pair.asked = { user: last.user, prompt: last.user.text, messages: messagesTo(last.user), policy: policyNamed(a.policy) ?? state.policy, a, b, scoring: null };
  }
  pair.whole = Boolean(pair.asked && ended(a) && ended(b));
  pair.mixed = pair.whole && a.policy !== b.policy;
  pair.apart = pair.whole && (pair.mixed || !same(a.about.preference, b.about.preference));
  pair.voted = (pair.asked && talk.votes[keyOf(pair.asked)]) ?? null;
  if (pair.whole && !pair.running) pair.asked.scoring ??= scoreAll(pair.asked, [a, b, last.answers.base]);
}

/** Fetch the answers' own scores; without them a vote is learned from what the front expects. */
async function scoreAll({ policy, messages }, answers) {
  if (policy.scored?.length === 0) return;
  const open = answers.filter((answer) => answer && ended(answer) && !answer.own);
  if (!open.length) return;
  for (const answer of open) { answer.scoring = true; views.scored(answer); }
  let missing = {};
  try {
    const texts = open.map((answer) => ({ text: answer.text, truncated: answer.reason === "length" }));
    const found = await call("POST", "/api/score", { policy: policy.name, messages, answers: texts });
    missing = found.missing ?? {};
    open.forEach((answer, k) => (answer.own = found.scores[k]));
  } catch (error) {
    missing = Object.fromEntries(policy.objectives.map((name) => [name, error.message]));
  }
  for (const answer of open) { Object.assign(answer, { scoring: false, missing }); views.scored(answer); }
  changed("scored");
}

/** Return the side that a new round is gone on from until somebody chooses: that of the answer before. */
function usual(user) {
  const before = turnOf(user.parent)?.side;
  return before === "b" ? "b" : "a";
}

/** Return what a side asks for. */
function request(side) {
  if (side === "base") return { model: state.front.base };
  return { model: policyOf(side).name, preference: state.sides[side].preference };
}

/** Fetch answers of some sides to a user's turn; returns the first error, or null. `texts`: side -> text to go on from. */
async function run(user, sides, options, texts = {}) {
  stop();
  const mine = (stopping = new AbortController());
  const before = rounds().find((round) => round.user === user)?.chosen;
  const seed = Math.floor(Math.random() * 2 ** 31);
  const messages = messagesTo(user);
  const asked = sides.map((side) => {
    const wanted = request(side);
    const text = texts[side] ?? "";
    const answer = addAnswer(user, side, { policy: wanted.model, preference: wanted.preference ?? null, live: true, text, began: text.length });
    const going = text ? { messages: [...messages, { role: "assistant", content: text }], continue_final_message: true } : { messages };
    return { answer, body: { ...wanted, ...going, seed, ...options } };
  });
  const first = asked.find(({ answer }) => answer.side === (before?.side ?? usual(user)));
  if (first || !before) choose((first ?? asked[0]).answer);
  pair.running = true;
  refreshPair();
  changed("talk pair");
  await Promise.all(asked.map(async ({ answer, body }) => {
    await fetchAnswer(body, answer, mine.signal, {
      told: (text) => views.told(answer, text), described: () => views.described(answer), grew: (piece) => views.grew(answer, piece),
    });
    views.ended(answer);
  }));
  if (stopping === mine) pair.running = false;
  const answers = asked.map(({ answer }) => answer);
  settle(user, answers);
  refreshPair();
  changed("talk pair");
  return answers.find((answer) => answer.error)?.error ?? null;
}

/** Go on from an answer with a text where the chosen one has none. */
function settle(user, answers) {
  const round = rounds().find((one) => one.user === user);
  if (!round || round.chosen?.text) return;
  const other = answers.find((answer) => answer.text);
  if (other) choose(other);
}

const wanted = (base) => (base && state.front.base ? SIDES : LETTERS);

/**
 * Ask all sides, the base model too if `base`; returns the first error, or null. A message without any answer is taken back.
 * `parent` is the answer that the message follows, by default the chosen one.
 */
export async function ask(prompt, options, { base = false, parent = talk.head } = {}) {
  stop();
  const user = addUser(prompt, parent);
  const error = await run(user, wanted(base), options);
  const answers = rounds().find((round) => round.user === user)?.answers ?? {};
  if (error && Object.values(answers).every((answer) => answer.error && !answer.text)) {
    removeTurn(user);
    refreshPair();
    changed("talk pair");
  }
  return error;
}

/** Ask some sides again for an answer to a user's turn; returns the first error, or null. */
export const again = (user, sides, options) => run(user, sides, options);

/** Let an answer that was cut go on where it ended; returns the error, or null. */
export const carryOn = (answer, options) => run(turnOf(answer.parent), [answer.side], options, { [answer.side]: answer.text });

/** Ask both sides again for the last message, at the preferences of now; returns the first error, or null. */
export const askLast = (options, base) => run(rounds().at(-1).user, wanted(base), options);

/** Cancel the running answers; their text so far stays. */
export function stop() {
  stopping?.abort();
  stopping = null;
  pair.running = false;
}

/** Mark the card that the vote prefers, and go on from it; `winner` is "first", "second", "tie", or null for no vote. */
export function showVote(winner) {
  pair.voted = winner;
  if (!pair.asked) return;
  if (winner) talk.votes[keyOf(pair.asked)] = winner;
  else delete talk.votes[keyOf(pair.asked)];
  const better = { first: pair.asked.a, second: pair.asked.b }[winner];
  if (better && rounds().at(-1).user === pair.asked.user) choose(better);
  changed("talk pair");
}
