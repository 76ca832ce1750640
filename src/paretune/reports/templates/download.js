// The front as SVG or PNG, its points as CSV, and the record as JSON; made here, sent nowhere.
const record = () => JSON.parse(by("record").textContent);

const save = (name, content, kind) => {
  const link = make("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

const STYLES = [
  "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity", "display",
  "font-family", "font-size", "font-weight", "paint-order", "font-variant-numeric",
];
const inlined = (svg) => {
  const copy = svg.cloneNode(true);
  const [from, to] = [[svg, ...svg.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
  from.forEach((element, n) => {
    const style = getComputedStyle(element);
    to[n].setAttribute("style", STYLES.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
    for (const name of ["class", "tabindex", "role", "aria-label", "aria-pressed"]) to[n].removeAttribute(name);
  });
  return copy;
};

// All plots of the front that are seen, where they stand, as one picture.
const picture = () => {
  const figure = document.querySelector("#front .figure");
  const plots = [...figure.querySelectorAll("svg.plot")].filter((svg) => svg.checkVisibility());
  const boxes = plots.map((svg) => svg.getBoundingClientRect());
  const [left, top] = [Math.min(...boxes.map((box) => box.left)), Math.min(...boxes.map((box) => box.top))];
  const width = Math.ceil(Math.max(...boxes.map((box) => box.right)) - left) + 24;
  const height = Math.ceil(Math.max(...boxes.map((box) => box.bottom)) - top) + 24;
  const outer = document.createElementNS(plots[0].namespaceURI, "svg");
  outer.setAttribute("viewBox", `-12 -12 ${width} ${height}`);
  outer.setAttribute("width", width);
  outer.setAttribute("height", height);
  const back = document.createElementNS(plots[0].namespaceURI, "rect");
  for (const [name, value] of Object.entries({ x: -12, y: -12, width, height, fill: getComputedStyle(document.body).backgroundColor }))
    back.setAttribute(name, value);
  outer.append(back);
  plots.forEach((svg, n) => {
    const copy = inlined(svg);
    copy.setAttribute("x", boxes[n].left - left);
    copy.setAttribute("y", boxes[n].top - top);
    copy.setAttribute("width", boxes[n].width);
    copy.setAttribute("height", boxes[n].height);
    outer.append(copy);
  });
  return { text: new XMLSerializer().serializeToString(outer), width, height };
};

const toPng = ({ text, width, height }) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => {
    const canvas = make("canvas");
    [canvas.width, canvas.height] = [width * 3, height * 3];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture was made"))), "image/png");
  };
  image.onerror = () => reject(new Error("the picture cannot be drawn"));
  image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
});

const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(typeof value === "number" ? Number(value.toPrecision(10)) : value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csv = () => {
  const { objectives, policies, base } = record();
  const of = (name, bound) => `${name}${bound === "mean" ? "" : ` ${bound}`}`;
  const bounds = ["mean", "low", "high"];
  const head = [
    "policy", ...objectives.map((name) => `weight on ${name}`), ...objectives.flatMap((name) => bounds.map((bound) => of(name, bound))),
    "words", "log ratio", "chance to be on the front", "collapsed",
  ];
  const row = (name, point, known) => [
    name, ...objectives.map((objective) => (known ? point.preference[objective] : null)),
    ...objectives.flatMap((_, m) => bounds.map((bound) => point[bound][m])),
    point.words, point.log_ratio.value, point.on_front, point.collapse_rate,
  ];
  const rows = [row("base", base, false), ...policies.flatMap((policy) => policy.points.map((point) => row(policy.name, point, true)))];
  return [head, ...rows].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
};

const makers = {
  svg: () => save(`${run.name}-front.svg`, picture().text, "image/svg+xml"),
  png: async () => save(`${run.name}-front.png`, await toPng(picture())),
  csv: () => save(`${run.name}-front.csv`, csv(), "text/csv"),
  json: () => save("front.json", JSON.stringify(record(), null, 1), "application/json"),
};
for (const one of document.querySelectorAll("[data-save]")) one.addEventListener("click", () => makers[one.dataset.save]());
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
