// Parallel axes: each measured point as a line over one axis per objective, best at the top.

import { element, known, number } from "./elements.js";
import { shown, spoken, stacked, whole } from "./scene.js";
import { marker, polyline, words } from "./shapes.js";

const TOP = 44, BELOW = 30;

/** Return the lines of a scene in a width in pixels, {height, children}; see `figure.js`. */
export function parallel(scene, width) {
  const { objectives, base } = scene.front;
  const M = objectives.length;
  const height = width < 560 ? 340 : 390;
  const edge = width < 560 ? 30 : 50;
  const column = (m) => (M > 1 ? edge + ((width - 2 * edge) * m) / (M - 1) : width / 2);
  const spans = objectives.map((_, m) => whole(scene.front, m));
  const up = (value, m) => height - BELOW - ((value - spans[m][0]) / (spans[m][1] - spans[m][0])) * (height - BELOW - TOP);
  const trace = (mean) => mean.map((value, m) => [column(m), up(value, m)]);
  const axes = objectives.flatMap((objective, m) => axis(objective, m, M, column(m), [TOP, height - BELOW], spans[m], width, edge));
  const lines = stacked(scene).flatMap((one) => one.points.filter(({ beyond }) => !beyond).map((point) => {
    const pixels = trace(point.mean);
    const marks = pixels.map((pixel) => marker(one.shape, pixel, 4, one.open ? "mark open" : "mark"));
    return spoken(scene, one, point, one.kind, polyline(pixels, "hit thin"), polyline(pixels, "line"), ...marks);
  }));
  const cross = base && shown(scene, ":base")
    ? [spoken(scene, null, base, "base", polyline(trace(base.mean), "mixture"), ...trace(base.mean).map((pixel) => marker("cross", pixel, 6)))]
    : [];
  const own = scene.own.map((one) => {
    const pixels = trace(one.mean);
    const bars = objectives.flatMap((_, m) => {
      const x = column(m) + (one.shape === "circle" ? -3 : 3);
      return known(one.low[m]) && known(one.high[m]) ? [polyline([[x, up(one.low[m], m)], [x, up(one.high[m], m)]], "bar")] : [];
    });
    const marks = pixels.map((pixel) => marker(one.shape, pixel, 5.5));
    return spoken(scene, null, one, `own ${one.kind}${one.framing ? " framing" : ""}`, polyline(pixels, "line"), ...bars, ...marks);
  });
  return { height, children: [...axes, ...cross, ...lines, ...own] };
}

/** Return an axis with its name, which is cut where there is no room, and its ends. */
function axis({ name, meaning, places }, m, M, x, [top, bottom], [low, high], width, edge) {
  const anchor = M === 1 || (m > 0 && m < M - 1) ? "middle" : m === 0 ? "start" : "end";
  const room = Math.max(5, Math.floor(width / M / 7.6));
  const shift = anchor === "start" ? 4 - edge : anchor === "end" ? edge - 4 : 0;
  const text = words("axis", [x + shift, 16], name.length + 2 > room ? `${name.slice(0, room - 1)}…` : `${name} ↑`, anchor);
  text.append(element("svg:title", {}, `${name}, higher is better${meaning ? `: ${meaning}` : ""}`));
  return [
    polyline([[x, top], [x, bottom]], "grid strong"), text,
    words("tick", [x, top - 8], number(high, places), "middle"), words("tick", [x, bottom + 18], number(low, places), "middle"),
  ];
}
