(() => {
  "use strict";
  const run = JSON.parse(document.getElementById("run-data").textContent);
  const tip = document.getElementById("tip");
  const dots = [...document.querySelectorAll(".pt")];
  const by = (id) => document.getElementById(id);
  const compare = by("compare");

  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // The browser's own tooltip would cover ours; it stays for pages without scripts.
  for (const dot of dots) dot.querySelector("title")?.remove();

  const facts = (point) => [
    ...run.objectives.map((objective, m) => [objective, point.scores[m]]),
    ["words", point.words],
    [run.distance, point.distance],
    ["on the front", point.front],
  ];

  const show = (dot) => {
    const policy = run.policies[dot.dataset.i];
    const point = policy.points[dot.dataset.k];
    tip.replaceChildren(make("b", "", `${policy.title}, ${run.preferences[dot.dataset.k].text}`));
    for (const [name, value] of facts(point)) tip.append(make("div", "", `${name} ${value}`));
    tip.hidden = false;
    const frame = tip.parentElement.getBoundingClientRect();
    const at = (dot.querySelector(".mark") || dot).getBoundingClientRect();
    const left = Math.min(Math.max(at.left - frame.left + 18, 0), frame.width - tip.offsetWidth);
    const above = at.top - frame.top - tip.offsetHeight - 12;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 0 ? at.bottom - frame.top + 12 : above}px`;
  };

  const card = (badge, kind, point, p) => {
    const box = make("article", `card ${kind}`);
    box.append(badge);
    if (!point) {
      box.append(make("div", "plain", "not measured at this preference"));
      return box;
    }
    const text = point.responses[p];
    box.append(text ? make("div", "text", text) : make("i", "", "(empty)"));
    const list = make("dl");
    for (const [name, value] of facts(point)) list.append(make("dt", "", name), make("dd", "", value));
    box.append(list);
    return box;
  };

  const badges = [...document.querySelectorAll("#front .legend .badge")];
  const choose = (k, p) => {
    for (const dot of dots) dot.classList.toggle("on", Number(dot.dataset.k) === k);
    if (!compare) return;
    by("preference").value = k;
    by("prompt").value = p;
    if (by("dial")) {
      by("dial").value = k;
      by("dial").setAttribute("aria-valuetext", run.preferences[k].text);
    }
    by("asked").textContent = run.prompts[p];
    const cards = run.policies.map((policy, i) =>
      card(badges[i].cloneNode(true), `pol${i % 8}`, policy.points[k], p));
    cards.push(card(badges[run.policies.length].cloneNode(true), "base", run.base, p));
    by("cards").replaceChildren(...cards);
    const all = by("all");
    all.querySelector("summary").textContent = "All preferences side by side";
    all.querySelector("blockquote").textContent = run.prompts[p];
    all.querySelector(".from-base").replaceChildren(make("div", "text", run.base.responses[p] || "(empty)"));
    all.querySelectorAll("tbody tr").forEach((row, line) => {
      [...row.querySelectorAll("td")].forEach((cell, i) => {
        const point = run.policies[i].points[line];
        cell.replaceChildren(point ? make("div", "text", point.responses[p] || "(empty)") : "-");
      });
    });
  };

  const current = () => (compare ? Number(by("preference").value) : 0);
  const asked = () => (compare ? Number(by("prompt").value) : 0);
  for (const dot of dots) {
    dot.addEventListener("pointerenter", () => show(dot));
    dot.addEventListener("pointerleave", () => { tip.hidden = true; });
    dot.addEventListener("focus", () => show(dot));
    dot.addEventListener("blur", () => { tip.hidden = true; });
    dot.addEventListener("click", () => { choose(Number(dot.dataset.k), asked()); show(dot); });
    dot.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(Number(dot.dataset.k), asked());
      }
    });
  }
  if (compare) {
    compare.hidden = false;
    by("all").open = false;
    by("preference").addEventListener("change", () => choose(current(), asked()));
    by("prompt").addEventListener("change", () => choose(current(), asked()));
    by("dial")?.addEventListener("input", () => choose(Number(by("dial").value), asked()));
    choose(Math.floor((run.preferences.length - 1) / 2), 0);
  }
})();
