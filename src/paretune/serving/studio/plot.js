// What plotly draws of fronts: the traces, the axes and what a point says when the pointer rests on it.

import { runOf, state } from "./state.js";
import { element, interval, number, preferenceText, same, weightText } from "./words.js";
import { places } from "./expected.js";

let loading = null;

/** Load plotly once, from this server. */
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    // While loading, plotly adds an inline style sheet for maps. There are no maps here, and the page forbids inline styles.
    const create = document.createElement;
    document.createElement = (name, ...rest) => create.call(document, name === "style" ? "template" : name, ...rest);
    const ended = (then) => () => { delete document.createElement; then(); };
    const failed = () => { loading = null; reject(new Error("plotly.js cannot be loaded")); };
    document.head.append(element("script", { src: new URL("plotly.js", import.meta.url), load: ended(() => resolve(window.Plotly)), error: ended(failed) }));
  });
  return loading;
}

const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** Return the page's colours, as they are now. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["page", "panel", "ink", "quiet", "rule", "strong", "edge", "p0", "p1", "p2"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Symbols of the policies beside the chosen one, in the order in which they are served; none hides what lies under it. */
export const SYMBOLS = ["diamond-open", "triangle-up-open", "square-open", "star-open", "hexagon-open", "cross-open"];

/** Return asymmetric error bars from means and bounds; an unknown bound has none. */
function bars(scores, name, colour, thick) {
  const far = (bound) => scores.map((one) => (Number.isFinite(one[bound][name]) ? Math.abs(one[bound][name] - one.mean[name]) : 0));
  return { type: "data", symmetric: false, array: far("high"), arrayminus: far("low"), color: colour, thickness: thick, width: 0 };
}

/** Return what is known of a point, a line each: its means with their intervals, and its chance to be on the front. */
export function facts(policy, scores) {
  const shown = places(policy);
  const lines = policy.objectives.map((name) => `${name} ${interval({ mean: scores.mean[name], low: scores.low[name], high: scores.high[name] }, shown[name])}`);
  const chance = scores.on_front;
  return Number.isFinite(chance) ? [...lines, `on the front with chance ${number(chance, 2)}`] : lines;
}

const hover = (head, policy, scores) => `${safe(head)}<br>${facts(policy, scores).map(safe).join("<br>")}<extra></extra>`;

/** Return the position of each point's label: below where it would overlap that of the point before. */
function placed(points, x, y) {
  const near = (p, q, name, share) => {
    const values = points.map((point) => point.mean[name]);
    return Math.abs(p.mean[name] - q.mean[name]) < share * (Math.max(...values) - Math.min(...values));
  };
  return points.map((point, k) => (k && near(point, points[k - 1], x, 0.08) && near(point, points[k - 1], y, 0.06) ? "bottom right" : "top right"));
}

/** Return the faint trace of a policy beside the chosen one. */
function beside({ policy, symbol }, x, y, axes, colour, joined) {
  const points = [...policy.points].sort((p, q) => p.preference[x] - q.preference[x]);
  return {
    ...axes, type: "scatter", mode: joined && !policy.anchored ? "markers+lines" : "markers", name: policy.title ?? policy.name,
    x: points.map((point) => point.mean[x]), y: points.map((point) => point.mean[y]),
    customdata: points.map((point) => [point.preference, policy.name]),
    marker: { symbol, size: 11, color: colour.edge, line: { width: 1.6, color: colour.edge } }, line: { color: colour.strong, width: 1.2, dash: "dot" },
    hovertemplate: points.map((point) => hover(`${policy.title ?? policy.name} at ${preferenceText(point.preference)}`, policy, point)),
  };
}

/** Return the traces of the sides: B below A, and framing it where both are at one preference. */
function sides(policy, x, y, common, colour) {
  const served = (side) => state.sides[side].served?.preference;
  const together = served("a") && served("b") && same(served("a"), served("b"));
  return ["b", "a"].flatMap((side) => {
    const expected = state.sides[side].served?.expected;
    if (!expected?.[x] || !expected[y] || !Number.isFinite(expected[x].mean) || !Number.isFinite(expected[y].mean)) return [];
    const table = (key) => Object.fromEntries(policy.objectives.map((name) => [name, expected[name][key] ?? NaN]));
    const scores = { mean: table("mean"), low: table("low"), high: table("high") };
    const own = side === "a" ? colour.p0 : colour.p1;
    const letter = side.toUpperCase();
    return [{
      ...common, mode: "markers+text", x: [scores.mean[x]], y: [scores.mean[y]], name: letter, text: [together && side === "b" ? "" : letter],
      textposition: "middle center", textfont: { color: colour.page, size: 12, weight: 700 },
      error_x: bars([scores], x, own, 2), error_y: bars([scores], y, own, 2),
      marker: together && side === "b"
        ? { symbol: "square-open", size: 31, color: own, opacity: 1, line: { color: own, width: 3 } }
        : { symbol: side === "a" ? "circle" : "square", size: side === "a" ? 21 : 19, color: own, opacity: 1, line: { color: colour.page, width: 1.5 } },
      hovertemplate: hover(`${letter}: ${preferenceText(state.sides[side].preference)}`, policy, scores),
    }];
  });
}

/** Return the traces of one plot: the other policies, measured points, the knee, with two objectives the weights, and A and B. */
function traces(policy, others, { x, y }, axes, colour) {
  const points = [...policy.points].sort((p, q) => p.preference[x] - q.preference[x]);
  const at = (name) => points.map((point) => point.mean[name]);
  const common = { ...axes, type: "scatter", mode: "markers" };
  const joined = policy.objectives.length === 2;
  const measured = {
    ...common, mode: joined && !policy.anchored ? "markers+lines" : "markers", x: at(x), y: at(y),
    customdata: points.map((point) => [point.preference, policy.name]), name: "measured",
    error_x: bars(points, x, colour.strong, 1.3), error_y: bars(points, y, colour.strong, 1.3),
    marker: { color: colour.p2, size: 9, line: { color: colour.page, width: 1.2 } }, line: { color: colour.p2, width: 1.6 },
    hovertemplate: points.map((point) => hover(preferenceText(point.preference), policy, point)),
  };
  const knee = points.filter((point) => policy.knee && same(point.preference, policy.knee));
  const ring = {
    ...common, x: knee.map((p) => p.mean[x]), y: knee.map((p) => p.mean[y]), name: "knee", hoverinfo: "skip",
    marker: { symbol: "circle-open", size: 19, color: colour.p2, line: { width: 1.4 } },
  };
  const labels = {
    ...common, mode: "markers+text", x: at(x), y: at(y), name: "weight", hoverinfo: "skip", cliponaxis: false, textposition: placed(points, x, y),
    text: points.map((point) => weightText(point.preference[x])), marker: { size: 15, opacity: 0 }, textfont: { color: colour.quiet, size: 12 },
  };
  return [measured, ...others.map((other) => beside(other, x, y, axes, colour, joined)), ring, ...(joined ? [labels] : []), ...sides(policy, x, y, common, colour)];
}

/** Return the format of about `count` ticks over the measured range, all with the same decimals. */
function ticks(policies, name, count) {
  const values = policies.flatMap((policy) => policy.points).flatMap((point) => [point.mean[name], point.low[name], point.high[name]]).filter(Number.isFinite);
  const step = (Math.max(...values) - Math.min(...values)) / count;
  return { nticks: count + 1, tickformat: step > 0 ? `.${Math.max(0, Math.ceil(-Math.log10(step) - 0.3))}f` : "" };
}

/**
 * Return pairs of objectives and the area of each plot, in shares of the picture: one plot for a pair that is given, otherwise all
 * three pairs of three objectives; one below the other where there is little room.
 */
export function arranged(names, pair, narrow) {
  if (pair) return [{ x: pair[0], y: pair[1], across: [0, 1], up: [0, 1] }];
  const pairs = [[0, 1, 0, 1], [0, 2, 0, 0], [1, 2, 1, 0]];
  return pairs.map(([x, y, column, row], k) => ({
    x: names[x], y: names[y],
    across: narrow ? [0, 1] : column ? [0.55, 1] : [0, 0.45],
    up: narrow ? [[0.73, 1], [0.365, 0.635], [0, 0.27]][k] : row ? [0.57, 1] : [0, 0.43],
  }));
}

/** Return what a point more on an objective means, in lines that there is room for. */
function meaning(name, room) {
  const lines = [""];
  for (const word of (runOf().meanings?.[name] ?? "").split(/\s+/)) {
    if (`${lines.at(-1)} ${word}`.length > room && lines.at(-1)) lines.push(word);
    else lines.push(`${lines.pop()} ${word}`.trim());
  }
  return lines.map(safe).join("<br>");
}

function layout(policy, others, plots, narrow, colour) {
  const single = plots.length === 1;
  const policies = [policy, ...others.map((other) => other.policy)];
  const room = narrow ? 44 : 88;
  const linesOf = (name) => (single && meaning(name, room) ? meaning(name, room).split("<br>").length : 0);
  const touch = matchMedia("(hover: none)").matches;
  const shared = { gridcolor: colour.rule, zeroline: false, tickfont: { color: colour.quiet, size: 12 }, fixedrange: touch, automargin: false, ticks: "" };
  const made = {
    margin: { l: 46, r: 14, t: 30 + 15 * linesOf(plots[0].y), b: 46 + 15 * linesOf(plots[0].x) }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif', color: colour.ink, size: 13 }, hovermode: "closest",
    dragmode: touch ? false : "zoom", uirevision: `${policy.name} ${plots.map(({ x, y }) => `${x} ${y}`)}`,
    hoverlabel: { bgcolor: colour.panel, bordercolor: colour.strong, font: { color: colour.ink, size: 13 }, align: "left" }, annotations: [],
    height: single ? (narrow ? 320 : 396) + 15 * (linesOf(plots[0].x) + linesOf(plots[0].y)) : narrow ? 860 : 560,
  };
  plots.forEach(({ x, y, across, up }, k) => {
    const n = k ? k + 1 : "";
    made[`xaxis${n}`] = { ...shared, ...ticks(policies, x, single && !narrow ? 7 : 4), domain: across, anchor: `y${n}` };
    made[`yaxis${n}`] = { ...shared, ...ticks(policies, y, single && !narrow ? 6 : 4), domain: up, anchor: `x${n}` };
    // The page forbids inline styles, by which plotly would make a part of a text bold or grey; so each part is a text of its own.
    const label = { xref: "paper", yref: "paper", showarrow: false, font: { color: colour.ink, size: 13, weight: 600 } };
    const words = { ...label, font: { color: colour.quiet, size: 12 } };
    const [right, above] = [{ x: across[1], y: up[0], xanchor: "right", yanchor: "top" }, { x: across[0], y: up[1], xanchor: "left", yanchor: "bottom", xshift: -40 }];
    made.annotations.push(
      { ...label, ...right, text: `${safe(x)} → better`, yshift: -22 },
      { ...label, ...above, text: `${safe(y)} ↑ better`, yshift: 8 + 15 * linesOf(y) },
    );
    if (linesOf(x)) made.annotations.push({ ...words, ...right, align: "right", text: meaning(x, room), yshift: -38 });
    if (linesOf(y)) made.annotations.push({ ...words, ...above, align: "left", text: meaning(y, room), yshift: 6 });
  });
  return made;
}

/**
 * Return plotly's figure of a front.
 * `others`: [{policy, symbol}], drawn faintly; `plots`: as `arranged` returns them.
 */
export function figure(policy, others, plots, narrow) {
  const colour = colours();
  const axes = (k) => (k ? { xaxis: `x${k + 1}`, yaxis: `y${k + 1}` } : {});
  return { data: plots.flatMap((plot, k) => traces(policy, others, plot, axes(k), colour)), layout: layout(policy, others, plots, narrow, colour) };
}
