// The measured front with its intervals, A and B: scatter plots by plotly, or lines over parallel axes.

import { drawParallel } from "./parallel.js";
import { state } from "./state.js";
import { byId, element, interval, preferenceText, same, weightText } from "./words.js";
import { places } from "./expected.js";

let loading = null;

/** Load plotly once, from this server. */
function plotly() {
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

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["page", "panel", "ink", "quiet", "rule", "strong", "p0", "p1", "p2"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Return asymmetric error bars from means and bounds; an unknown bound has none. */
function bars(scores, name, colour, thick) {
  const far = (bound) => scores.map((one) => (Number.isFinite(one[bound][name]) ? Math.abs(one[bound][name] - one.mean[name]) : 0));
  return { type: "data", symmetric: false, array: far("high"), arrayminus: far("low"), color: colour, thickness: thick, width: 0 };
}

function described(policy, scores) {
  const shown = places(policy);
  return policy.objectives
    .map((name) => `${safe(name)} ${interval({ mean: scores.mean[name], low: scores.low[name], high: scores.high[name] }, shown[name])}`)
    .join("<br>");
}

/** Return the position of each point's label: below where it would overlap that of the point before. */
function placed(points, x, y) {
  const near = (p, q, name, share) => {
    const values = points.map((point) => point.mean[name]);
    return Math.abs(p.mean[name] - q.mean[name]) < share * (Math.max(...values) - Math.min(...values));
  };
  return points.map((point, k) => (k && near(point, points[k - 1], x, 0.08) && near(point, points[k - 1], y, 0.06) ? "bottom right" : "top right"));
}

/** Return the traces of one scatter plot: measured points, the knee, A and B, and with two objectives the weights. */
function traces(policy, x, y, axes, colour, joined) {
  const points = [...policy.points].sort((p, q) => p.preference[x] - q.preference[x]);
  const at = (name) => points.map((point) => point.mean[name]);
  const common = { ...axes, type: "scatter", mode: "markers" };
  const measured = {
    ...common, mode: joined ? "markers+lines" : "markers", x: at(x), y: at(y), customdata: points.map((point) => point.preference), name: "measured",
    error_x: bars(points, x, colour.strong, 1.3), error_y: bars(points, y, colour.strong, 1.3),
    marker: { color: colour.p2, size: 9, line: { color: colour.page, width: 1.2 } }, line: { color: colour.p2, width: 1.6 },
    hovertemplate: points.map((point) => `${safe(preferenceText(point.preference))}<br>${described(policy, point)}<extra></extra>`),
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
  // At one preference B frames A, so that both are seen.
  const served = (side) => state.sides[side].served?.preference;
  const together = served("a") && served("b") && same(served("a"), served("b"));
  const sides = ["b", "a"].flatMap((side) => {
    const expected = state.sides[side].served?.expected;
    if (!expected || !Number.isFinite(expected[x].mean) || !Number.isFinite(expected[y].mean)) return [];
    const table = (key) => Object.fromEntries(policy.objectives.map((name) => [name, expected[name][key] ?? NaN]));
    const scores = { mean: table("mean"), low: table("low"), high: table("high") };
    const own = side === "a" ? colour.p0 : colour.p1;
    return [{
      ...common, mode: "markers+text", x: [scores.mean[x]], y: [scores.mean[y]], name: side.toUpperCase(), text: [together && side === "b" ? "" : side.toUpperCase()],
      textposition: "middle center", textfont: { color: colour.page, size: 12, weight: 700 },
      error_x: bars([scores], x, own, 2), error_y: bars([scores], y, own, 2),
      marker: together && side === "b"
        ? { symbol: "square-open", size: 31, color: own, opacity: 1, line: { color: own, width: 3 } }
        : { symbol: side === "a" ? "circle" : "square", size: side === "a" ? 21 : 19, color: own, opacity: 1, line: { color: colour.page, width: 1.5 } },
      hovertemplate: `${side.toUpperCase()}: ${safe(preferenceText(state.sides[side].preference))}<br>${described(policy, scores)}<extra></extra>`,
    }];
  });
  return [measured, ring, ...(policy.objectives.length === 2 ? [labels] : []), ...sides];
}

/** Return the format of about `count` ticks over the measured range, all with the same decimals. */
function ticks(policy, name, count) {
  const values = policy.points.flatMap((point) => [point.mean[name], point.low[name], point.high[name]]).filter(Number.isFinite);
  const step = (Math.max(...values) - Math.min(...values)) / count;
  return { nticks: count + 1, tickformat: step > 0 ? `.${Math.max(0, Math.ceil(-Math.log10(step) - 0.3))}f` : "" };
}

/**
 * Return pairs of objectives and the area of each plot, in shares of the picture: one plot for two objectives, the lower half
 * of a scatter matrix for three; one below the other where there is little room.
 */
function arranged(names, narrow) {
  if (names.length === 2) return [{ x: names[0], y: names[1], across: [0, 1], up: [0, 1] }];
  const pairs = [[0, 1, 0, 1], [0, 2, 0, 0], [1, 2, 1, 0]];
  return pairs.map(([x, y, column, row], k) => ({
    x: names[x], y: names[y],
    across: narrow ? [0, 1] : column ? [0.55, 1] : [0, 0.45],
    up: narrow ? [[0.73, 1], [0.365, 0.635], [0, 0.27]][k] : row ? [0.57, 1] : [0, 0.43],
  }));
}

function layout(policy, plots, narrow, colour) {
  const single = plots.length === 1;
  const shared = { gridcolor: colour.rule, zeroline: false, tickfont: { color: colour.quiet, size: 12 }, fixedrange: true, automargin: false, ticks: "" };
  const made = {
    margin: { l: 46, r: 14, t: 30, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif', color: colour.ink, size: 13 }, hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: colour.panel, bordercolor: colour.strong, font: { color: colour.ink, size: 13 }, align: "left" }, annotations: [],
    height: single ? (narrow ? 320 : 396) : narrow ? 860 : 560,
  };
  plots.forEach(({ x, y, across, up }, k) => {
    const n = k ? k + 1 : "";
    made[`xaxis${n}`] = { ...shared, ...ticks(policy, x, single && !narrow ? 7 : 4), domain: across, anchor: `y${n}` };
    made[`yaxis${n}`] = { ...shared, ...ticks(policy, y, single && !narrow ? 6 : 4), domain: up, anchor: `x${n}` };
    const label = { xref: "paper", yref: "paper", showarrow: false, font: { color: colour.ink, size: 13, weight: 600 } };
    made.annotations.push(
      { ...label, text: `${safe(x)} → better`, x: across[1], y: up[0], xanchor: "right", yanchor: "top", yshift: -22 },
      { ...label, text: `${safe(y)} ↑ better`, x: across[0], y: up[1], xanchor: "left", yanchor: "bottom", xshift: -40, yshift: 8 },
    );
  });
  return made;
}

/** Draw the front of the chosen policy; a click on a measured preference calls `pick(preference)`. */
export async function drawFront(pick) {
  const policy = state.policy;
  const chart = byId("chart");
  if (!policy.points.length || policy.objectives.length === 1) return;
  if (policy.objectives.length > 3) return drawParallel(chart, policy, pick);
  const names = policy.objectives;
  const narrow = chart.clientWidth < 480;
  const plots = arranged(names, narrow);
  const Plotly = await plotly();
  if (state.policy !== policy) return;
  const colour = colours();
  const joined = names.length === 2 && !policy.anchored;
  const data = plots.flatMap(({ x, y }, k) => traces(policy, x, y, k ? { xaxis: `x${k + 1}`, yaxis: `y${k + 1}` } : {}, colour, joined));
  chart.querySelector(".wait")?.remove();
  await Plotly.react(chart, data, layout(policy, plots, narrow, colour), { displayModeBar: false, responsive: true, doubleClick: false });
  chart.removeAllListeners("plotly_click");
  chart.on("plotly_click", ({ points }) => points[0].customdata && pick(points[0].customdata));
}

/** Clear the chart before another policy is drawn. */
export function clearFront() {
  const chart = byId("chart");
  if (window.Plotly && chart.classList.contains("js-plotly-plot")) window.Plotly.purge(chart);
  const policy = state.policy;
  const message = !policy.points.length
    ? "No front of this policy was measured, so its scores are unknown. Run “paretune run” to the end to see it here."
    : policy.objectives.length === 1
      ? "There is only one objective, so there is no front."
      : null;
  chart.replaceChildren(element("p", { class: message ? "empty" : "empty wait" }, message ?? "Drawing the front …"));
  byId("front-lead").textContent = message ? "" : leadOf(policy);
  byId("front-table-box").hidden = !policy.points.length;
}

function leadOf(policy) {
  const first = policy.objectives[0];
  const bulge = policy.knee ? "; the ring marks the knee." : ". No point stands out as a knee: the front is straight or bends inwards.";
  const how = policy.objectives.length === 2
    ? `Dots are measured preferences with 95 % intervals. The number is the weight on ${first}${bulge}`
    : policy.objectives.length === 3
      ? `Each plot shows two objectives. Dots are measured preferences with 95 % intervals${bulge}`
      : "Each line is a measured preference; the best score is at the top.";
  return `${how} Select one to go there.`;
}

/** Say what a point more on each objective means, where the run states it. */
export function drawMeanings() {
  const told = Object.entries(state.front.meanings ?? {}).filter(([name, meaning]) => meaning && state.policy.objectives.includes(name));
  byId("meanings").replaceChildren(...told.map(([name, meaning]) => element("div", {}, element("dt", {}, name), element("dd", {}, meaning))));
}

/** List the measured preferences, with buttons that move A or B there. */
export function tabulate(pick) {
  const policy = state.policy;
  const shown = places(policy);
  const head = element("tr", {}, ...["Preference", ...policy.objectives, "Go there"].map((name) => element("th", { scope: "col" }, name)));
  const rows = policy.points.map((point) => {
    const text = preferenceText(point.preference);
    const knee = policy.knee && same(point.preference, policy.knee);
    return element("tr", {},
      element("th", { scope: "row" }, text, knee ? element("span", { class: "tag" }, "knee") : null),
      ...policy.objectives.map((name) => element("td", { class: "num" }, interval({ mean: point.mean[name], low: point.low[name], high: point.high[name] }, shown[name]))),
      element("td", {}, ...["a", "b"].map((side) =>
        element("button", { type: "button", class: `mark button ${side}`, "aria-label": `${side.toUpperCase()} to ${text}`, click: () => pick(point.preference, side) }, side.toUpperCase()))));
  });
  byId("front-table").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}
