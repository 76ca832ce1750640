// Zooming into a plot of two objectives: by buttons, or by drawing a box with the mouse. Marks and letters keep their size.
const zooms = [...document.querySelectorAll("#front svg.zooms")].map((svg) => {
  const inner = svg.querySelector("svg.inner");
  const [left, top, width, height] = inner.getAttribute("viewBox").split(" ").map(Number);
  const spans = svg.dataset.spans.split(" ").map(Number);
  const axes = svg.querySelector("g.axes");
  return { svg, inner, axes, whole: { left, top, width, height }, view: { left, top, width, height }, spans, drawn: axes.innerHTML };
});

// About count round numbers from low to high.
const roundNumbers = (low, high, count) => {
  const size = 10 ** Math.floor(Math.log10((high - low) / count));
  let best = [];
  for (const factor of [10, 5, 2.5, 2, 1, 0.5]) {
    const apart = size * factor;
    const marks = [];
    for (let n = Math.ceil(low / apart - 1e-9); n * apart <= high + 1e-9 * apart; n += 1) marks.push(Number((n * apart).toPrecision(12)));
    if (best.length < 3 || (marks.length >= 3 && Math.abs(marks.length - count) < Math.abs(best.length - count))) best = marks;
  }
  return best;
};
const digitsOf = (marks) => Math.max(...marks.map((mark) => (String(Number(mark.toPrecision(6))).split(".")[1] ?? "").length));

const drawAxes = (zoom) => {
  const { axes, whole, view, spans: [x0, x1, y0, y1] } = zoom;
  axes.innerHTML = zoom.drawn;
  if (view.width > whole.width * 0.999) return;
  for (const old of axes.querySelectorAll(".grid, .tick")) old.remove();
  const made = (name, kind, given) => {
    const element = document.createElementNS(axes.namespaceURI, name);
    element.setAttribute("class", kind);
    for (const [key, value] of Object.entries(given)) element.setAttribute(key, value);
    axes.prepend(element);
    return element;
  };
  const across = (share) => x0 + (share - whole.left) / whole.width * (x1 - x0);
  const up = (share) => y1 - (share - whole.top) / whole.height * (y1 - y0);
  const [low, high] = [across(view.left), across(view.left + view.width)];
  const columns = roundNumbers(low, high, Math.max(3, Math.floor(whole.width / 110)));
  for (const mark of columns) {
    const x = whole.left + (mark - low) / (high - low) * whole.width;
    made("path", "grid", { d: `M${x} ${whole.top}V${whole.top + whole.height}` });
    made("text", "tick", { x, y: whole.top + whole.height + 16, "text-anchor": "middle" }).textContent = inDigits(mark, digitsOf(columns));
  }
  const [bottom, top] = [up(view.top + view.height), up(view.top)];
  const rows = roundNumbers(bottom, top, Math.max(3, Math.floor(whole.height / 75)));
  for (const mark of rows) {
    const y = whole.top + (top - mark) / (top - bottom) * whole.height;
    made("path", "grid", { d: `M${whole.left} ${y}H${whole.left + whole.width}` });
    made("text", "tick", { x: whole.left - 7, y: y + 4, "text-anchor": "end" }).textContent = inDigits(mark, digitsOf(rows));
  }
};

const look = (zoom, view) => {
  const { whole, inner } = zoom;
  const width = Math.min(whole.width, Math.max(view.width, whole.width / 64));
  const height = width / whole.width * whole.height;
  zoom.view = {
    width,
    height,
    left: Math.min(Math.max(view.left, whole.left), whole.left + whole.width - width),
    top: Math.min(Math.max(view.top, whole.top), whole.top + whole.height - height),
  };
  inner.setAttribute("viewBox", `${zoom.view.left} ${zoom.view.top} ${width} ${height}`);
  const near = width / whole.width;
  inner.classList.toggle("near", near < 0.999);
  for (const group of inner.querySelectorAll(".kept")) {
    const [x, y] = group.dataset.at.split(" ");
    if (near < 0.999) group.setAttribute("transform", `translate(${x} ${y}) scale(${near}) translate(${-x} ${-y})`);
    else group.removeAttribute("transform");
  }
  drawAxes(zoom);
};

// Around the chosen point that is in view, or the middle.
const zoomBy = (factor) => {
  for (const zoom of zooms) {
    if (!factor) {
      look(zoom, zoom.whole);
      continue;
    }
    const { view } = zoom;
    let middle = [view.left + view.width / 2, view.top + view.height / 2];
    const on = zoom.inner.querySelector(".pt.on .kept");
    if (on && factor > 1) middle = on.dataset.at.split(" ").map(Number);
    const [width, height] = [view.width / factor, view.height / factor];
    look(zoom, { left: middle[0] - width / 2, top: middle[1] - height / 2, width });
  }
};
for (const one of document.querySelectorAll("[data-zoom]")) {
  one.addEventListener("click", () => zoomBy(Number(one.dataset.zoom)));
  if (!zooms.length) one.closest("[role=group]").hidden = true;
}

for (const zoom of zooms) {
  const { svg } = zoom;
  let from = null;
  let box = null;
  const at = (event) => {
    const pixel = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const { whole } = zoom;
    return [
      Math.min(Math.max(pixel.x, whole.left), whole.left + whole.width),
      Math.min(Math.max(pixel.y, whole.top), whole.top + whole.height),
    ];
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button || event.target.closest(".pt")) return;
    from = at(event);
    box = document.createElementNS(svg.namespaceURI, "rect");
    box.setAttribute("class", "box");
    svg.append(box);
    svg.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = at(event);
    const sides = { x: Math.min(from[0], to[0]), y: Math.min(from[1], to[1]), width: Math.abs(from[0] - to[0]), height: Math.abs(from[1] - to[1]) };
    for (const [name, value] of Object.entries(sides)) box.setAttribute(name, value);
  });
  const end = (event) => {
    if (!from) return;
    const [start, to] = [from, at(event)];
    box.remove();
    from = null;
    if (event.type === "pointercancel" || Math.abs(start[0] - to[0]) < 8 || Math.abs(start[1] - to[1]) < 8) return;
    const { whole, view } = zoom;
    const share = Math.max(Math.abs(start[0] - to[0]) / whole.width, Math.abs(start[1] - to[1]) / whole.height);
    const centre = [(start[0] + to[0]) / 2 - whole.left, (start[1] + to[1]) / 2 - whole.top];
    const [width, height] = [view.width * share, view.height * share];
    look(zoom, {
      left: view.left + centre[0] / whole.width * view.width - width / 2,
      top: view.top + centre[1] / whole.height * view.height - height / 2,
      width,
    });
  };
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", end);
  svg.addEventListener("dblclick", () => look(zoom, zoom.whole));
}
