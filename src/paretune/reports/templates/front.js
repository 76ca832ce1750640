// The front: the plot, the answers of points that are chosen in it, and the pictures of preferences that follow it.
const record = () => JSON.parse(by("record").textContent);
const dots = [...document.querySelectorAll("#steering .pt[data-k]")];
const picked = by("picked");

// The last two points that were chosen stand side by side; one that is chosen again is put away.
const pick = (i, k) => {
  const before = chosen.points.length;
  chosen.points = chosen.points.filter((point) => point.i !== i || point.k !== k);
  if (chosen.points.length === before) chosen.points = [...chosen.points.slice(-1), { i, k }];
  chosen.k = k;
  changed();
};

for (const dot of dots) {
  dot.setAttribute("role", "button");
  const act = () => pick(Number(dot.dataset.i), Number(dot.dataset.k));
  dot.addEventListener("click", act);
  dot.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act();
  });
}

const rows = () => {
  const { objectives, policies, base } = record();
  const bounds = ["mean", "low", "high"];
  const digits = (value) => (typeof value === "number" ? Number(value.toPrecision(10)) : value);
  const head = [
    "policy", ...objectives.map((name) => `weight on ${name}`), ...objectives.flatMap((name) => [name, `${name} low`, `${name} high`]),
    "words", "log ratio", "chance to be on the front", "collapsed",
  ];
  const row = (name, point, known) => [
    name, ...objectives.map((objective) => (known ? point.preference[objective] : null)),
    ...objectives.flatMap((_, m) => bounds.map((bound) => point[bound][m])),
    point.words, point.log_ratio.value, point.on_front, point.collapse_rate,
  ].map(digits);
  return [head, row("base", base, false), ...policies.flatMap((policy) => policy.points.map((point) => row(policy.name, point, true)))];
};

const { front } = run;
// What each point says: its preference, and its figures in words.
const lines = (point) => facts(point).filter(([, value]) => value !== "-").map(([name, value]) => `${name} ${value}`);
const means = ({ mean }) => front.objectives.map(({ name, places }, m) => `${name} ${number(mean[m], places)}`);
const told = (point, i) => (point.beyond ? { ...point, facts: means(point) } : { ...point, head: `${run.policies[i].title}, ${run.preferences[point.id].text}`, facts: lines(run.policies[i].points[point.id]) });

const plot = new FrontPlot(by("plot"), {
  pick: (series, point) => pick(run.policies.findIndex(({ name }) => name === series.id), point.id),
  rows,
  // What the legend puts out, it puts out of the pictures of preferences too.
  changed: ({ hidden }) => run.policies.forEach(({ name }, i) => {
    for (const part of document.querySelectorAll(`#steering .of${i}`)) part.classList.toggle("gone", hidden.includes(name));
  }),
  more: { JSON: () => save("front.json", JSON.stringify(record(), null, 1), "application/json") },
});
by("plot").hidden = false;
by("front").classList.add("live-front");
plot.show({
  ...front,
  series: front.series.map((series, i) => ({ ...series, points: series.points.map((point) => told(point, i)) })),
  base: front.base && { ...front.base, head: front.base.title, facts: lines(run.base) },
});

const exportOf = ({ i, k }) => {
  const weights = run.preferences[k].weights.map((weight, m) => `${run.objectives[m]}=${Number(weight.toPrecision(6))}`);
  return `paretune export . exported --policy ${run.policies[i].name} -p ${weights.join(",")}`;
};

const pickedCard = (one, p) => {
  const point = run.policies[one.i].points[one.k];
  const box = make("article", `card pol${one.i % 8}`);
  const head = make("div", "head");
  head.append(badgeOf(one.i), button("×", `put ${run.policies[one.i].title} away`, () => pick(one.i, one.k)));
  box.append(head, make("div", "plain", run.preferences[one.k].text), answerBox(point, p), figuresOf(point, p));
  if (run.trained) {
    const line = make("div", "lines");
    line.append(make("code", "command", exportOf(one)));
    box.append(line);
  }
  return box;
};

const stepper = () => {
  const row = make("div", "stepper");
  const count = chosen.order.length;
  row.append(
    button("←", "previous prompt", () => step(-1)),
    make("span", "", count ? `prompt ${chosen.place + 1} of ${count}` : "no prompt matches"),
    button("→", "next prompt", () => step(1)),
  );
  return row;
};

if (picked) {
  picked.hidden = false;
  watchers.push(() => {
    const p = promptNow();
    const focused = picked.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    const hint = make("p", "lead", "Select a point to read its answers here, and a second one to compare them.");
    const parts = [stepper()];
    if (p !== undefined) {
      const cards = make("div", "pair");
      cards.append(...chosen.points.map((one) => pickedCard(one, p)));
      const asked = make("blockquote", "", run.prompts[p]);
      asked.tabIndex = 0;
      parts.push(asked, chosen.points.length ? cards : hint);
    }
    picked.replaceChildren(...parts);
    addCopies(picked);
    if (focused) picked.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  });
}
watchers.push(() => {
  for (const dot of dots) {
    const on = chosen.points.some(({ i, k }) => Number(dot.dataset.i) === i && Number(dot.dataset.k) === k);
    dot.classList.toggle("on", on);
    dot.setAttribute("aria-pressed", on);
  }
  plot.choose((series, point) => chosen.points.some(({ i, k }) => run.policies[i].name === series.id && k === point.id));
});
