// The picture of a front: all pairs of objectives, one pair, or all objectives over parallel axes.

import { parallel } from "./parallel.js";
import { scatter } from "./scatter.js";

/** The least width of one plot of several, and how high a plot that stands alone is, as a share of its width. */
const LEAST = 215, FLAT = 0.78;

/**
 * Return what is drawn of a scene (see `scene.js`) in a width in pixels: {height, children, frames}; frames are the plots of pairs, as
 * `scatter` returns them.
 */
export function figure(scene, width) {
  const { front, look } = scene;
  if (look.view === "axes") return { ...parallel(scene, width), frames: [] };
  if (look.view === "pair") {
    const height = Math.min(560, Math.max(340, FLAT * width));
    const plot = scatter(scene, { x: look.x, y: look.y }, { left: 0, top: 0, width, height }, true);
    return { height: plot.height, children: [plot.node], frames: [plot] };
  }
  const M = front.objectives.length;
  const pairs = Array.from({ length: M }, (_, a) => a).flatMap((a) => Array.from({ length: M - a - 1 }, (_, k) => ({ x: a, y: a + k + 1 })));
  const columns = Math.max(1, Math.min(3, Math.floor((width + 12) / (LEAST + 12))));
  const side = (width - 12 * (columns - 1)) / columns;
  const height = columns > 1 ? Math.min(320, Math.max(240, 0.9 * side)) : Math.min(340, Math.max(270, 0.85 * side));
  const frames = pairs.map((pair, n) =>
    scatter(scene, pair, { left: (n % columns) * (side + 12), top: Math.floor(n / columns) * (height + 14), width: side, height }, false));
  const rows = Math.ceil(pairs.length / columns);
  return { height: rows * (height + 14) - 14, children: frames.map(({ node }) => node), frames };
}
