// Two objectives: one slider for A and one for B, in steps of outcome (along the front) or of weight.

import { state } from "./state.js";
import { element, preferenceText, weightText } from "./words.js";
import { summary } from "./expected.js";

const STEPS = 100;

/** Return functions from a position in [0, 1] in steps of outcome to the weight, and back; right is more of the first objective. */
function calibrated(policy) {
  const first = policy.objectives[0];
  const stops = policy.dial.map((stop) => [stop.position, stop.preference[first]]);
  if (stops[0][1] > stops.at(-1)[1]) stops.reverse().forEach((stop) => (stop[0] = 1 - stop[0]));
  const between = (value, from, to) => {
    const next = stops.findIndex((stop) => stop[from] >= value - 1e-9);
    if (next <= 0) return stops[next < 0 ? stops.length - 1 : 0][to];
    const [p, q] = [stops[next - 1], stops[next]];
    const share = q[from] > p[from] ? (value - p[from]) / (q[from] - p[from]) : 1;
    return p[to] + share * (q[to] - p[to]);
  };
  return { weight: (position) => between(position, 0, 1), position: (weight) => between(weight, 1, 0) };
}

/** Draw the two dials into `root`; moving one calls `move(side, preference)`. Returns the function that redraws them. */
export function drawDial(root, policy, move) {
  const [first, second] = policy.objectives;
  const scale = policy.dial.length > 1 ? calibrated(policy) : null;
  const straight = { weight: (position) => position, position: (weight) => weight };
  const map = () => (scale && state.mode === "outcome" ? scale : straight);

  root.append(
    element("p", { class: "ends", "aria-hidden": "true" }, element("span", {}, `← more ${second}`), element("span", {}, `more ${first} →`)),
  );

  const parts = ["a", "b"].map((side) => {
    const letter = side.toUpperCase();
    const input = element("input", {
      type: "range", min: 0, max: STEPS, step: 1, id: `dial-${side}`, class: `range ${side}`,
      "aria-label": `Preference ${letter}, from ${second} to ${first}`,
      input: () => {
        const weight = Math.round(map().weight(Number(input.value) / STEPS) * 1000) / 1000;
        move(side, { [first]: weight, [second]: 1 - weight });
      },
    });
    const ticks = element("div", { class: "ticks", "aria-hidden": "true" });
    const about = summary(side);
    root.append(
      element("div", { class: `dial ${side}` }, about.head, element("div", { class: "slide" }, input, ticks), about.scores),
    );
    return { side, input, ticks, about };
  });
  return () => {
    for (const { side, input, ticks, about } of parts) {
      const preference = state.sides[side].preference;
      input.value = Math.round(map().position(preference[first]) * STEPS);
      input.setAttribute("aria-valuetext", preferenceText(preference));
      ticks.replaceChildren(
        ...policy.points.map((point) => {
          const tick = element("i", { title: weightText(point.preference[first]) });
          tick.style.left = `${100 * map().position(point.preference[first])}%`;
          return tick;
        }),
      );
      about.update();
    }
  };
}
