// The front as a picture that is looked at closely. The report and the studio both draw with it.
//
// A front is
//   key                       what is looked at, zoomed and hidden stays as long as the key does
//   name                      the beginning of the names of files
//   objectives [M]            {name, meaning: what a point more means, places: decimals of its scores}
//   series                    {id, title, kind: CSS class with the colour --c, shape, open, joined, area, fixed, points}: a policy each; fixed
//                             ones cannot be hidden, joined ones have a line through their points, and an area is that of their mixtures
//   points                    {id, mean [M], low [M], high [M], head, facts, label, opacity, size, ring, shared, knee, beyond}: head and facts
//                             are what a point says, the label is its weight, and a point beyond is only looked at
//   base, mixture, reference  the base model as a point with a title; means [N, M]; a point's scores [M]; each may be missing
// A mark beside the front is {id, text, kind, shape, framing, mean, low, high, head, facts}.

import { legend, meanings, tools } from "./controls.js";
import { element, known } from "./elements.js";
import { csv, fileName, pngOf, save, svgText } from "./files.js";
import { figure } from "./figure.js";
import { range, visible, whole } from "./scene.js";

/** The width of a saved picture in pixels, however wide it is on the page. */
const PAPER = 900;
/** A step of zooming in, the closest that one can look, and the farthest, as shares of the whole range. */
const NEARER = 0.6, CLOSEST = 1e-3, FARTHEST = 4;
/** The share of the range that a step of the keys moves. */
const STEP = 0.2;

/** Return how one looks at M objectives: as before, where that fits, or as usual. */
function lookOf(M, { view, x, y, hidden = [] }) {
  const fits = Number.isInteger(x) && Number.isInteger(y) && x !== y && Math.min(x, y) >= 0 && Math.max(x, y) < M;
  const usual = M === 2 ? "pair" : M === 3 ? "all" : "axes";
  return { view: M > 2 && ["all", "pair", "axes"].includes(view) ? view : usual, x: fits ? x : 0, y: fits ? y : 1, hidden: [...hidden] };
}

export class FrontPlot {
  #root; #on; #front = null; #look = null; #zoom = null; #own = []; #chosen = () => false; #reached = null;
  #frames = []; #items = new WeakMap(); #width = 0; #drag = null; #says = null; #drawing = false; #controls = "";
  #tools = element("div", { class: "plot-tools" });
  #legend = element("div", { class: "plot-legend", role: "group", "aria-label": "What the picture shows" });
  #picture = element("svg:svg", { class: "plot live", role: "group" });
  #box = element("svg:rect", { class: "box" });
  #tip = element("div", { class: "tip", "aria-hidden": "true", hidden: true });
  #meanings = element("dl", { class: "meanings" });

  /**
   * Draw into an element. `on` has pick(series, point), called where a point is chosen; rows(), the table to save; changed(look), called
   * where one looks at it otherwise, {view, x, y, hidden}; and more, {text: act} of further things to save.
   */
  constructor(root, on) {
    this.#root = root;
    this.#on = { changed: () => {}, more: {}, ...on };
    this.#listen();
    new ResizeObserver(() => this.#front && Math.abs(root.clientWidth - this.#width) >= 1 && this.#draw()).observe(root);
  }

  /**
   * Draw a front and marks beside it; return how one looks at it. `look` is how one looked at a front of this key before; what it lacks is
   * as usual.
   */
  show(front, { marks = [], look = {} } = {}) {
    if (front.key !== this.#front?.key) {
      this.#look = lookOf(front.objectives.length, look);
      this.#zoom = this.#reached = null;
    }
    this.#front = front;
    this.#own = marks;
    if (this.#picture.parentNode !== this.#root) this.#root.replaceChildren(this.#tools, this.#picture, this.#tip, this.#legend, this.#meanings);
    this.#again();
    return { ...this.#look };
  }

  /** Take the picture away. */
  clear() {
    this.#front = null;
    this.#root.replaceChildren();
  }

  /** Show as chosen the points for which `chosen(series, point)` holds. */
  choose(chosen) {
    this.#chosen = chosen;
    if (this.#front) this.#draw();
  }

  // Drawing

  #scene(items = new WeakMap()) {
    const keys = this.#keys();
    if (!keys.includes(this.#reached)) this.#reached = keys[0] ?? null;
    return { front: this.#front, look: this.#look, zoom: this.#zoom, own: this.#own, on: this.#chosen, reached: this.#reached, items };
  }

  /** Return the keys of all points that can be chosen, in the order in which the arrow keys reach them. */
  #keys() {
    return visible(this.#front, this.#look).flatMap((one) => one.points.filter(({ beyond }) => !beyond).map((point) => `${one.id} ${point.id}`));
  }

  /** Draw all of it: the picture, what can be done with it, the legend and the meanings. Focus stays where it is. */
  #again() {
    const { key, objectives, series, base, mixture } = this.#front;
    const entries = series.map(({ id, title, kind, points }) => [id, title, kind, points.some(({ knee }) => knee)]);
    const controls = JSON.stringify([key, this.#look, objectives, entries, Boolean(base), Boolean(mixture)]);
    if (controls === this.#controls) return this.#draw();
    this.#controls = controls;
    const focused = document.activeElement?.id;
    const within = this.#tools.contains(document.activeElement) || this.#legend.contains(document.activeElement);
    this.#tools.replaceChildren(...tools(this.#front, this.#look, {
      look: (values) => this.#lookAt(values), zoom: (steps) => this.#zoomBy(steps), save: (kind) => this.#save(kind), more: this.#on.more,
    }));
    this.#legend.replaceChildren(...legend(this.#front, this.#look, (id) => {
      const { hidden } = this.#look;
      this.#lookAt({ hidden: hidden.includes(id) ? hidden.filter((one) => one !== id) : [...hidden, id] });
    }));
    const { view, x, y } = this.#look;
    this.#meanings.replaceChildren(...meanings(objectives.filter((_, m) => view !== "pair" || ![x, y].includes(m))));
    if (within) document.getElementById(focused)?.focus();
    return this.#draw();
  }

  #draw() {
    const width = (this.#width = Math.max(240, this.#root.clientWidth));
    this.#items = new WeakMap();
    const { height, children, frames } = figure(this.#scene(this.#items), width);
    this.#frames = frames;
    const focused = this.#picture.contains(document.activeElement) ? document.activeElement : null;
    const [key, place] = [focused?.dataset.key, focused?.closest(".pairing")?.getAttribute("aria-label")];
    const saying = this.#says?.dataset.key;
    this.#picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#picture.setAttribute("aria-label", this.#name());
    this.#picture.replaceChildren(...children, ...(this.#box.isConnected ? [this.#box] : []));
    this.#picture.classList.toggle("zoomed", this.#zoom !== null);
    this.#hush();
    this.#drawing = true;
    if (key) this.#drawn(key, place)?.focus({ preventScroll: true });
    this.#drawing = false;
    if (saying && !this.#says && this.#drawn(saying)) this.#say(this.#drawn(saying));
  }

  /** Return the element of a point, in the plot of a name where it is there. */
  #drawn(key, place) {
    const all = [...this.#picture.querySelectorAll(".pt")].filter((one) => one.dataset.key === key);
    return all.find((one) => one.closest(".pairing")?.getAttribute("aria-label") === place) ?? all[0];
  }

  #name() {
    const { view } = this.#look;
    const what = view === "axes" ? "Every measured point as a line over all objectives" : "The measured front";
    const zoom = view === "axes" ? "" : ", plus and minus zoom, shift and arrow keys move the view, 0 shows the whole front";
    return `${what}; arrow keys go from point to point${zoom}`;
  }

  #lookAt(values) {
    Object.assign(this.#look, values);
    this.#again();
    this.#on.changed({ ...this.#look });
  }

  // What a point says

  #say(made) {
    const { point } = this.#items.get(made);
    if (this.#says === made) return;
    this.#says = made;
    this.#tip.replaceChildren(element("b", {}, point.head), ...(point.facts ?? []).map((line) => element("span", {}, line)));
    this.#tip.hidden = false;
    const area = this.#root.getBoundingClientRect();
    const of = (made.querySelector(".mark, .cross, .frame") ?? made).getBoundingClientRect();
    const left = Math.max(0, Math.min(of.right - area.left + 10, area.width - this.#tip.offsetWidth));
    const above = of.top - area.top - this.#tip.offsetHeight - 10;
    this.#tip.style.left = `${left}px`;
    this.#tip.style.top = `${above < 0 ? of.bottom - area.top + 10 : above}px`;
  }

  #hush() {
    this.#says = null;
    this.#tip.hidden = true;
  }

  #pick(made) {
    const { series, point } = this.#items.get(made) ?? {};
    if (!series || point.beyond) return;
    this.#reached = `${series.id} ${point.id}`;
    this.#on.pick(series, point);
  }

  // Zooming

  /** Look at ranges [low, high] by number of objective; nothing closer than the closest nor farther than the farthest. */
  #zoomTo(ranges) {
    const scene = this.#scene();
    this.#zoom = this.#front.objectives.map((_, m) => {
      const [low, high] = ranges[m] ?? range(scene, m);
      const [first, last] = whole(this.#front, m);
      const size = Math.min(FARTHEST * (last - first), Math.max(CLOSEST * (last - first), high - low));
      const middle = Math.min(last, Math.max(first, (low + high) / 2));
      return [middle - size / 2, middle + size / 2];
    });
    this.#hush();
    this.#draw();
  }

  /** Zoom in by steps about the chosen point that is seen, or the middle, or out where they are negative; 0 shows the whole front again. */
  #zoomBy(steps) {
    if (!steps) {
      this.#zoom = null;
      this.#hush();
      return this.#draw();
    }
    const scene = this.#scene();
    const factor = NEARER ** steps;
    const ranges = this.#front.objectives.map((_, m) => range(scene, m));
    const seen = ({ mean }) => ranges.every(([low, high], m) => mean[m] >= low && mean[m] <= high);
    const chosen = this.#front.series.flatMap((series) => series.points.filter((point) => this.#chosen(series, point))).filter(seen).at(-1);
    return this.#zoomTo(ranges.map(([low, high], m) => {
      const middle = chosen && steps > 0 ? chosen.mean[m] : (low + high) / 2;
      return [middle - ((high - low) / 2) * factor, middle + ((high - low) / 2) * factor];
    }));
  }

  /** Move the view by shares of what is seen, to the right and up, in a plot or in all. */
  #move(across, up, frame) {
    const scene = this.#scene();
    const by = {};
    for (const { x, y } of frame ? [frame] : this.#frames.slice(0, 1)) Object.assign(by, { [x]: across, [y]: up });
    this.#zoomTo(Object.fromEntries(Object.entries(by).map(([m, share]) => {
      const [low, high] = range(scene, Number(m));
      return [m, [low + share * (high - low), high + share * (high - low)]];
    })));
  }

  #pixel(event) {
    const area = this.#picture.getBoundingClientRect();
    const scale = this.#width / area.width;
    return [(event.clientX - area.left) * scale, (event.clientY - area.top) * scale];
  }

  #frameAt([x, y]) {
    return this.#frames.find(({ left, right, top, bottom }) => x >= left && x <= right && y >= top && y <= bottom);
  }

  // What the pointer and the keys do: a drag of the mouse draws the box to look at, with Shift or a finger it moves a view that is zoomed.

  #listen() {
    const picture = this.#picture;
    const shows = (event) => event.target.closest?.(".pt, .seen");
    picture.addEventListener("click", (event) => {
      const made = shows(event);
      if (!made) return this.#hush();
      this.#say(made);
      return this.#pick(made.classList.contains("own") ? this.#under(made) ?? made : made);
    });
    picture.addEventListener("dblclick", (event) => !shows(event) && this.#zoomBy(0));
    picture.addEventListener("pointerleave", () => !this.#reading() && this.#hush());
    picture.addEventListener("pointermove", (event) => {
      if (this.#drag) return this.#dragged(event);
      const made = shows(event);
      return made ? this.#say(made) : this.#says && !this.#reading() && this.#hush();
    });
    picture.addEventListener("pointerdown", (event) => {
      const at = this.#pixel(event);
      const frame = this.#frameAt(at);
      const moves = event.pointerType !== "mouse" || event.shiftKey;
      if (event.button || !frame || shows(event) || (moves && !this.#zoom)) return;
      this.#drag = { at, frame, moves, zoom: this.#zoom };
      picture.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    picture.addEventListener("pointerup", () => this.#drag && this.#dropped(false));
    picture.addEventListener("pointercancel", () => this.#drag && this.#dropped(true));
    // An SVG element that listens for focus would be reached by Tab itself.
    this.#root.addEventListener("focusin", (event) => {
      if (!shows(event)) return;
      if (!this.#drawing) this.#reveal(shows(event));
      if (this.#reading()) this.#say(this.#focused());
    });
    this.#root.addEventListener("focusout", () => this.#hush());
    picture.addEventListener("keydown", (event) => this.#key(event));
  }

  #focused() {
    return this.#picture.contains(document.activeElement) && this.#items.has(document.activeElement) ? document.activeElement : null;
  }

  /** Return whether what is said is that of a point that keys have reached. */
  #reading() {
    return Boolean(this.#focused()?.matches(":focus-visible"));
  }

  /** Return the point that a mark beside the front lies on. */
  #under(own) {
    const middle = (made) => {
      const { left, top, width, height } = (made.querySelector(".mark, .frame") ?? made).getBoundingClientRect();
      return [left + width / 2, top + height / 2];
    };
    const [x, y] = middle(own);
    const away = (made) => { const [u, v] = middle(made); return Math.hypot(u - x, v - y); };
    const near = [...own.parentNode.querySelectorAll(".pt")].filter((made) => away(made) < 14);
    return near.sort((p, q) => away(p) - away(q))[0];
  }

  #dragged(event) {
    const { at: [x0, y0], frame, moves } = this.#drag;
    const [x, y] = this.#pixel(event);
    if (moves) {
      this.#zoom = this.#drag.zoom;
      return this.#move((x0 - x) / (frame.right - frame.left), (y - y0) / (frame.bottom - frame.top), frame);
    }
    const to = [Math.min(frame.right, Math.max(frame.left, x)), Math.min(frame.bottom, Math.max(frame.top, y))];
    this.#drag.to = to;
    const sides = { x: Math.min(x0, to[0]), y: Math.min(y0, to[1]), width: Math.abs(x0 - to[0]), height: Math.abs(y0 - to[1]) };
    for (const [name, value] of Object.entries(sides)) this.#box.setAttribute(name, value);
    if (!this.#box.isConnected) this.#picture.append(this.#box);
    return null;
  }

  #dropped(cancelled) {
    const { at, to, frame, moves } = this.#drag;
    this.#drag = null;
    this.#box.remove();
    if (moves || cancelled || !to || Math.abs(at[0] - to[0]) < 8 || Math.abs(at[1] - to[1]) < 8) return;
    const between = (a, b, first, last, [low, high]) => [a, b].map((pixel) => low + ((pixel - first) / (last - first)) * (high - low)).sort((p, q) => p - q);
    this.#zoomTo({
      [frame.x]: between(at[0], to[0], frame.left, frame.right, frame.spans[0]),
      [frame.y]: between(at[1], to[1], frame.bottom, frame.top, frame.spans[1]),
    });
  }

  /** Move the view to a point that is reached and lies outside. */
  #reveal(made) {
    const { point } = this.#items.get(made);
    if (!this.#zoom || this.#zoom.every(([low, high], m) => point.mean[m] >= low && point.mean[m] <= high)) return;
    const around = (value, size) => [value - size / 2, value + size / 2];
    this.#zoomTo(this.#zoom.map(([low, high], m) => (known(point.mean[m]) ? around(point.mean[m], high - low) : [low, high])));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const made = this.#focused();
    const arrows = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const scatter = this.#look.view !== "axes";
    const act = {
      Enter: () => made && this.#pick(made), " ": () => made && this.#pick(made), Escape: () => this.#hush(),
      ...(scatter ? { "+": () => this.#zoomBy(1), "=": () => this.#zoomBy(1), "-": () => this.#zoomBy(-1), 0: () => this.#zoomBy(0) } : {}),
      Home: () => this.#go(made, "first"), End: () => this.#go(made, "last"),
    }[event.key] ?? (arrows[event.key] && (() => {
      const [across, up] = arrows[event.key];
      if (event.shiftKey && scatter) this.#move(STEP * across, STEP * up, this.#frames.find(({ node }) => node.contains(made)));
      else this.#go(made, across - up > 0 ? 1 : -1);
    }));
    if (!act) return;
    if (event.key !== "Escape") { event.preventDefault(); event.stopPropagation(); }
    act();
  }

  /** Let Tab reach, and focus, the first or the last point or one that is steps away, in the plot of the focused one. */
  #go(made, to) {
    if (!made) return;
    const keys = this.#keys();
    const all = [...made.parentNode.querySelectorAll(".pt")].sort((p, q) => keys.indexOf(p.dataset.key) - keys.indexOf(q.dataset.key));
    const place = to === "first" ? 0 : to === "last" ? all.length - 1 : (all.indexOf(made) + to + all.length) % all.length;
    this.#reached = all[place].dataset.key;
    for (const one of this.#picture.querySelectorAll(".pt")) one.setAttribute("tabindex", one.dataset.key === this.#reached ? 0 : -1);
    all[place].focus();
  }

  // Saving

  async #save(kind) {
    const name = (end) => `${fileName("front", this.#front.name)}.${end}`;
    if (kind === "csv") return save(name(kind), csv(this.#on.rows()), "text/csv");
    const text = this.#paper();
    return save(name(kind), kind === "svg" ? text : await pngOf(text), "image/svg+xml");
  }

  /** Return the picture as an SVG document of a size for paper, zoomed as it is on the page. */
  #paper() {
    const { height, children } = figure(this.#scene(), PAPER);
    const picture = element("svg:svg", { class: "plot", viewBox: `0 0 ${PAPER} ${height}`, width: PAPER, height }, ...children);
    const room = element("div", { class: "plot-paper" }, picture);
    this.#root.append(room);
    const text = svgText(picture, getComputedStyle(document.body).backgroundColor);
    room.remove();
    return text;
  }
}
