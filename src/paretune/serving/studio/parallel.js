// Parallel axes: each measured preference as a line over one axis per objective, best at the top.

import { facts } from "./plot.js";
import { runOf, state } from "./state.js";
import { element, number, preferenceText, same } from "./words.js";
import { places } from "./expected.js";

const HEIGHT = 380, TOP = 52, BOTTOM = 346;

/** The number of the line that Tab reaches; the arrow keys go on from there. */
let reached = 0;

/** Return what a line is, does and says: its facts are shown beside it while the pointer or the focus is on it. */
function lineOf(point, n, policy, path, pick, tip) {
  const text = preferenceText(point.preference);
  const step = (event, to) => {
    const all = [...event.currentTarget.parentNode.querySelectorAll(".measured")];
    reached = (to + all.length) % all.length;
    all.forEach((one, k) => one.setAttribute("tabindex", k === reached ? 0 : -1));
    all[reached].focus();
  };
  const keys = { ArrowRight: n + 1, ArrowDown: n + 1, ArrowLeft: n - 1, ArrowUp: n - 1, Home: 0, End: -1 };
  const show = (event) => tip(event, [text, ...facts(policy, point)]);
  return element("svg:g", {
    class: "measured", role: "button", tabindex: n === reached ? 0 : -1, "aria-label": `${text}: ${facts(policy, point).join(", ")}. Go there`,
    click: () => pick(point.preference), pointermove: show, focus: show, pointerleave: () => tip(null), blur: () => tip(null),
    keydown: (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const to = keys[event.key];
      if (to === undefined && event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      if (to === undefined) pick(point.preference);
      else step(event, to);
    },
  }, element("svg:path", { class: "reach", d: path }), element("svg:path", { class: "line", d: path }));
}

/** Return a box for facts in `chart`, and the function that shows lines in it beside the pointer or the focus, or hides it. */
function tipIn(chart) {
  const box = element("div", { class: "tip", "aria-hidden": "true", hidden: true });
  return [box, (event, lines) => {
    box.hidden = event === null;
    if (event === null) return;
    box.replaceChildren(...lines.map((line, n) => element(n ? "span" : "b", {}, line)));
    const area = chart.getBoundingClientRect();
    const of = event.currentTarget.getBoundingClientRect();
    const [x, y] = event.type === "focus" ? [of.left + of.width / 2, of.top + of.height / 2] : [event.clientX, event.clientY];
    box.style.left = `${Math.max(0, Math.min(x - area.left + 14, area.width - box.offsetWidth))}px`;
    box.style.top = `${Math.max(0, Math.min(y - area.top + 14, area.height - box.offsetHeight))}px`;
  }];
}

/** Draw the lines into `chart`; a click on one, or Enter, calls `pick(preference)`. */
export function drawParallel(chart, policy, pick) {
  const names = policy.objectives;
  const width = Math.max(280, chart.clientWidth);
  const edge = width < 560 ? 30 : 56;
  const column = (m) => edge + ((width - 2 * edge) * m) / (names.length - 1);
  const shown = places(policy);
  const spans = names.map((name) => {
    const bounds = policy.points.flatMap((point) => [point.mean[name], point.low[name], point.high[name]]).filter(Number.isFinite);
    const [low, high] = [Math.min(...bounds), Math.max(...bounds)];
    return high > low ? [low, high] : [low - 0.5, high + 0.5];
  });
  const up = (value, m) => BOTTOM - ((value - spans[m][0]) / (spans[m][1] - spans[m][0])) * (BOTTOM - TOP);
  const line = (mean) => `M${names.map((name, m) => `${column(m).toFixed(1)} ${up(mean[name], m).toFixed(1)}`).join("L")}`;
  const bar = (low, high, m, kind, shift = 0) => {
    const x = column(m) + shift;
    return Number.isFinite(low) && Number.isFinite(high) ? element("svg:path", { class: kind, d: `M${x} ${up(low, m)}V${up(high, m)}` }) : null;
  };
  const room = Math.max(5, Math.floor((width - 2 * edge) / (names.length - 1) / 7.5));
  const axes = names.flatMap((name, m) => [
    element("svg:path", { class: "grid strong", d: `M${column(m)} ${TOP}V${BOTTOM}` }),
    element("svg:text", { class: "axis", x: column(m), y: 18, "text-anchor": m === 0 ? "start" : m === names.length - 1 ? "end" : "middle", dx: m === 0 ? -edge + 4 : m === names.length - 1 ? edge - 4 : 0 },
      name.length > room ? `${name.slice(0, room - 1)}…` : `${name} ↑`, element("svg:title", {}, `${name}, higher is better${runOf().meanings?.[name] ? `: ${runOf().meanings[name]}` : ""}`)),
    element("svg:text", { class: "tick", x: column(m), y: TOP - 10, "text-anchor": "middle" }, number(spans[m][1], shown[name])),
    element("svg:text", { class: "tick", x: column(m), y: BOTTOM + 20, "text-anchor": "middle" }, number(spans[m][0], shown[name])),
  ]);
  const [box, tip] = tipIn(chart);
  reached = Math.min(reached, policy.points.length - 1);
  const measured = policy.points.map((point, n) => lineOf(point, n, policy, line(point.mean), pick, tip));
  const sides = ["b", "a"].flatMap((side) => {
    const expected = state.sides[side].served?.expected;
    if (!expected || names.some((name) => !Number.isFinite(expected[name].mean))) return [];
    const mean = Object.fromEntries(names.map((name) => [name, expected[name].mean]));
    const shift = side === "a" ? -3 : 3;
    const framing = side === "b" && state.sides.a.served && same(state.sides.a.served.preference, state.sides.b.served.preference);
    return [element("svg:g", { class: `own ${side}${framing ? " framing" : ""}` },
      element("svg:path", { class: "line", d: line(mean) }),
      ...names.map((name, m) => bar(expected[name].low, expected[name].high, m, "bar", shift)),
      ...names.map((name, m) => (side === "a"
        ? element("svg:circle", { class: "shape", cx: column(m), cy: up(mean[name], m), r: 5.5 })
        : element("svg:rect", { class: "shape", x: column(m) - 5, y: up(mean[name], m) - 5, width: 10, height: 10 }))))];
  });
  const focused = chart.contains(document.activeElement) && document.activeElement.classList.contains("measured");
  chart.replaceChildren(element("svg:svg", { class: "parallel", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "group", "aria-label": "Every measured preference as a line over all objectives; arrow keys go from line to line" },
    ...axes, ...measured, ...sides), box);
  if (focused) chart.querySelector(".measured[tabindex='0']")?.focus();
}
