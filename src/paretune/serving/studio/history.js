// The votes of the chosen profile on the chosen policy: listed, deleted one by one, or forgotten together with the profile.

import { pair } from "./answers.js";
import { call } from "./api.js";
import { isSealed } from "./blind.js";
import { on, state } from "./state.js";
import { byId, element, number, preferenceText } from "./words.js";
import { places } from "./expected.js";

const PAGE = 50;
const WON = { first: "A is better", second: "B is better", tie: "About equal" };

let tools = null;

/** Show the newest votes; `before` is the id of a vote to go on from. */
export async function loadHistory(before) {
  const root = byId("history");
  const [policy, profile] = [state.policy, state.profile];
  try {
    const query = new URLSearchParams({ profile, policy: policy.name, limit: PAGE, ...(before ? { before } : {}) });
    const { votes } = await call("GET", `/api/votes?${query}`);
    if (policy !== state.policy || profile !== state.profile) return;
    if (before) byId("vote-list").append(...votes.map((vote) => line(vote, policy)));
    else draw(root, votes, policy);
    more(root, votes);
  } catch (error) {
    root.replaceChildren(element("p", { class: "small" }, error.status === 409 ? `There are no votes here: ${error.message}.` : "The votes could not be loaded."));
    if (error.status !== 409) tools.report(error, () => loadHistory(before));
  }
}

function draw(root, votes, policy) {
  const about = tools.profiles().find((one) => one.name === state.profile);
  const count = about?.votes ?? 0;
  const forget = about?.deletable === false
    ? element("p", { class: "small" }, "This profile is shared by all API keys; only an admin's key deletes it.")
    : element("button", { type: "button", id: "forget", click: () => forgetProfile(count) }, `Delete the profile ${state.profile} with all its votes and presets`);
  root.replaceChildren(
    votes.length ? element("ul", { class: "list votes-list", id: "vote-list" }, ...votes.map((vote) => line(vote, policy))) : element("p", { class: "small" }, `${state.profile} has not voted on this policy yet.`),
    about || count ? forget : "");
}

/** Offer older votes where there may be some. */
function more(root, votes) {
  byId("vote-more")?.remove();
  if (votes.length < PAGE) return;
  byId("vote-list").after(element("button", { type: "button", id: "vote-more", click: () => loadHistory(votes.at(-1).id) }, "Show older votes"));
}

/** Return whether a vote is on the pair whose sides are hidden: it would tell them. */
const tells = (vote) => isSealed() && vote.first.text === pair.asked.a.text && vote.second.text === pair.asked.b.text;

function line(vote, policy) {
  const shown = places(policy);
  const asked = vote.messages.at(-1)?.content ?? "";
  const told = (answer, letter) => {
    const own = answer.scores && policy.objectives.every((name) => name in answer.scores);
    const scores = own ? `; scored ${policy.objectives.map((name) => `${name} ${number(answer.scores[name], shown[name])}`).join(", ")}` : "";
    return element("details", { class: "more" },
      element("summary", {}, `${letter}: ${preferenceText(answer.preference)}${scores}`), element("p", { class: "told-text" }, answer.text || "(an empty answer)"));
  };
  const when = vote.created ? new Date(vote.created).toLocaleString() : "";
  const hidden = tells(vote);
  const answers = hidden ? [element("p", { class: "small" }, "Its sides are hidden until you vote on the whole.")] : [told(vote.first, "A"), told(vote.second, "B")];
  return element("li", { "data-vote": vote.id },
    element("span", { class: "name" }, hidden ? "A vote" : WON[vote.winner], vote.objective ? ` on ${vote.objective}` : ""),
    element("div", {}, element("p", { class: "small" }, when), element("p", { class: "asked" }, asked), ...answers),
    element("button", { type: "button", class: "link", "aria-label": `Delete the vote on ${asked.slice(0, 40)}`, click: () => remove(vote) }, "Delete"));
}

async function remove(vote) {
  const [policy, profile] = [state.policy, state.profile];
  try {
    const result = await call("DELETE", `/api/votes/${vote.id}`);
    tools.taken(policy, profile, result);
    tools.say("The vote is deleted.");
    byId("tab-history").focus();
  } catch (error) {
    tools.report(error, () => remove(vote));
  }
}

async function forgetProfile(count) {
  const profile = state.profile;
  const votes = `${count} ${count === 1 ? "vote" : "votes"}`;
  if (!(await tools.sure(`The profile ${profile}, its ${votes} and its presets are deleted for good. This cannot be taken back.`))) return;
  try {
    await call("DELETE", `/api/profiles/${encodeURIComponent(profile)}`);
    await tools.forgotten(profile);
    tools.say(`The profile ${profile} is deleted.`);
  } catch (error) {
    tools.report(error, () => forgetProfile(count));
  }
}

/** Set up the tab. `given`: report, say, taken(policy, profile, result), profiles(), reloadProfiles(), sure(text), forgotten(profile). */
export function drawHistory(given) {
  tools = given;
  on("policy profile votes sealed", async () => {
    if (byId("history").hidden) return;
    await tools.reloadProfiles();
    loadHistory();
  });
}
