// The answers that the evaluation measured at one point of the front, with their own scores: what its means are made of.

import { call } from "./api.js";
import { byId, element, number, plainly, preferenceArgument, preferenceText } from "./words.js";
import { state } from "./state.js";
import { places } from "./expected.js";

const PAGE = 20;
const MOST = 1000;

/** What is read: {policy, preference, limit, search}. */
let reading = null;
let waiting = null;
let asked = 0;

/** Return the dialog, made when it is first needed. */
function dialog() {
  if (byId("measured-dialog")) return byId("measured-dialog");
  const find = (event) => {
    clearTimeout(waiting);
    Object.assign(reading, { search: event.target.value, limit: PAGE });
    waiting = setTimeout(load, 200);
  };
  const made = element("dialog", { id: "measured-dialog", class: "wide", "aria-labelledby": "measured-title" },
    element("div", { class: "line" }, element("h2", { id: "measured-title" }), element("button", { type: "button", id: "measured-close", click: () => made.close() }, "Close")),
    element("label", {}, "Search prompts and answers", element("input", { id: "measured-search", type: "search", maxlength: 200, autocomplete: "off", input: find })),
    element("p", { class: "small", id: "measured-count", role: "status" }),
    element("ol", { class: "measured-list", id: "measured-list" }),
    element("button", { type: "button", id: "measured-more", hidden: true, click: () => { reading.limit = Math.min(MOST, 5 * reading.limit); load(); } }, "Show more"));
  document.body.append(made);
  return made;
}

/** Open the answers that were measured of a policy at a measured preference. */
export function readAnswers(policy, preference) {
  const box = dialog();
  reading = { policy, preference, limit: PAGE, search: "" };
  byId("measured-search").value = "";
  byId("measured-title").textContent = `Measured answers at ${preferenceText(preference)}`;
  byId("measured-list").replaceChildren();
  byId("measured-count").textContent = "Loading …";
  box.showModal();
  byId("measured-search").focus();
  load();
}

async function load() {
  const mine = (asked += 1);
  const { policy, preference, limit, search } = reading;
  const query = new URLSearchParams({ policy, preference: preferenceArgument(preference), limit, ...(search ? { search } : {}) });
  try {
    const found = await call("GET", `/api/answers?${query}`);
    if (mine === asked) draw(found);
  } catch (error) {
    if (mine !== asked) return;
    byId("measured-list").replaceChildren();
    byId("measured-more").hidden = true;
    byId("measured-count").textContent = plainly(error);
  }
}

function draw({ total, matching, answers }) {
  const policy = state.policies.find((one) => one.name === reading.policy) ?? state.policy;
  const shown = places(policy);
  const many = (count) => `${count} ${count === 1 ? "answer" : "answers"}`;
  const which = reading.search ? `${matching} of ${many(total)} ${matching === 1 ? "has" : "have"} these words` : many(total);
  byId("measured-count").textContent = answers.length < matching ? `${which}; the first ${answers.length} are shown.` : `${which}.`;
  byId("measured-more").hidden = answers.length >= Math.min(matching, MOST);
  byId("measured-list").replaceChildren(...answers.map(({ messages, text, truncated, scores }) => {
    const known = Object.keys(scores).map((name) => `${name} ${number(scores[name], shown[name])}`).join(" · ");
    return element("li", {},
      ...messages.map(({ role, content }) => element("p", { class: "asked" }, role === "user" ? "" : element("span", { class: "small" }, `${role}: `), content)),
      element("p", { class: "told-text" }, text || "(an empty answer)"),
      element("p", { class: "small" }, [known && `scored ${known}`, truncated && "cut at the token limit"].filter(Boolean).join("; ")));
  }));
}
