// What can be done with a picture of a front: how it is drawn, zooming and saving; the legend, by which parts are put out and in again.

import { element } from "./elements.js";
import { marker, polyline } from "./shapes.js";

const VIEWS = { all: "all pairs", pair: "one pair", axes: "parallel axes" };

const tool = (id, text, label, click) => element("button", { type: "button", id, class: "tool", "aria-label": label, title: label, click }, text);
const group = (label, ...tools) => element("span", { class: "group", role: "group", "aria-label": label }, ...tools);

/**
 * Return the tools of a front and a look; `act` has look(values), zoom(steps in, or 0 for the whole), save("svg", "png" or "csv"), and more, {text: act}.
 */
export function tools(front, look, act) {
  const save = Object.entries({ SVG: () => act.save("svg"), PNG: () => act.save("png"), CSV: () => act.save("csv"), ...act.more });
  const zoom = look.view === "axes" ? [] : [group("Zoom",
    tool("zoom-in", "+", "Zoom in", () => act.zoom(1)),
    tool("zoom-out", "−", "Zoom out", () => act.zoom(-1)),
    tool("zoom-reset", "Reset", "Show the whole front again", () => act.zoom(0)))];
  return [
    ...(front.objectives.length > 2 ? views(front, look, act) : []), ...zoom,
    group("Save the front as", ...save.map(([kind, click]) => tool(`save-${kind.toLowerCase()}`, kind, `Save the front as ${kind}`, click))),
  ];
}

/** Return the choice between all pairs, one pair and parallel axes, and with one pair that of its objectives. */
function views({ objectives }, { view, x, y }, act) {
  const axis = (name, label, value, other) => element("label", {}, label,
    element("select", {
      id: `axis-${name}`,
      change: ({ target }) => act.look(Number(target.value) === other ? { x: y, y: x } : { [name]: Number(target.value) }),
    }, ...objectives.map((one, m) => element("option", { value: String(m), selected: m === value }, one.name))));
  return [
    element("fieldset", { class: "segments", "aria-label": "How the front is drawn" },
      ...Object.entries(VIEWS).map(([name, text]) => element("label", {},
        element("input", { type: "radio", name: "view", id: `view-${name}`, value: name, checked: name === view, change: () => act.look({ view: name }) }),
        element("span", {}, text)))),
    ...(view === "pair" ? [group("Objectives", axis("x", "across", x, y), axis("y", "up", y, x))] : []),
  ];
}

/** Return the entries of the legend; `toggle(id)` puts a series, or a part whose id begins with a colon, out or in again. */
export function legend(front, look, toggle) {
  const { series, base, mixture, mixtureTitle } = front;
  const icon = (kind, drawn) => element("svg:svg", { class: `key ${kind}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, drawn);
  const entry = (id, picture, text, fixed) => (fixed
    ? element("span", { class: "entry" }, picture, text)
    : element("button", {
      type: "button", class: "entry", id: `legend-${id}`, "data-shows": id, "aria-pressed": String(!look.hidden.includes(id)), title: "Show or hide",
      click: () => toggle(id),
    }, picture, text));
  const points = series.flatMap((one) => one.points);
  const scatter = look.view !== "axes";
  const part = (drawn, id, picture, text, fixed) => (drawn ? [entry(id, picture, text, fixed)] : []);
  return [
    ...series.map((one) => entry(one.id, icon(one.kind, marker(one.shape, [8, 8], 5, one.open ? "mark open" : "mark")), one.title, one.fixed)),
    ...part(base, ":base", icon("base", marker("cross", [8, 8], 6)), base?.title),
    ...part(scatter && mixture?.length, ":mixture", icon("", polyline([[0, 8], [16, 8]], "mixture")), mixtureTitle),
    ...part(scatter && points.some(({ low }) => low), ":bars", icon("", element("svg:path", { class: "bar", d: "M1 8H15M8 1V15" })), "95 % interval"),
    ...part(scatter && series.some((one) => one.area && one.points.length > 2), ":hull",
      icon("", element("svg:rect", { class: "hull", x: 1, y: 3, width: 14, height: 10 })), "mixtures of a policy's points"),
    ...part(scatter && points.some(({ knee }) => knee), ":knee", icon("", element("svg:circle", { class: "knee", cx: 8, cy: 8, r: 6 })), "knee"),
    ...part(points.some(({ opacity }) => opacity < 0.9), ":faint",
      icon("faint", marker("circle", [8, 8], 5)), "the fainter, the less likely on the front", true),
  ];
}

/** Return terms and descriptions of what a point more on objectives means, where that is said. */
export function meanings(objectives) {
  return objectives.filter(({ meaning }) => meaning).map(({ name, meaning }) => element("div", {}, element("dt", {}, name), element("dd", {}, meaning)));
}
