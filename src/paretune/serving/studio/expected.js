// The scores to expect at A and at B: requested from the server as they move, shown beside their letters.

import { call } from "./api.js";
import { changed, policyOf, runOf, state } from "./state.js";
import { element, decimals, interval, preferenceArgument, preferenceText, same } from "./words.js";

const running = { a: null, b: null };

/** Return the number of decimals shown for a policy's scores on each objective. */
export function places(policy) {
  return Object.fromEntries(policy.objectives.map((name) => [name, decimals(policy.points.map((point) => point.mean[name]))]));
}

/** Request what a side is served and which scores to expect; a response that a later move overtakes is dropped. */
export async function refresh(side, report) {
  running[side]?.abort();
  const mine = (running[side] = new AbortController());
  const preference = state.sides[side].preference;
  const query = new URLSearchParams({ policy: policyOf(side).name, preference: preferenceArgument(preference) });
  try {
    state.sides[side].served = await call("GET", `/api/expected?${query}`, undefined, mine.signal);
    report(null);
  } catch (error) {
    if (error.name === "AbortError") return;
    state.sides[side].served = null;
    report(error);
  }
  changed("served");
}

/** Return the words for expected scores, which are means over the prompts that the front was measured on. */
export function expectedWords() {
  const count = runOf().num_prompts;
  return count ? `expected (mean of ${count} prompts)` : "expected (mean of the measured prompts)";
}

/** Return expected scores, {objective: {mean, low, high}}, as a list of elements. */
export function scoreList(policy, expected) {
  const shown = places(policy);
  return policy.objectives.map((name) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, interval(expected[name], shown[name]))),
  );
}

/** Return elements for the preference of a side and for the scores to expect there; `update` redraws both. */
export function summary(side) {
  const text = element("span", { class: "what" });
  const snap = element("span", { class: "snap" });
  const head = element("p", { class: "side" }, element("span", { class: `mark ${side}`, "aria-hidden": "true" }, side.toUpperCase()), text, snap);
  const list = element("dl", { class: "scores" });
  const lead = element("p", { class: "small" });
  const scores = element("div", { class: "outlook" }, lead, list);
  return {
    head,
    scores,
    update() {
      const { preference, served } = state.sides[side];
      text.textContent = preferenceText(preference);
      snap.textContent = served?.snapped && !same(served.preference, preference) ? `serves ${preferenceText(served.preference)}` : "";
      const known = Object.values(served?.expected ?? {}).some((scores) => Number.isFinite(scores.mean));
      const unmeasured = Boolean(served?.expected && !known);
      scores.hidden = !served?.expected;
      lead.textContent = unmeasured ? "Nothing was measured around this preference; the table under the front has what was." : expectedWords();
      list.replaceChildren(...(known ? scoreList(state.policy, served.expected) : []));
    },
  };
}
