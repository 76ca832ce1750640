// Why this preference: what the votes say of each weight, what the next vote would tell, and whether that is enough.

import { call } from "./api.js";
import { on, state } from "./state.js";
import { byId, element, listing, number, preferenceText } from "./words.js";

/** The most that a vote between two answers can tell, in nats. */
const MOST = Math.log(2);

/** Draw one line per objective: the mean of its weight, within the interval that holds it with 95 %. */
function intervals({ mean, intervals: bounds }) {
  return element("dl", { class: "tastes" }, ...Object.keys(mean).map((name) => {
    const [low, high] = bounds[name];
    const band = element("i", { class: "band" }), dot = element("i", { class: "dot" });
    band.style.left = `${100 * low}%`;
    band.style.width = `${100 * (high - low)}%`;
    dot.style.left = `${100 * mean[name]}%`;
    return element("div", {}, element("dt", {}, name), element("dd", { class: "track", "aria-hidden": "true" }, band, dot),
      element("dd", { class: "figure" }, `${number(mean[name], 2)} [${number(low, 2)}, ${number(high, 2)}]`));
  }));
}

/** Return what the next vote is expected to tell, in words. */
function outlook({ posterior, information, deviation_after: after }) {
  if (!after) return "No further vote would tell anything: the answers of this policy differ too little.";
  const names = Object.keys(after);
  // Of two weights each is what the other leaves.
  const told = (names.length === 2 ? names.slice(0, 1) : names).map((name) => `${name} from ±${number(posterior.deviation[name], 3)} to ±${number(after[name], 3)}`);
  const share = number((100 * information) / MOST, 0);
  return `The next vote is expected to narrow ${listing(told)}: ${number(information, 2)} nats, ${share} % of the most that one vote can tell.`;
}

/** Return whether the votes are enough, and by what that is judged. */
function verdict({ posterior }) {
  const { spread, regret, enough, done, votes } = posterior;
  const now = `The least certain weight is known to ±${number(spread, 3)}, and the preference found may lose ${number(100 * regret, 1)} % of the front's range.`;
  const rule = `Enough is ±${number(enough.spread)}, or a loss of at most ${number(100 * enough.regret)} %.`;
  return [element("p", { class: "enough", "data-enough": String(Boolean(done && votes)) }, done && votes ? "Enough votes." : "Not enough votes yet."), element("p", { class: "small" }, `${now} ${rule}`)];
}

function draw(root, told) {
  const { posterior } = told;
  const votes = `${posterior.votes} ${posterior.votes === 1 ? "vote" : "votes"}`;
  const weights = Object.keys(posterior.mean).map((name) => {
    const [low, high] = posterior.intervals[name];
    return `${name} lies between ${number(low, 2)} and ${number(high, 2)}`;
  });
  root.replaceChildren(
    element("p", {}, posterior.votes ? `${votes} on the whole say, with 95 %: ${listing(weights)}.` : "There is no vote on the whole yet, so every preference is as likely as any other."),
    intervals(posterior),
    posterior.votes ? element("p", {}, `The best preference for these weights is ${preferenceText(posterior.best)}.`) : "",
    element("p", {}, outlook(told)), ...verdict(told),
    element("p", { class: "small" }, "Votes on one objective are kept as data, and are not counted here."));
}

/** Fetch and draw what is known of the person now, where the panel is open. `report(error, retry)` shows an error. */
async function drawWhy(report) {
  const box = byId("why");
  box.hidden = !state.policy?.points.length;
  if (!box.open || box.hidden) return;
  const [policy, profile] = [state.policy.name, state.profile];
  try {
    const told = await call("POST", "/api/elicit/next", { policy, profile });
    if (policy !== state.policy.name || profile !== state.profile) return;
    draw(byId("why-facts"), told);
  } catch (error) {
    byId("why-facts").replaceChildren(element("p", { class: "small" }, error.status === 409 ? `Nothing is learned here: ${error.message}.` : "What was learned could not be loaded."));
    if (error.status !== 409) report(error, () => drawWhy(report));
  }
}

/** Set up the panel below what was learned. */
export function setWhy(report) {
  byId("learned").after(element("details", { class: "more", id: "why", hidden: true, toggle: () => drawWhy(report) },
    element("summary", {}, "Why this preference?"), element("div", { class: "why", id: "why-facts" })));
  on("policy profile votes", () => drawWhy(report));
}
