// The front over two objectives: points with their intervals, in the frame of two axes.

import { element, known, number } from "./elements.js";
import { range, shown, spoken, stacked } from "./scene.js";
import { beads, digits, hull, marker, placed, polyline, ticks, words, wrapped } from "./shapes.js";

/** The most series whose names stand beside their lines, and where a longer name is cut. */
const NAMED = 4, LONGEST = 26;
const LINE = 15;

/**
 * Return the plot of a pair of objectives {x, y}, by number, in a box of pixels: {node, height, x, y, left, top, right, bottom, spans}.
 * One that stands alone says below the names of its axes what they mean, and is higher by these lines.
 */
export function scatter(scene, { x, y }, box, alone) {
  const { objectives } = scene.front;
  const room = Math.floor(box.width / 6.6);
  const meaning = (m) => (alone ? wrapped(objectives[m].meaning ?? "", room) : []);
  const [across, up] = [meaning(x), meaning(y)];
  const height = box.height + LINE * (across.length + up.length);
  const frame = {
    x, y, height, left: box.left + 50, right: box.left + box.width - 14,
    top: box.top + 34 + LINE * up.length, bottom: box.top + height - 46 - LINE * across.length, spans: [range(scene, x), range(scene, y)],
  };
  const named = [
    words("axis", [frame.right, frame.bottom + 36], `${objectives[x].name} → better`, "end"),
    words("axis", [box.left + 4, box.top + 16], `${objectives[y].name} ↑ better`),
    ...across.map((line, n) => words("small", [frame.right, frame.bottom + 36 + LINE * (n + 1)], line, "end")),
    ...up.map((line, n) => words("small", [box.left + 4, box.top + 16 + LINE * (n + 1)], line)),
  ];
  const [left, top, width, tall] = [frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top];
  const inner = element("svg:svg", {
    class: scene.zoom ? "inner near" : "inner", x: left, y: top, width, height: tall, viewBox: `${left} ${top} ${width} ${tall}`,
  }, ...drawn(scene, frame));
  const name = `Scores on ${objectives[x].name} (across) and ${objectives[y].name} (up), higher is better on both`;
  const node = element("svg:g", { class: "pairing", role: "group", "aria-label": name, "data-spans": frame.spans.flat().join(" ") },
    element("svg:rect", { class: "ground", x: left, y: top, width, height: tall }), ...grid(frame), ...named, inner);
  return { ...frame, node };
}

/** Return the function from scores to the pixel in a frame. */
function placing({ x, y, left, right, top, bottom, spans: [[x0, x1], [y0, y1]] }) {
  return (mean) => [left + ((mean[x] - x0) / (x1 - x0)) * (right - left), bottom - ((mean[y] - y0) / (y1 - y0)) * (bottom - top)];
}

function grid({ left, right, top, bottom, spans: [[x0, x1], [y0, y1]] }) {
  const columns = ticks(x0, x1, Math.max(3, Math.floor((right - left) / 110)));
  const rows = ticks(y0, y1, Math.max(3, Math.floor((bottom - top) / 75)));
  const [dx, dy] = [digits(columns), digits(rows)];
  return [
    ...columns.flatMap((value) => {
      const x = left + ((value - x0) / (x1 - x0)) * (right - left);
      return [polyline([[x, top], [x, bottom]], "grid"), words("tick", [x, bottom + 16], number(value, dx), "middle")];
    }),
    ...rows.flatMap((value) => {
      const y = bottom - ((value - y0) / (y1 - y0)) * (bottom - top);
      return [polyline([[left, y], [right, y]], "grid"), words("tick", [left - 7, y + 4], number(value, dy), "end")];
    }),
  ];
}

/** Return the intervals of a point as lines between pixels. */
function bars(at, { mean, low, high }, { x, y }) {
  const end = (m, bound) => at(mean.map((value, n) => (n === m ? bound[m] : value)));
  return [x, y].filter((m) => known(low?.[m]) && known(high?.[m])).map((m) => [end(m, low), end(m, high)]);
}

/** Return all that stands in a frame, from the back to the front. */
function drawn(scene, frame) {
  const { front } = scene;
  const at = placing(frame);
  const joined = front.objectives.length === 2;
  const series = stacked(scene);
  const around = ([x, y], r) => [x - r, y - r, x + r, y + r];
  const labels = [], blocked = [], below = [], above = [];
  const whiskers = (point, r) => {
    const lines = shown(scene, ":bars") ? bars(at, point, frame) : [];
    const boxes = lines.map(([[x0, y0], [x1, y1]]) => [Math.min(x0, x1) - 1, Math.min(y0, y1) - 1, Math.max(x0, x1) + 1, Math.max(y0, y1) + 1]);
    blocked.push(...boxes, around(at(point.mean), r));
    return lines.map((line) => polyline(line, "bar"));
  };
  const line = (pixels, kind) => {
    below.push(polyline(pixels, kind));
    blocked.push(...pixels.slice(1).flatMap((pixel, n) => beads(pixels[n], pixel)));
  };

  if (front.reference && [frame.x, frame.y].every((m, n) => frame.spans[n][0] <= front.reference[m])) below.push(corner(at(front.reference)));
  for (const one of series.filter(({ area }) => area && shown(scene, ":hull"))) {
    const rim = hull(one.points.filter(({ beyond }) => !beyond).map(({ mean }) => at(mean)));
    if (rim.length > 2) below.push(polyline(rim, `hull ${one.kind}`, true));
  }
  if (front.mixture?.length && shown(scene, ":mixture")) {
    const pixels = front.mixture.map(at);
    const rim = joined ? pixels : hull(pixels);
    if (joined) line(pixels, "mixture");
    else below.push(polyline(rim, "mixture", rim.length > 2));
    labels.push({ at: pixels[Math.floor(pixels.length / 3)], text: front.mixtureTitle, kind: "label quiet", first: true });
  }
  for (const one of series) {
    const whole = one.points.filter(({ beyond }) => !beyond);
    const measured = whole.map(({ mean }) => at(mean));
    if (joined && one.joined && measured.length > 1) line(measured, `line ${one.kind}`);
    for (const point of one.points) {
      const pixel = at(point.mean);
      above.push(spoken(scene, one, point, `${one.kind}${point.beyond ? " faded" : ""}`,
        ...whiskers(point, 8), point.knee && shown(scene, ":knee") ? element("svg:circle", { class: "knee", cx: pixel[0], cy: pixel[1], r: 11 }) : null,
        element("svg:circle", { class: "hit", cx: pixel[0], cy: pixel[1], r: 14 }),
        marker(one.shape, pixel, (point.shared ? 8 : 5.5) * (point.size ?? 1), `mark${point.ring ? " ring" : ""}${one.open ? " open" : ""}`)));
      const first = [whole[0], whole.at(-1)].includes(point);
      if (point.label) labels.push({ at: pixel, text: point.label, kind: point.shared ? "label" : `label ${one.kind}`, first });
    }
  }
  if (front.base && shown(scene, ":base")) {
    const pixel = at(front.base.mean);
    const hit = element("svg:circle", { class: "hit", cx: pixel[0], cy: pixel[1], r: 12 });
    below.push(spoken(scene, null, front.base, "base", ...whiskers(front.base, 7), hit, marker("cross", pixel, 7)));
    labels.push({ at: pixel, text: front.base.title, kind: "label base", first: true });
  }
  if (joined) labels.push(...names(series, at));
  const own = scene.own.map((one) => mark(scene, one, at, frame));
  blocked.push(...scene.own.map(({ mean }) => around(at(mean), 11)));
  return [...below, ...above, ...(joined ? texts(labels, blocked, frame) : []), ...own];
}

/**
 * Return labels where they cover least; of those that repeat a text close by, as policies share points, there is one. Where there is no
 * room for all, those that are first have it: names, and the ends of each series.
 */
function texts(labels, blocked, { left, top, right, bottom }) {
  const inside = ({ at: [x, y] }) => x >= left && x <= right && y >= top && y <= bottom;
  const kept = [];
  for (const label of labels.filter(inside).sort((p, q) => Boolean(q.first) - Boolean(p.first))) {
    const near = ({ at, text }) => text === label.text && Math.hypot(at[0] - label.at[0], at[1] - label.at[1]) < 10;
    if (!kept.some(near)) kept.push(label);
  }
  return placed(kept, blocked, [left, top, right, bottom]).flatMap((centre, n) =>
    (centre ? [words(kept[n].kind, [centre[0], centre[1] + 4], kept[n].text, "middle")] : []));
}

/** Return the names of a few series, each beside the segment of its line that is farthest from the lines of the others. */
function names(series, at) {
  const lines = series.filter(({ joined, open, points }) => joined && !open && points.length > 1);
  if (lines.length < 2 || lines.length > NAMED) return [];
  return lines.map((one) => {
    const others = lines.filter((other) => other !== one).flatMap(({ points }) => points.map(({ mean }) => at(mean)));
    const pixels = one.points.map(({ mean }) => at(mean));
    const middles = pixels.slice(1).map(([x, y], n) => [(x + pixels[n][0]) / 2, (y + pixels[n][1]) / 2]);
    const free = ([x, y]) => Math.min(...others.map(([u, v]) => Math.hypot(x - u, y - v)));
    const text = one.title.length > LONGEST ? `${one.title.slice(0, LONGEST - 1)}…` : one.title;
    return { at: middles.reduce((best, middle) => (free(middle) > free(best) ? middle : best)), text, kind: `label ${one.kind}`, first: true };
  });
}

function corner([x, y]) {
  return element("svg:g", {}, element("svg:path", { class: "ref", d: `M${x} ${y - 16}V${y}H${x + 16}` }), words("small", [x + 6, y - 6], "reference point"));
}

/** Return a mark beside the front: a letter in its shape with its intervals; one that frames another is a larger square without. */
function mark(scene, one, at, frame) {
  const pixel = at(one.mean);
  const shape = one.framing
    ? element("svg:rect", { class: "frame", x: pixel[0] - 15, y: pixel[1] - 15, width: 30, height: 30 })
    : marker(one.shape, pixel, 10.5);
  return spoken(scene, null, one, `own ${one.kind}${one.framing ? " framing" : ""}`,
    ...bars(at, one, frame).map((line) => polyline(line, "bar")), shape, one.framing ? null : words("letter", [pixel[0], pixel[1] + 4.2], one.text, "middle"));
}
