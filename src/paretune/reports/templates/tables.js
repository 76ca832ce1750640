// Tables that are sorted by a click on their head, and commands that are copied by a button.
const UNITS = { s: 1, min: 60, h: 3600, days: 86_400 };
const numberIn = (text) => {
  const found = text.replaceAll(",", "").match(/^\s*[<>⚠]?\s*([−-]?\d+(?:\.\d+)?)\s*(s|min|h|days)?\b/);
  return found ? Number(found[1].replace("−", "-")) * (UNITS[found[2]] ?? 1) : null;
};
// An interval stands below its value in small; sorted is by the value.
const sortable = (cell) => {
  const copy = cell.cloneNode(true);
  for (const small of copy.querySelectorAll("small")) small.remove();
  return copy.textContent.trim();
};

for (const table of document.querySelectorAll("main section .scroll > table")) {
  const body = table.tBodies[0];
  if (table.closest(".texts") || body.rows.length < 3) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const cells = [...body.rows].map((row) => sortable(row.cells[column]));
    if (!head.textContent.trim() || new Set(cells).size < 2) return;
    const numbers = cells.some((text) => numberIn(text) !== null);
    const act = button(head.textContent, "", () => {
      const falling = head.getAttribute("aria-sort") === "ascending" || (numbers && !head.hasAttribute("aria-sort"));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const way = falling ? -1 : 1;
      const rows = [...body.rows].map((row) => [sortable(row.cells[column]), row]);
      rows.sort(([a], [b]) => {
        if (!numbers) return way * a.localeCompare(b);
        const [x, y] = [numberIn(a), numberIn(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return way * (x - y);
      });
      body.append(...rows.map(([, row]) => row));
    });
    act.className = "sort";
    head.replaceChildren(act);
  });
}

const copied = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Where the page is no secure context, the old way.
    const area = make("textarea", "", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};
const addCopies = (root) => {
  for (const code of root.querySelectorAll("code.command")) {
    const act = button("copy", `copy ${code.textContent}`, async () => {
      await copied(code.textContent);
      act.textContent = "copied";
      setTimeout(() => { act.textContent = "copy"; }, 1500);
    });
    act.className = "copy";
    code.after(act);
  }
};
addCopies(document);
