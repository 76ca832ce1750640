// The measured front with its intervals, A and B: scatter plots by plotly, or lines over parallel axes, with what may be done to them.

import { csv, fileName, pngOf, save, svgText } from "./download.js";
import { readAnswers } from "./measured.js";
import { drawParallel } from "./parallel.js";
import { SYMBOLS, arranged, colours, figure, plotly } from "./plot.js";
import { keep, kept, runOf, state } from "./state.js";
import { byId, element, interval, number, preferenceText, same } from "./words.js";
import { places } from "./expected.js";

/** Width of a saved picture in pixels; as PNG it has twice as many. */
const WIDTH = 900;
const VIEWS = { all: "all pairs", pair: "one pair", axes: "parallel axes" };

/** How the front is looked at: {view, x, y} for each list of objectives; names of policies that are not shown beside the chosen one. */
const looks = {};
/** The point that was chosen last, {policy, preference}. */
let picked = null;
let onPick = () => {};

const keyOf = (policy) => policy.objectives.join(" ");

/** Return how a policy's front is looked at. */
function look(policy) {
  const names = policy.objectives;
  const first = { view: names.length > 3 ? "axes" : names.length === 3 ? "all" : "pair", x: names[0], y: names[1] };
  return (looks[keyOf(policy)] ??= { ...first, ...kept().looks?.[keyOf(policy)] });
}

/** Return the policies that can be drawn beside a policy: those with the same objectives and a measured front. */
function comparable(policy) {
  const same = (other) => other.objectives.length === policy.objectives.length && other.objectives.every((name) => policy.objectives.includes(name));
  return state.policies
    .filter((other) => other !== policy && other.points.length && same(other))
    .map((other, n) => ({ policy: other, symbol: SYMBOLS[n % SYMBOLS.length] }));
}

const hidden = () => kept().hidden ?? [];

/** Return the part of the page for a purpose beside the chart; made at its first use. */
function part(id, place) {
  if (!byId(id)) byId("chart")[place](element("div", { id, class: "front-part" }));
  return byId(id);
}

// Drawing

/** Draw the front of the chosen policy; choosing a measured point, of it or of one beside it, calls `pick(preference, policy name)`. */
export async function drawFront(pick) {
  const policy = state.policy;
  const chart = byId("chart");
  onPick = pick;
  drawTools(policy);
  if (!policy.points.length || policy.objectives.length === 1) return;
  const { view } = look(policy);
  if (view === "axes") {
    clearPlot(chart);
    return drawParallel(chart, policy, (preference) => choose(preference, policy.name));
  }
  const narrow = chart.clientWidth < 480;
  const Plotly = await plotly();
  if (state.policy !== policy || look(policy).view !== view) return;
  const { data, layout } = pictured(policy, narrow);
  for (const old of chart.querySelectorAll(":scope > .wait, :scope > .parallel, :scope > .tip")) old.remove();
  await Plotly.react(chart, data, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  chart.removeAllListeners("plotly_click");
  chart.on("plotly_click", ({ points }) => points[0].customdata && choose(...points[0].customdata));
}

/** Take plotly's picture away, where there is one. */
function clearPlot(chart) {
  if (!window.Plotly || !chart.classList.contains("js-plotly-plot")) return;
  window.Plotly.purge(chart);
  chart.classList.remove("js-plotly-plot");
}

/** Return plotly's figure of what is looked at. */
function pictured(policy, narrow) {
  const { view, x, y } = look(policy);
  const others = comparable(policy).filter((other) => !hidden().includes(other.policy.name));
  return figure(policy, others, arranged(policy.objectives, view === "pair" ? [x, y] : null, narrow), narrow);
}

/** Go to a measured point, and offer the answers that were measured there. */
function choose(preference, name) {
  picked = { policy: name, preference };
  onPick(preference, name);
  drawTools(state.policy);
}

/** Draw the front again as it is now looked at. */
const again = () => drawFront(onPick);

/** Draw what is chosen, zoomed and saved beside the chart. Focus stays where it is. */
function drawTools(policy) {
  const focused = document.activeElement?.id;
  const measured = policy.points.length > 0 && policy.objectives.length > 1;
  byId("front-lead").textContent = leadOf(policy);
  const tools = part("front-tools", "before");
  const legend = part("front-legend", "after");
  tools.hidden = legend.hidden = !measured;
  if (!measured) return;
  const { view } = look(policy);
  const zoomed = view === "axes" ? [] : [
    element("span", { class: "group", role: "group", "aria-label": "Zoom" },
      tool("zoom-in", "+", "Zoom in", () => zoom(0.6)), tool("zoom-out", "−", "Zoom out", () => zoom(1 / 0.6)), tool("zoom-reset", "Reset", "Show the whole front again", () => zoom(null)))];
  tools.replaceChildren(
    ...(policy.objectives.length > 2 ? viewTools(policy) : []), ...zoomed,
    element("span", { class: "group", role: "group", "aria-label": "Save the front as" },
      ...["SVG", "PNG", "CSV"].map((kind) => tool(`save-${kind.toLowerCase()}`, kind, `Save the front as ${kind}`, () => saveFront(kind)))));
  legend.replaceChildren(...legendOf(policy, view), ...chosenPoint());
  if (focused && byId(focused) && document.activeElement === document.body) byId(focused).focus();
}

const tool = (id, text, label, click) => element("button", { type: "button", id, class: "tool", "aria-label": label, title: label, click }, text);

/** Return the choice between all pairs, one pair and parallel axes, and with one pair that of its objectives. */
function viewTools(policy) {
  const { view, x, y } = look(policy);
  const change = (values) => {
    Object.assign(look(policy), values);
    keep({ looks: { ...kept().looks, [keyOf(policy)]: look(policy) } });
    drawMeanings();
    again();
  };
  const views = Object.entries(VIEWS).filter(([name]) => name !== "all" || policy.objectives.length === 3);
  const select = (name, label, value, other) => element("label", { class: "inline" }, label,
    element("select", { id: `axis-${name}`, change: (event) => change(event.target.value === other ? { x: y, y: x } : { [name]: event.target.value }) },
      ...policy.objectives.map((one) => element("option", { value: one, selected: one === value }, one))));
  return [
    element("fieldset", { class: "segments" }, element("legend", { class: "unseen" }, "How the front is drawn"),
      ...views.map(([name, text]) => element("label", {},
        element("input", { type: "radio", name: "view", id: `view-${name}`, value: name, checked: name === view, change: () => change({ view: name }) }), element("span", {}, text)))),
    ...(view === "pair" ? [element("span", { class: "group" }, select("x", "across", x, y), select("y", "up", y, x))] : []),
  ];
}

/** Return the legend: the chosen policy, and a switch for each other one that can be drawn beside it. */
function legendOf(policy, view) {
  const others = view === "axes" ? [] : comparable(policy);
  if (!others.length) return [];
  const toggle = (name) => {
    keep({ hidden: hidden().includes(name) ? hidden().filter((one) => one !== name) : [...hidden(), name] });
    again();
  };
  return [element("div", { class: "legend", role: "group", "aria-label": "Policies in the plot" },
    element("span", { class: "entry" }, element("i", { class: "key chosen", "aria-hidden": "true" }), policy.title ?? policy.name),
    ...others.map(({ policy: other, symbol }, n) => element("button", {
      type: "button", class: "entry", id: `legend-${n}`, "aria-pressed": String(!hidden().includes(other.name)), "data-policy": other.name, click: () => toggle(other.name),
    }, element("i", { class: `key ${symbol.replace("-open", "")}`, "aria-hidden": "true" }), other.title ?? other.name)))];
}

/** Return what can be done with the point that was chosen last. */
function chosenPoint() {
  if (!picked || picked.policy !== state.policy.name) return [];
  const { policy, preference } = picked;
  return [element("p", { class: "row" }, element("span", { class: "small" }, `Chosen: ${preferenceText(preference)}.`),
    element("button", { type: "button", class: "link", id: "read-answers", click: () => readAnswers(policy, preference) }, "Read its answers"))];
}

// Zooming and saving

/** Zoom all axes by a factor about their middle; null shows everything again. */
function zoom(factor) {
  const chart = byId("chart");
  if (!window.Plotly || !chart._fullLayout) return;
  const axes = Object.keys(chart._fullLayout).filter((name) => /^[xy]axis\d*$/.test(name));
  const changes = axes.map((name) => {
    if (factor === null) return [`${name}.autorange`, true];
    const [low, high] = chart._fullLayout[name].range;
    const [middle, half] = [(low + high) / 2, ((high - low) / 2) * factor];
    return [`${name}.range`, [middle - half, middle + half]];
  });
  window.Plotly.relayout(chart, Object.fromEntries(changes));
}

/** Save the picture or the numbers of the front. */
async function saveFront(kind) {
  const policy = state.policy;
  const chart = byId("chart");
  const name = fileName("front", policy.name);
  if (kind === "CSV") return save(`${name}.csv`, csv(table(policy)), "text/csv");
  const ground = colours().page;
  const drawn = chart.querySelector(":scope > .parallel");
  const text = drawn ? svgText(drawn, ground) : await svgOfPlot(policy, chart, ground);
  save(`${name}.${kind.toLowerCase()}`, kind === "SVG" ? text : await pngOf(text), "image/svg+xml");
}

/** Return the plot as an SVG document of a size for paper, however wide it is on the page, and zoomed as it is there. */
async function svgOfPlot(policy, chart, ground) {
  const Plotly = await plotly();
  const { data, layout } = pictured(policy, false);
  for (const [name, axis] of Object.entries(chart._fullLayout ?? {})) if (/^[xy]axis\d*$/.test(name)) layout[name].range = [...axis.range];
  const made = await Plotly.toImage({ data, layout: { ...layout, paper_bgcolor: ground } }, { format: "svg", width: WIDTH, height: layout.height });
  return decodeURIComponent(made.replace(/^data:image\/svg\+xml,/, ""));
}

/** Return all measured points of the policies in the plot as rows. */
function table(policy) {
  const names = policy.objectives;
  const all = [policy, ...comparable(policy).map((other) => other.policy)];
  const head = ["policy", ...names.map((name) => `weight_${name}`), ...names.flatMap((name) => [name, `${name}_low`, `${name}_high`]), "on_front"];
  return [head, ...all.flatMap((one) => one.points.map((point) => [
    one.name, ...names.map((name) => point.preference[name]), ...names.flatMap((name) => [point.mean[name], point.low[name], point.high[name]]), point.on_front]))];
}

// Words around the chart

/** Clear the chart before another policy is drawn. */
export function clearFront() {
  const chart = byId("chart");
  clearPlot(chart);
  const policy = state.policy;
  const message = !policy.points.length
    ? "No front of this policy was measured, so its scores are unknown. Run “paretune run” to the end to see it here."
    : policy.objectives.length === 1
      ? "There is only one objective, so there is no front."
      : null;
  chart.replaceChildren(element("p", { class: message ? "empty" : "empty wait" }, message ?? "Drawing the front …"));
  byId("front-table-box").hidden = !policy.points.length;
}

function leadOf(policy) {
  if (!policy.points.length || policy.objectives.length === 1) return "";
  const { view, x } = look(policy);
  const bulge = policy.knee ? "; the ring marks the knee." : ". No point stands out as a knee: the front is straight or bends inwards.";
  const how = view === "axes"
    ? "Each line is a measured preference; the best score is at the top."
    : view === "all"
      ? `Each plot shows two objectives. Dots are measured preferences with 95 % intervals${bulge}`
      : policy.objectives.length === 2
        ? `Dots are measured preferences with 95 % intervals. The number is the weight on ${x}${bulge}`
        : `Dots are measured preferences with 95 % intervals${bulge}`;
  return `${how} Select one to go there.`;
}

/** Say what a point more on each objective means, where the run states it and no axis does. */
export function drawMeanings() {
  const { policy } = state;
  const named = policy.points.length && look(policy).view === "pair" ? [look(policy).x, look(policy).y] : [];
  const told = policy.objectives.filter((name) => runOf(policy).meanings?.[name] && !named.includes(name));
  byId("meanings").replaceChildren(...told.map((name) => element("div", {}, element("dt", {}, name), element("dd", {}, runOf(policy).meanings[name]))));
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
