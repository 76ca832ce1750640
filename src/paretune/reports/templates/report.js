// What begins when all parts are there: the first choice, signs of wide tables, the contents, and paper.
// Chosen are the ends of the dial of the policy that is measured highest.
const first = run.leading ?? 0;
const ends = run.policies[first]?.points.map((point, k) => (point ? k : -1)).filter((k) => k >= 0) ?? [];
if (ends.length) {
  chosen.points = [...new Set([ends[0], ends.at(-1)])].map((k) => ({ i: first, k }));
  chosen.k = ends[Math.floor((ends.length - 1) / 2)];
}
if (compare) reorder(false);
else changed();

// Beside the shadow at its edge, a table that is wider than its box says so.
const watch = new ResizeObserver((seen) => {
  for (const { target } of seen) target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth + 1;
});
for (const box of document.querySelectorAll(".scroll")) {
  box.before(make("p", "more", "More columns to the right: scroll sideways →"));
  watch.observe(box);
}

// The contents show where the reader is.
const links = new Map([...document.querySelectorAll("#contents a")].map((link) => [link.hash.slice(1), link]));
const inView = new Set();
const spy = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) inView[isIntersecting ? "add" : "delete"](target.id);
  const here = [...links.keys()].find((id) => inView.has(id));
  for (const [id, link] of links) {
    if (id === here) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-10% 0px -60% 0px" });
for (const id of links.keys()) spy.observe(by(id));

// On paper nothing can be opened.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
