// What a picture of a front is drawn from, and an element that says what it shows.
//
// A scene is {front, look: {view, x, y, hidden}, zoom, own, on, reached, items}: the front (see `plot.js`) and how it is looked at; the
// range [low, high] of each objective, or null for the whole; marks beside the front; a function (series, point) that says which
// points are chosen; the key of the point that Tab reaches; and a map that is filled with what each element shows, {series, point}.

import { element, known } from "./elements.js";

/** Return whether a part that the legend names, and that is no series, is drawn. */
export const shown = (scene, id) => !scene.look.hidden.includes(id);

/** Return the series that are drawn, in the order of the legend. */
export const visible = (front, look) => front.series.filter(({ id, fixed }) => fixed || !look.hidden.includes(id));

/** Return the series that are drawn, from the back to the front: what cannot be hidden lies above the rest. */
export const stacked = (scene) => visible(scene.front, scene.look).sort((p, q) => Boolean(p.fixed) - Boolean(q.fixed));

/** Return the range of an objective that holds every point and bound, with a margin, and the reference point where it lies near. */
export function whole(front, m) {
  const points = [...front.series.flatMap((series) => series.points), ...(front.base ? [front.base] : [])];
  const values = [...points.flatMap(({ mean, low, high }) => [mean[m], low?.[m], high?.[m]]), ...(front.mixture ?? []).map((mean) => mean[m])].filter(known);
  let low = Math.min(...values);
  const high = Math.max(...values);
  const size = high - low || Math.max(Math.abs(high), 1) * 0.1;
  const reference = front.reference?.[m];
  if (known(reference) && low - size / 2 <= reference && reference < low) low = reference;
  return [low - 0.05 * size, high + 0.06 * size];
}

/** Return the range of an objective that is looked at. */
export const range = (scene, m) => scene.zoom?.[m] ?? whole(scene.front, m);

/** Return a point's name and facts in one line. */
export const told = (point) => [point.head, ...(point.facts ?? [])].join("; ");

/** Return what is drawn of a point as one element that says what it is; one that can be chosen is a button that keys reach. */
export function spoken(scene, series, point, kind, ...children) {
  const open = series !== null && !point.beyond;
  const key = open ? `${series.id} ${point.id}` : null;
  const made = element("svg:g", {
    class: `${open ? "pt" : "seen"} ${kind}${open && scene.on(series, point) ? " on" : ""}`, role: open ? "button" : "img", "aria-label": told(point),
    "data-key": key, "data-series": series?.id, tabindex: open ? (key === scene.reached ? 0 : -1) : null, "aria-pressed": open ? String(scene.on(series, point)) : null,
  }, ...children);
  if (known(point.opacity)) made.style.setProperty("--on", point.opacity);
  scene.items.set(made, { series, point });
  return made;
}
