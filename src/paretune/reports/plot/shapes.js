// What drawings are made of: marks, lines, round numbers for axes, and places for labels. Pixels are [x, y], y downwards.

import { element } from "./elements.js";

/** Corners, turn in degrees and size of each shape; a circle has none. */
const SHAPES = {
  square: [4, 45, 1.25], triangle: [3, 0, 1.35], diamond: [4, 0, 1.3], down: [3, 180, 1.35], pentagon: [5, 0, 1.15], hexagon: [6, 0, 1.15],
  wedge: [3, 90, 1.35],
};

/** Return a line through pixels, closed where asked, of a CSS class. */
export function polyline(pixels, kind, closed = false) {
  const path = pixels.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  return element("svg:path", { class: kind, d: `M${path}${closed ? "Z" : ""}` });
}

/** Return a mark at a pixel; `cross` is the base model's. */
export function marker(shape, [x, y], r, kind = "mark") {
  if (shape === "circle") return element("svg:circle", { class: kind, cx: x.toFixed(1), cy: y.toFixed(1), r: r.toFixed(1) });
  if (shape === "cross") {
    const a = r * 0.85;
    return element("svg:path", { class: "cross", d: `M${x - a} ${y - a}L${x + a} ${y + a}M${x - a} ${y + a}L${x + a} ${y - a}` });
  }
  const [corners, turn, size] = SHAPES[shape];
  const angles = Array.from({ length: corners }, (_, k) => ((turn + (360 * k) / corners) * Math.PI) / 180);
  return polyline(angles.map((angle) => [x + r * size * Math.sin(angle), y - r * size * Math.cos(angle)]), kind, true);
}

/** Return text at a pixel. */
export function words(kind, [x, y], text, anchor = "start") {
  return element("svg:text", { class: kind, x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor }, text);
}

/** Return about `count` round numbers from low to high, at least three of them where that is possible. */
export function ticks(low, high, count) {
  const size = 10 ** Math.floor(Math.log10((high - low) / count));
  let best = [];
  for (const factor of [10, 5, 2.5, 2, 1, 0.5]) {
    const apart = size * factor;
    const marks = [];
    for (let n = Math.ceil(low / apart - 1e-9); n * apart <= high + 1e-9 * apart; n += 1) marks.push(Number((n * apart).toPrecision(12)));
    if (best.length < 3 || (marks.length >= 3 && Math.abs(marks.length - count) < Math.abs(best.length - count))) best = marks;
  }
  return best;
}

/** Return how many decimals tell round numbers apart. */
export const digits = (marks) => Math.max(0, ...marks.map((mark) => (String(Number(mark.toPrecision(6))).split(".")[1] ?? "").length));

/** Return the vertices of the convex hull (Andrew's monotone chain). */
export function hull(pixels) {
  const sorted = [...pixels].sort((p, q) => p[0] - q[0] || p[1] - q[1]);
  const turn = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
  const half = (chain) => {
    const kept = [];
    for (const point of chain) {
      while (kept.length > 1 && turn(kept.at(-2), kept.at(-1), point) <= 0) kept.pop();
      kept.push(point);
    }
    return kept.slice(0, -1);
  };
  return sorted.length < 3 ? sorted : [...half(sorted), ...half(sorted.reverse())];
}

/** Return small boxes [left, top, right, bottom] along a line, which labels should not cover. */
export function beads([x0, y0], [x1, y1]) {
  const steps = Math.max(1, Math.floor(Math.hypot(x1 - x0, y1 - y0) / 6));
  return Array.from({ length: steps }, (_, k) => {
    const [x, y] = [x0 + ((x1 - x0) * k) / steps, y0 + ((y1 - y0) * k) / steps];
    return [x - 2, y - 2, x + 2, y + 2];
  });
}

const AROUND = [[1, 1], [-1, -1], [1, -1], [-1, 1], [1, 0], [-1, 0], [0, 1], [0, -1]];
/** How high a label is in pixels, and its font, which is that of `plot.css`. */
const TALL = 12, FONT = '600 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const pen = document.createElement("canvas").getContext("2d");

/** Return how wide a label is in pixels. */
function wide(text) {
  pen.font = FONT;
  return pen.measureText(text).width;
}

/** Return the pixels that a box shares with other boxes. */
function shared(box, others) {
  let area = 0;
  for (const other of others) {
    const across = Math.min(box[2], other[2]) - Math.max(box[0], other[0]);
    const up = Math.min(box[3], other[3]) - Math.max(box[1], other[1]);
    if (across > 0 && up > 0) area += across * up;
  }
  return area;
}

/**
 * Return the centre of each label {at, text} beside its pixel, where it covers least of the blocked boxes and stays in the area; null
 * where it could not be read for the labels before it.
 */
export function placed(labels, blocked, area) {
  const written = [];
  return labels.map(({ at: [x, y], text }) => {
    const [half, tall] = [wide(text) / 2, TALL / 2];
    let best = null;
    AROUND.forEach(([across, up], order) => {
      const reach = TALL * (across && up ? 0.42 : 0.95);
      const centre = [x + across * (half + reach), y - up * (tall + reach)];
      const box = [centre[0] - half, centre[1] - tall, centre[0] + half, centre[1] + tall];
      if (shared(box, written)) return;
      const cost = order * 0.5 + shared(box, blocked) + 20 * (4 * half * tall - shared(box, [area]));
      if (!best || cost < best.cost) best = { cost, centre, box };
    });
    if (!best) return null;
    written.push(best.box);
    return best.centre;
  });
}

/** Return words in lines of at most `room` characters; a longer word has a line of its own. */
export function wrapped(text, room) {
  const lines = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    if (lines.length && `${lines.at(-1)} ${word}`.length <= room) lines.push(`${lines.pop()} ${word}`);
    else lines.push(word);
  }
  return lines;
}
