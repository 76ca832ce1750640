// What to expect at the preference of A and of B: asked from the server as it moves, shown beside its letter.

import { call } from "./api.js";
import { changed, state } from "./state.js";
import { element, decimals, interval, preferenceArgument, preferenceText, same } from "./words.js";

const running = { a: null, b: null };

/** Return the decimals in which a policy's scores on each objective are shown. */
export function places(policy) {
  return Object.fromEntries(policy.objectives.map((name) => [name, decimals(policy.points.map((point) => point.mean[name]))]));
}

/** Ask what to expect of a side; an answer that a later move has overtaken is dropped. */
export async function refresh(side, report) {
  running[side]?.abort();
  const mine = (running[side] = new AbortController());
  const preference = state.sides[side].preference;
  const query = new URLSearchParams({ policy: state.policy.name, preference: preferenceArgument(preference) });
  try {
    state.sides[side].outlook = await call("GET", `/api/expected?${query}`, undefined, mine.signal);
    report(null);
  } catch (error) {
    if (error.name === "AbortError") return;
    state.sides[side].outlook = null;
    report(error);
  }
  changed("outlook");
}

/** Return the expected scores of {objective: {mean, low, high}} as a list, and whether they were measured there. */
export function scoreList(policy, expected) {
  const shown = places(policy);
  return policy.objectives.map((name) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, interval(expected[name], shown[name]))),
  );
}

/** Return the letter of a side with its preference, and what to expect there; `update` redraws both. */
export function summary(side) {
  const text = element("span", { class: "what" });
  const snap = element("span", { class: "snap" });
  const head = element("p", { class: "side" }, element("span", { class: `mark ${side}`, "aria-hidden": "true" }, side.toUpperCase()), text, snap);
  const scores = element("dl", { class: "scores" });
  return {
    head,
    scores,
    update() {
      const { preference, outlook } = state.sides[side];
      text.textContent = preferenceText(preference);
      snap.textContent = outlook?.snapped && !same(outlook.preference, preference) ? `serves ${preferenceText(outlook.preference)}` : "";
      scores.replaceChildren(...(outlook?.expected ? scoreList(state.policy, outlook.expected) : []));
    },
  };
}
