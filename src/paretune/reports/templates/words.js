// What all parts of the page share: the data, elements, numbers in words, and what is chosen.
const run = JSON.parse(document.getElementById("run-data").textContent);
const by = (id) => document.getElementById(id);

const make = (tag, kind, text) => {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
};

const button = (text, label, act) => {
  const made = make("button", "", text);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
};

const attributes = [...run.objectives, "words"];
const ownOf = (point, p) => point.own[p].map((value, m) => number(value, run.digits[m] ?? 0));
const textOf = (point, p) => run.texts[point.answers[p]];
const scored = run.base.own.length > 0 && run.base.own[0][0] !== null;

const facts = (point) => [
  ...run.objectives.map((objective, m) => [objective, point.scores[m]]),
  ["words", point.words],
  [run.distance, point.distance],
  ["on the front", point.front],
];

// Chosen: a preference, the prompts in their order, one of them, and up to two points.
const chosen = { k: 0, order: run.prompts.map((_, p) => p), place: 0, points: [] };
const promptNow = () => chosen.order[chosen.place];
const watchers = [];
const changed = () => { for (const watcher of watchers) watcher(); };
const step = (by) => {
  const count = chosen.order.length;
  if (count) chosen.place = (chosen.place + by + count) % count;
  changed();
};

const badges = [...document.querySelectorAll("#front .legend .badge")];
const badgeOf = (i) => badges[i].cloneNode(true);

// What an answer scores by itself, and beside it what its point scores on average.
const figuresOf = (point, p) => {
  const list = make("dl", "figures");
  const own = ownOf(point, p);
  facts(point).forEach(([name, value], n) => {
    const line = make("div");
    const told = make("dd", "", own[n] ?? "");
    told.append(make("span", "plain", `${own[n] === undefined ? "" : "mean "}${value}`));
    line.append(make("dt", "", name), told);
    list.append(line);
  });
  return list;
};

const answerBox = (point, p) => {
  const text = textOf(point, p);
  const box = text ? make("div", "text", text) : make("i", "", "(empty)");
  if (text) box.tabIndex = 0;
  return box;
};
