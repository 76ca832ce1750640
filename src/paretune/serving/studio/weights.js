// One objective, or more than three: a slider for each weight of the active side.

import { changed, reweighted, state } from "./state.js";
import { element, weightText } from "./words.js";
import { summary } from "./expected.js";

/** Draw a choice of side and its sliders into `root`; see `drawDial`. */
export function drawWeights(root, policy, move) {
  const about = { a: summary("a"), b: summary("b") };
  const choices = ["a", "b"].map((side) =>
    element("input", { type: "radio", name: "side", value: side, id: `side-${side}`, change: () => { state.active = side; changed("active"); } }));
  const rows = policy.objectives.map((name) => {
    const set = (value) => move(state.active, reweighted(policy, state.sides[state.active].preference, name, value));
    const range = element("input", { type: "range", min: 0, max: 1, step: 0.01, input: () => set(Number(range.value)) });
    const value = element("output", {});
    return { name, range, value };
  });
  const list = element("div", { class: "weights", role: "group" },
    ...rows.map(({ name, range, value }) => element("label", {}, element("span", { class: "name" }, name), range, value)));
  root.append(
    ...["a", "b"].map((side, k) => element("div", { class: `dial ${side}` },
      element("label", { class: "pick" }, choices[k], element("span", { class: "unseen" }, `Move ${side.toUpperCase()}`), about[side].head),
      about[side].scores)),
    list,
  );
  return () => {
    const side = state.active;
    list.className = `weights ${side}`;
    list.setAttribute("aria-label", `Weights of ${side.toUpperCase()}`);
    for (const choice of choices) choice.checked = choice.value === side;
    rows.forEach(({ name, range, value }, m) => {
      const weight = state.sides[side].preference[name];
      range.className = `range ${side}`;
      // The letters A and B go to the first slider.
      range.id = m === 0 ? `dial-${side}` : "";
      range.value = weight;
      value.textContent = weightText(weight);
    });
    about.a.update();
    about.b.update();
  };
}
