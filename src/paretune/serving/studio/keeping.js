// The open conversation survives a reload: it is kept in this browser as it grows, and in the server's store where there is one.

import { refreshPair } from "./answers.js";
import { call } from "./api.js";
import { dumped, following, live, restart, restored, talk, turnOf } from "./conversation.js";
import { changed, on, state } from "./state.js";
import { clearThread } from "./thread.js";

const PLACE = "paretune-conversation";
const STORES = [() => sessionStorage, () => localStorage];
/** Milliseconds between two snapshots of an answer that grows. */
const OFTEN = 400;
const MOST_ABOUT = 18_000;
/** Statuses of a server without a store, or one that does not know conversations. */
const ABSENT = [404, 405, 409];

const syncing = { possible: true, running: null, again: false, told: "" };
let last = 0;
let later = 0;

/** Keep the conversation in this browser now. */
function snapshot() {
  last = performance.now();
  later = 0;
  const text = JSON.stringify({ ...dumped(), profile: state.profile });
  for (const store of STORES) {
    try {
      store().setItem(PLACE, text);
    } catch {
      // no room, or a private window: the server's store may still have it
    }
  }
}

/** Keep the conversation soon, as an answer grows piece by piece. */
export function snapshotSoon() {
  later ||= setTimeout(snapshot, Math.max(0, OFTEN - (performance.now() - last)));
}

/** Open the conversation that this tab had, or for a new tab the last one of this browser. */
export function reopen() {
  let held = null;
  for (const store of STORES) {
    try {
      held ??= JSON.parse(store().getItem(PLACE));
    } catch {
      // unreadable: begin anew
    }
  }
  if (!held?.turns?.length || held.profile !== state.profile) return;
  try {
    restored(held);
  } catch (error) {
    console.error(error);
    restart();
  }
}

// The server's store

/** Return what the store keeps of a turn. */
function body(turn) {
  const shared = { parent: turn.parent === null ? null : turnOf(turn.parent).remote, role: turn.role, content: turn.text };
  if (turn.role === "user") return shared;
  const { about, reason, own, missing, first, took, tokens, pieces } = turn;
  const facts = { about, reason: turn.error ? "broken" : reason, own, missing, first, took, tokens };
  const whole = { ...facts, pieces };
  const small = JSON.stringify(whole).length < MOST_ABOUT ? whole : facts;
  return { ...shared, side: turn.side, ...(turn.policy ? { policy: turn.policy } : {}), ...(turn.preference ? { preference: turn.preference } : {}), about: small };
}

/** Return whether a turn is there to stay: an answer that has ended with some text, or a message that was answered. */
const lasting = (turn) => (turn.role === "user" ? following(turn.id).some((answer) => answer.text) : turn.text && !turn.live && !turn.scoring);

/** Return the next turn that the store lacks and can take, as what it follows is there. */
const unkept = () => [...talk.turns.values()].find((turn) =>
  !turn.remote && !turn.refused && lasting(turn) && (turn.parent === null || turnOf(turn.parent)?.remote));

/** Return what the store knows of the conversation beside its turns. */
const outline = () => ({ ...(turnOf(talk.head)?.remote ? { head: turnOf(talk.head).remote } : {}), system: talk.system });

async function push() {
  const held = talk.turns;
  while (talk.turns === held && unkept()) {
    if (!talk.remote) {
      const made = await call("POST", "/api/conversations", { profile: state.profile, title: talk.title, ...(talk.system ? { system: talk.system } : {}) });
      if (talk.turns !== held) return;
      talk.remote = made.id;
    }
    const turn = unkept();
    try {
      turn.remote = (await call("POST", `/api/conversations/${talk.remote}/turns`, body(turn))).id;
    } catch (error) {
      if (error.status !== 413 && error.status !== 422) throw error;
      turn.refused = true;
    }
  }
  const now = outline();
  if (talk.remote && JSON.stringify(now) !== syncing.told) {
    await call("PATCH", `/api/conversations/${talk.remote}`, now);
    syncing.told = JSON.stringify(now);
  }
  snapshotSoon();
}

/** Bring the store up to date; what fails is tried again at the next change. */
export async function sync() {
  if (!state.front?.store || !syncing.possible) return;
  if (syncing.running) return void (syncing.again = true);
  syncing.running = push();
  try {
    await syncing.running;
  } catch (error) {
    if (ABSENT.includes(error.status) && !talk.remote) syncing.possible = false;
    else if (error.status === 404) talk.remote = null;
    else console.info("The conversation is not in the store yet.", error.message);
  }
  syncing.running = null;
  if (syncing.again) { syncing.again = false; sync(); }
}

/** Return whether this server keeps conversations, as far as is known. */
export const keepsTalks = () => Boolean(state.front?.store && syncing.possible);

// Opening and leaving

function show(told) {
  syncing.told = told;
  clearThread();
  refreshPair();
  changed("talk pair system");
}

/** Begin a new conversation; the one before stays in the store. */
export function begin() {
  restart();
  show("");
}

/** Open a conversation as the store returned it. */
export function open(found) {
  const turns = found.turns.map(({ id, parent, role, content, side, policy, preference, about }) =>
    (role === "user" ? { id, remote: id, parent, role, text: content }
      : { ...about, id, remote: id, parent, role, side: side ?? "a", text: content, policy, preference }));
  restored({ remote: found.id, title: found.title, system: found.system ?? "", head: found.head ?? null, shown: {}, votes: {}, count: turns.length, turns });
  show(JSON.stringify(outline()));
}

/** Set up what is kept. */
export function setKeeping() {
  on("grown", snapshotSoon);
  on("talk scored", () => { snapshotSoon(); sync(); });
  on("system", () => { snapshotSoon(); sync(); });
  addEventListener("pagehide", () => (live().length || later) && snapshot());
}
