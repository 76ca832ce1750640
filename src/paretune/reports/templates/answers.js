// The answers of all policies at one preference to one prompt; the prompts that match, in an order.
const compare = by("compare");

const shortened = (text, length) => {
  const folded = text.split(/\s+/).join(" ").trim();
  return folded.length <= length ? folded : `${folded.slice(0, length - 1)}…`;
};

const ordered = () => {
  const wanted = by("filter").value.trim().toLowerCase();
  const found = run.prompts.map((_, p) => p).filter((p) => run.prompts[p].toLowerCase().includes(wanted));
  const [m, way] = by("order").value.split(" ").map(Number);
  if (way) {
    const points = run.policies.map((policy) => policy.points[chosen.k]).filter(Boolean);
    const mean = (p) => points.reduce((sum, point) => sum + point.own[p][m], 0) / points.length;
    found.sort((a, b) => way * (mean(a) - mean(b)) || a - b);
  }
  return found;
};

// Find the prompts anew, and stay at the one that is shown where it is among them.
const reorder = (stay) => {
  const before = promptNow();
  chosen.order = ordered();
  chosen.place = stay ? Math.max(0, chosen.order.indexOf(before)) : 0;
  by("prompt").replaceChildren(...chosen.order.map((p, place) => new Option(shortened(run.prompts[p], 90), place)));
  changed();
};

const card = (badge, kind, point, p) => {
  const box = make("article", `card ${kind}`);
  box.append(badge);
  if (point) box.append(answerBox(point, p), figuresOf(point, p));
  else box.append(make("div", "plain", "not measured at this preference"));
  return box;
};

const answerCell = (point, p) => {
  const named = attributes.map((name, n) => `${name} ${ownOf(point, p)[n]}`).join(", ");
  return [answerBox(point, p), make("div", "plain own", scored ? named : "")];
};

if (compare) {
  compare.hidden = false;
  const all = by("all");
  all.open = false;
  all.querySelector("summary").textContent = "All preferences side by side";
  watchers.push(() => {
    const p = promptNow();
    by("preference").value = chosen.k;
    by("prompt").value = chosen.place;
    if (by("dial")) {
      by("dial").value = chosen.k;
      by("dial").setAttribute("aria-valuetext", run.preferences[chosen.k].text);
    }
    const count = chosen.order.length;
    by("matching").textContent = by("filter").value.trim()
      ? `${count} of ${run.prompts.length} prompts contain it`
      : `${count} prompts`;
    by("asked").textContent = p === undefined ? "No prompt contains that." : run.prompts[p];
    by("cards").hidden = all.hidden = p === undefined;
    if (p === undefined) return;
    const cards = run.policies.map((policy, i) => card(badgeOf(i), `pol${i % 8}`, policy.points[chosen.k], p));
    const base = make("span", "badge base");
    base.append(...document.querySelectorAll("#front .legend .badge.base svg").length ? badgeOf(run.policies.length).childNodes : ["base model"]);
    cards.push(card(base, "base", run.base, p));
    by("cards").replaceChildren(...cards);
    all.querySelector("blockquote").textContent = run.prompts[p];
    all.querySelector(".from-base").replaceChildren(...answerCell(run.base, p));
    all.querySelectorAll("tbody tr").forEach((row, line) => {
      [...row.querySelectorAll("td")].forEach((cell, i) => {
        const point = run.policies[i].points[line];
        cell.replaceChildren(...(point ? answerCell(point, p) : ["-"]));
      });
    });
  });
  const follow = (k) => {
    chosen.k = Number(k);
    if (by("order").value) reorder(true);
    else changed();
  };
  by("preference").addEventListener("change", () => follow(by("preference").value));
  by("dial")?.addEventListener("input", () => follow(by("dial").value));
  by("prompt").addEventListener("change", () => { chosen.place = Number(by("prompt").value); changed(); });
  by("filter").addEventListener("input", () => reorder(true));
  by("order").addEventListener("change", () => reorder(false));
  by("before").addEventListener("click", () => step(-1));
  by("after").addEventListener("click", () => step(1));
}
