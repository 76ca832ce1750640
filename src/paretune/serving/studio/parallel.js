// More than three objectives: each measured preference as a line over one axis per objective, best at the top.

import { state } from "./state.js";
import { element, number, preferenceText, same } from "./words.js";
import { places } from "./expected.js";

const HEIGHT = 380, TOP = 52, BOTTOM = 346;

/** Draw the lines into `chart`; a click on one calls `pick(preference)`. */
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
      name.length > room ? `${name.slice(0, room - 1)}…` : `${name} ↑`, element("svg:title", {}, `${name}, higher is better`)),
    element("svg:text", { class: "tick", x: column(m), y: TOP - 10, "text-anchor": "middle" }, number(spans[m][1], shown[name])),
    element("svg:text", { class: "tick", x: column(m), y: BOTTOM + 20, "text-anchor": "middle" }, number(spans[m][0], shown[name])),
  ]);
  const measured = policy.points.map((point) =>
    element("svg:g", { class: "measured", click: () => pick(point.preference) },
      element("svg:title", {}, preferenceText(point.preference)),
      element("svg:path", { class: "reach", d: line(point.mean) }), element("svg:path", { class: "line", d: line(point.mean) })));
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
  chart.replaceChildren(element("svg:svg", { class: "parallel", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": "Every measured preference over all objectives; the table below has the same numbers" },
    ...axes, ...measured, ...sides));
}
