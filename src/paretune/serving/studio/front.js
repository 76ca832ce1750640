// The measured front with its intervals, A and B on it, and what may be done with a point. The plot is that of the report.

import { meanings } from "./controls.js";
import { places } from "./expected.js";
import { readAnswers } from "./measured.js";
import { FrontPlot } from "./plot.js";
import { keep, kept, runOf, state } from "./state.js";
import { byId, element, interval, number, preferenceText, same, weightText } from "./words.js";

/** Shapes of the policies beside the chosen one, in the order in which they are served. */
const SHAPES = ["diamond", "triangle", "square", "pentagon", "hexagon", "down", "wedge"];

let plot = null;
/** The point that was chosen last, {policy, preference}. */
let picked = null;
let onPick = () => {};

const keyOf = (policy) => policy.objectives.join(" ");

/** Return the policies that can be drawn beside a policy: those with the same objectives and a measured front. */
function comparable(policy) {
  const sameObjectives = (other) => other.objectives.length === policy.objectives.length && other.objectives.every((name) => policy.objectives.includes(name));
  return state.policies.filter((other) => other !== policy && other.points.length && sameObjectives(other));
}

// The front as the plot draws it

/** Return what is known of scores, a line each: the means with their intervals, and the chance to be on the front. */
function facts(policy, scores) {
  const shown = places(policy);
  const lines = policy.objectives.map((name) => `${name} ${interval({ mean: scores.mean[name], low: scores.low[name], high: scores.high[name] }, shown[name])}`);
  return Number.isFinite(scores.on_front) ? [...lines, `on the front with chance ${number(scores.on_front, 2)}`] : lines;
}

/** Return a policy's points in the order of the weight on the first objective; those of a policy beside the chosen one have no bars. */
function seriesOf(policy, shape, beside) {
  const { objectives } = state.policy;
  const listed = (table) => objectives.map((name) => table[name]);
  const joined = objectives.length === 2 && !policy.anchored;
  return {
    id: policy.name, title: policy.title ?? policy.name, kind: beside ? "beside" : "chosen", shape, open: beside, fixed: !beside, joined,
    points: [...policy.points].sort((p, q) => p.preference[objectives[0]] - q.preference[objectives[0]]).map((point) => ({
      id: preferenceText(point.preference), preference: point.preference, mean: listed(point.mean),
      ...(beside ? { size: 1.4 } : { low: listed(point.low), high: listed(point.high), label: objectives.length === 2 ? weightText(point.preference[objectives[0]]) : "" }),
      head: beside ? `${policy.title ?? policy.name} at ${preferenceText(point.preference)}` : preferenceText(point.preference),
      facts: facts(policy, point), knee: !beside && Boolean(policy.knee) && same(point.preference, policy.knee),
    })),
  };
}

/** Return the marks of A and B, B below A; where both are at one preference, B frames A. */
function marks(policy) {
  const served = (side) => state.sides[side].served;
  const together = served("a") && served("b") && same(served("a").preference, served("b").preference);
  return ["b", "a"].flatMap((side) => {
    const expected = served(side)?.expected;
    if (!expected || policy.objectives.some((name) => !Number.isFinite(expected[name]?.mean))) return [];
    const table = (bound) => Object.fromEntries(policy.objectives.map((name) => [name, expected[name][bound]]));
    const scores = { mean: table("mean"), low: table("low"), high: table("high") };
    const letter = side.toUpperCase();
    return [{
      id: side, kind: side, text: letter, shape: side === "a" ? "circle" : "square", framing: side === "b" && Boolean(together),
      ...Object.fromEntries(Object.entries(scores).map(([bound, values]) => [bound, policy.objectives.map((name) => values[name])])),
      head: `${letter}: ${preferenceText(state.sides[side].preference)}`, facts: facts(policy, scores),
    }];
  });
}

/** Return what a point more on each objective means, as the run states it. */
const objectivesOf = (policy) => policy.objectives.map((name) => ({ name, meaning: runOf(policy).meanings?.[name], places: places(policy)[name] }));

/** Return all measured points of the policies in the plot as rows. */
function rows() {
  const names = state.policy.objectives;
  const head = ["policy", ...names.map((name) => `weight_${name}`), ...names.flatMap((name) => [name, `${name}_low`, `${name}_high`]), "on_front"];
  return [head, ...[state.policy, ...comparable(state.policy)].flatMap((one) => one.points.map((point) => [
    one.name, ...names.map((name) => point.preference[name]), ...names.flatMap((name) => [point.mean[name], point.low[name], point.high[name]]), point.on_front]))];
}

/** Draw the front of the chosen policy; choosing a measured point, of it or of one beside it, calls `pick(preference, policy name)`. */
export function drawFront(pick) {
  const { policy } = state;
  onPick = pick;
  if (!policy.points.length || policy.objectives.length === 1) return;
  plot ??= new FrontPlot(byId("chart"), {
    pick: (series, point) => choose(point.preference, series.id),
    rows,
    changed: (look) => {
      keep({ looks: { ...kept().looks, [keyOf(state.policy)]: look } });
      byId("front-lead").textContent = leadOf(state.policy, look);
    },
  });
  const look = plot.show({
    key: policy.name, name: policy.name, objectives: objectivesOf(policy),
    series: [seriesOf(policy, "circle", false), ...comparable(policy).map((other, n) => seriesOf(other, SHAPES[n % SHAPES.length], true))],
  }, { marks: marks(policy), look: kept().looks?.[keyOf(policy)] });
  byId("front-lead").textContent = leadOf(policy, look);
}

/** Go to a measured point, and offer the answers that were measured there. */
function choose(preference, name) {
  picked = { policy: name, preference };
  onPick(preference, name);
  drawChosen();
}

/** Show what can be done with the point that was chosen last. */
function drawChosen() {
  const mine = picked?.policy === state.policy.name;
  byId("chosen").replaceChildren(...(mine ? [element("p", { class: "row" }, element("span", { class: "small" }, `Chosen: ${preferenceText(picked.preference)}.`),
    element("button", { type: "button", class: "link", id: "read-answers", click: () => readAnswers(picked.policy, picked.preference) }, "Read its answers"))] : []));
  plot?.choose((series, point) => mine && series.id === picked.policy && same(point.preference, picked.preference));
}

// Words around the chart

/** Draw what there is of a policy that was just chosen; A and B come once their scores are known. */
export function beginFront() {
  const { policy } = state;
  const message = !policy.points.length
    ? "No front of this policy was measured, so its scores are unknown. Run “paretune run” to the end to see it here."
    : policy.objectives.length === 1
      ? "There is only one objective, so there is no front."
      : null;
  if (message) {
    plot?.clear();
    byId("chart").replaceChildren(element("p", { class: "empty" }, message), element("dl", { class: "meanings" }, ...meanings(objectivesOf(policy))));
    byId("front-lead").textContent = "";
  } else drawFront(onPick);
  byId("front-table-box").hidden = !policy.points.length;
  drawChosen();
}

function leadOf(policy, { view }) {
  const bulge = policy.knee ? "; the ring marks the knee." : ". No point stands out as a knee: the front is straight or bends inwards.";
  const how = view === "axes"
    ? "Each line is a measured preference; the best score is at the top."
    : view === "all"
      ? `Each plot shows two objectives. Dots are measured preferences with 95 % intervals${bulge}`
      : policy.objectives.length === 2
        ? `Dots are measured preferences with 95 % intervals. The number is the weight on ${policy.objectives[0]}${bulge}`
        : `Dots are measured preferences with 95 % intervals${bulge}`;
  return `${how} Select one to go there.`;
}

/** List the measured preferences, with buttons that move A or B there and one that shows the answers that were measured. */
export function tabulate(pick) {
  const policy = state.policy;
  const shown = places(policy);
  const chances = policy.points.some((point) => Number.isFinite(point.on_front));
  const head = element("tr", {}, ...["Preference", ...policy.objectives, ...(chances ? ["On the front"] : []), "Go there", "Answers"].map((name) => element("th", { scope: "col" }, name)));
  const rows = policy.points.map((point) => {
    const text = preferenceText(point.preference);
    const knee = policy.knee && same(point.preference, policy.knee);
    return element("tr", {},
      element("th", { scope: "row" }, text, knee ? element("span", { class: "tag" }, "knee") : null),
      ...policy.objectives.map((name) => element("td", { class: "num" }, interval({ mean: point.mean[name], low: point.low[name], high: point.high[name] }, shown[name]))),
      chances ? element("td", { class: "num" }, Number.isFinite(point.on_front) ? number(point.on_front, 2) : "-") : null,
      element("td", {}, ...["a", "b"].map((side) =>
        element("button", { type: "button", class: `mark button ${side}`, "aria-label": `${side.toUpperCase()} to ${text}`, click: () => pick(point.preference, side) }, side.toUpperCase()))),
      element("td", {}, element("button", { type: "button", class: "link", "aria-label": `Read the answers at ${text}`, click: () => readAnswers(policy.name, point.preference) }, "Read")));
  });
  byId("front-table").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}
