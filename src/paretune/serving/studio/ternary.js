// Three objectives: a triangle in which A and B are moved; each corner is all weight on one objective.

import { admitted, state } from "./state.js";
import { element, number, preferenceText, same } from "./words.js";
import { summary } from "./expected.js";

const TOP = [160, 34], LEFT = [22, 262], RIGHT = [298, 262];
const SMALL = 0.02, LARGE = 0.1;

/** Return the pixel of weights, in the order top, left, right. */
function pixel([top, left, right]) {
  return [0, 1].map((k) => top * TOP[k] + left * LEFT[k] + right * RIGHT[k]);
}

/** Return the weights of a pixel, moved into the triangle. */
function weights(x, y) {
  const top = (LEFT[1] - y) / (LEFT[1] - TOP[1]);
  const right = (x - LEFT[0] - top * (TOP[0] - LEFT[0])) / (RIGHT[0] - LEFT[0]);
  const inside = [top, 1 - top - right, right].map((weight) => Math.max(0, weight));
  const total = inside.reduce((sum, weight) => sum + weight, 0);
  return inside.map((weight) => Math.round((weight / total) * 100) / 100);
}

/** Return the weights after an arrow key, or null: up and down move to and from the top, left and right along the base. */
function stepped([top, left, right], key, size) {
  const towards = (weight, add) => Math.min(1, Math.max(0, weight + add));
  if (key === "Home") return [1 / 3, 1 / 3, 1 / 3];
  if (key === "ArrowUp" || key === "ArrowDown") {
    const next = towards(top, key === "ArrowUp" ? size : -size);
    const share = left + right > 1e-9 ? left / (left + right) : 0.5;
    return [next, (1 - next) * share, (1 - next) * (1 - share)];
  }
  if (key !== "ArrowLeft" && key !== "ArrowRight") return null;
  const moved = key === "ArrowRight" ? Math.min(size, left) : -Math.min(size, right);
  return [top, left - moved, right + moved];
}

const path = (points) => `M${points.map((point) => point.map((v) => v.toFixed(1)).join(" ")).join("L")}Z`;

/** Draw the triangle into `root`; see `drawDial`. */
export function drawTernary(root, policy, move) {
  const names = policy.objectives;
  const listed = (preference) => names.map((name) => preference[name]);
  const named = (values) => Object.fromEntries(names.map((name, i) => [name, values[i]]));
  const short = (name) => (name.length > 16 ? `${name.slice(0, 15)}…` : name);
  const corners = [[...TOP, 0, -14, "middle"], [...LEFT, -14, 24, "start"], [...RIGHT, 14, 24, "end"]];

  const grid = [0.25, 0.5, 0.75].flatMap((share) =>
    [0, 1, 2].map((m) => {
      const end = (other) => [0, 1, 2].map((k) => (k === m ? share : k === other ? 1 - share : 0));
      const [p, q] = [0, 1, 2].filter((k) => k !== m).map((other) => pixel(end(other)));
      return element("svg:path", { class: "grid", d: `M${p.join(" ")}L${q.join(" ")}` });
    }),
  );
  const allowed = names.map((name) => pixel(listed(admitted(policy, named(names.map((other) => Number(other === name)))))));
  const dots = policy.points.map((point) => {
    const [x, y] = pixel(listed(point.preference));
    return element("svg:circle", { class: policy.knee && same(policy.knee, point.preference) ? "dot knee" : "dot", cx: x, cy: y, r: 3.5 });
  });
  const handles = ["b", "a"].map((side) => {
    const shape = side === "a"
      ? element("svg:circle", { class: "shape", r: 11 })
      : element("svg:rect", { class: "shape", x: -10, y: -10, width: 20, height: 20, rx: 2 });
    const handle = element("svg:g", {
      class: `handle ${side}`, id: `dial-${side}`, tabindex: 0, role: "slider", "aria-describedby": "ternary-how",
      "aria-label": `Preference ${side.toUpperCase()}, weight on ${names[0]}`, "aria-valuemin": 0, "aria-valuemax": 1,
      focus: () => (state.active = side),
      keydown: (event) => {
        const next = stepped(listed(state.sides[side].preference), event.key, event.shiftKey ? LARGE : SMALL);
        if (!next || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        move(side, named(next));
      },
    }, element("svg:circle", { class: "reach", r: 22 }), shape, element("svg:text", { "text-anchor": "middle", y: 4 }, side.toUpperCase()));
    return { side, handle };
  });
  const picture = element("svg:svg", { class: "ternary", viewBox: "0 0 320 296", role: "group", "aria-label": `Weights on ${names.join(", ")}` },
    element("svg:path", { class: "edge", d: path([TOP, LEFT, RIGHT]) }), ...grid,
    Object.values(policy.bounds ?? {}).some((floor) => floor > 0) ? element("svg:path", { class: "allowed", d: path(allowed) }) : null,
    ...dots,
    ...corners.map(([x, y, dx, dy, anchor], m) =>
      element("svg:text", { class: "corner", x: x + dx, y: y + dy, "text-anchor": anchor }, short(names[m]), element("svg:title", {}, names[m]))),
    ...handles.map(({ handle }) => handle));

  let dragged = null;
  const place = (event) => {
    const box = picture.getBoundingClientRect();
    const size = 320 / box.width;
    return [(event.clientX - box.left) * size, (event.clientY - box.top) * size];
  };
  picture.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const [x, y] = place(event);
    const away = (side) => Math.hypot(...pixel(listed(state.sides[side].preference)).map((v, k) => v - [x, y][k]));
    const nearest = away("a") <= away("b") ? "a" : "b";
    dragged = away(nearest) < 26 ? nearest : state.active;
    picture.setPointerCapture(event.pointerId);
    event.preventDefault();
    handles.find(({ side }) => side === dragged).handle.focus({ focusVisible: false });
    move(dragged, named(weights(x, y)));
  });
  picture.addEventListener("pointermove", (event) => dragged && move(dragged, named(weights(...place(event)))));
  for (const end of ["pointerup", "pointercancel"]) picture.addEventListener(end, () => (dragged = null));

  const about = ["a", "b"].map((side) => summary(side));
  root.append(
    picture,
    element("p", { class: "unseen", id: "ternary-how" }, `Up and down: more and less ${names[0]}. Left and right: more ${names[1]} or more ${names[2]}. Shift: larger steps. Home: equal weights.`),
    ...about.map(({ head, scores }, k) => element("div", { class: `dial ${"ab"[k]}` }, head, scores)),
  );
  return () => {
    for (const { side, handle } of handles) {
      const preference = state.sides[side].preference;
      // At one preference B frames A, so that both are seen.
      const framing = side === "b" && same(preference, state.sides.a.preference) ? " scale(1.45)" : "";
      handle.setAttribute("transform", `translate(${pixel(listed(preference)).map((v) => v.toFixed(1)).join(" ")})${framing}`);
      handle.setAttribute("aria-valuenow", number(preference[names[0]]).replace("−", "-"));
      handle.setAttribute("aria-valuetext", preferenceText(preference));
    }
    for (const summaryOfSide of about) summaryOfSide.update();
  };
}
