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
    // What an answer scores by itself, beside what the point scores on average.
    const table = make("table", "own");
    const line = (tag, ...cells) => {
      const row = make("tr");
      cells.forEach((cell, n) => {
        const name = n && tag === "td" ? "td" : "th";
        const made = make(name, "", cell);
        if (name === "th") made.scope = tag === "th" ? "col" : "row";
        row.append(made);
      });
      return row;
    };
    const head = make("thead");
    head.append(line("th", "", "this answer", run.mean));
    const body = make("tbody");
    facts(point).forEach(([name, value], n) => body.append(line("td", name, point.own[p]?.[n] ?? "", value)));
    table.append(head, body);
    box.append(table);
    return box;
  };

  const answer = (point, p) => {
    const own = point.own[p] ?? [];
    const named = [...run.objectives, "words"].map((name, n) => `${name} ${own[n]}`).join(", ");
    return [make("div", "text", point.responses[p] || "(empty)"), make("div", "plain own", own.length ? named : "")];
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
    const link = make("a", "", "its answers");
    link.href = "#answers";
    by("chosen").replaceChildren(`Marked: ${run.preferences[k].text}. Select a point to mark its preference; below are `, link, ".");
    by("chosen").hidden = false;
    const cards = run.policies.map((policy, i) =>
      card(badges[i].cloneNode(true), `pol${i % 8}`, policy.points[k], p));
    cards.push(card(badges[run.policies.length].cloneNode(true), "base", run.base, p));
    by("cards").replaceChildren(...cards);
    const all = by("all");
    all.querySelector("summary").textContent = "All preferences side by side";
    all.querySelector("blockquote").textContent = run.prompts[p];
    all.querySelector(".from-base").replaceChildren(...answer(run.base, p));
    all.querySelectorAll("tbody tr").forEach((row, line) => {
      [...row.querySelectorAll("td")].forEach((cell, i) => {
        const point = run.policies[i].points[line];
        cell.replaceChildren(...(point ? answer(point, p) : ["-"]));
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

  // Beside the shadow at its edge, a table that is wider than its box says so.
  const watch = new ResizeObserver((seen) => {
    for (const { target } of seen) target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth + 1;
  });
  for (const box of document.querySelectorAll(".scroll")) {
    box.before(make("p", "more", "More columns to the right: scroll sideways →"));
    watch.observe(box);
  }

  // On paper nothing can be opened.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
