// The front: hover, choosing points, and the legend that hides.
const tip = by("tip");
const dots = [...document.querySelectorAll(".pt[data-k]")];
const picked = by("picked");

const pointOf = (dot) => run.policies[dot.dataset.i].points[dot.dataset.k];
const isDot = (dot, { i, k }) => Number(dot.dataset.i) === i && Number(dot.dataset.k) === k;

const showTip = (dot) => {
  const frame = dot.closest(".figure");
  if (!frame) return;
  tip.replaceChildren(make("b", "", `${run.policies[dot.dataset.i].title}, ${run.preferences[dot.dataset.k].text}`));
  for (const [name, value] of facts(pointOf(dot))) tip.append(make("div", "", `${name} ${value}`));
  tip.hidden = false;
  const outer = frame.getBoundingClientRect();
  const at = (dot.querySelector(".mark") || dot).getBoundingClientRect();
  const left = Math.min(Math.max(at.left - outer.left + 18, 0), outer.width - tip.offsetWidth);
  const above = at.top - outer.top - tip.offsetHeight - 12;
  tip.style.left = `${left}px`;
  tip.style.top = `${above < 0 ? at.bottom - outer.top + 12 : above}px`;
};
const hideTip = () => { tip.hidden = true; };

// The last two points that were chosen stand side by side; one that is chosen again is put away.
const pick = (i, k) => {
  const before = chosen.points.length;
  chosen.points = chosen.points.filter((point) => point.i !== i || point.k !== k);
  if (chosen.points.length === before) chosen.points = [...chosen.points.slice(-1), { i, k }];
  chosen.k = k;
  changed();
};

for (const dot of dots) {
  // The browser's own tooltip would cover ours; it stays for pages without scripts.
  dot.querySelector("title")?.remove();
  dot.setAttribute("role", "button");
  dot.addEventListener("pointerenter", () => showTip(dot));
  dot.addEventListener("pointerleave", hideTip);
  dot.addEventListener("focus", () => showTip(dot));
  dot.addEventListener("blur", hideTip);
  const act = () => pick(Number(dot.dataset.i), Number(dot.dataset.k));
  dot.addEventListener("click", act);
  dot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act();
  });
}

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
    const on = chosen.points.some((point) => isDot(dot, point));
    dot.classList.toggle("on", on);
    dot.setAttribute("aria-pressed", on);
  }
});

// An entry of the legend hides what it names, in all plots.
const HIDES = { mixture: ".mixture, .plot .toss" };
for (const entry of document.querySelectorAll("#front .legend li")) {
  const kind = entry.dataset.hides;
  if (!kind) continue;
  const toggle = button("", "", () => {
    const off = toggle.getAttribute("aria-pressed") === "true";
    toggle.setAttribute("aria-pressed", !off);
    for (const plot of document.querySelectorAll("#front .plot, #steering .plot"))
      for (const part of plot.querySelectorAll(HIDES[kind] ?? `.${kind}`)) part.classList.toggle("gone", off);
  });
  toggle.setAttribute("aria-pressed", "true");
  toggle.title = "hide or show";
  toggle.append(...entry.childNodes);
  entry.append(toggle);
}

// Of three and more objectives all pairs are drawn; one of them can be seen alone, and larger.
const pairs = [...document.querySelectorAll("#front .pairs > div")];
if (pairs.length > 1) {
  const choice = make("select");
  choice.id = "pair";
  choice.setAttribute("aria-label", "objectives that the front shows");
  choice.append(new Option("all pairs", ""), ...pairs.map((one, n) => new Option(one.dataset.pair, n)));
  choice.addEventListener("change", () => {
    const alone = choice.value ? pairs[choice.value] : null;
    for (const one of pairs) one.hidden = alone !== null && one !== alone;
    pairs[0].parentElement.classList.toggle("one", alone !== null);
  });
  document.querySelector("#front .tools").prepend(choice);
}
