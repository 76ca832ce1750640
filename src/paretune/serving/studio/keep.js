// The tabs: presets, a ranking of answers, floors on scores, commands that use a preference elsewhere, the own votes, and what all people's votes show.

import { ROOT, call, hasKey } from "./api.js";
import { isSealed } from "./blind.js";
import { admitted, keep, kept, on, runOf, state } from "./state.js";
import { byId, element, faultOfName, number, preferenceArgument, preferenceText, shellWord } from "./words.js";
import { expectedWords, places, scoreList } from "./expected.js";
import { drawHistory, loadHistory } from "./history.js";
import { drawRank } from "./rank.js";

let tools = null;

const sideButton = (side, what, click) =>
  element("button", { type: "button", class: `mark button ${side}`, "aria-label": `Set ${side.toUpperCase()} to ${what}`, click }, side.toUpperCase());

const bothSides = (what, preference) => ["a", "b"].map((side) => sideButton(side, what, () => tools.move(side, preference)));

// Presets

/** Show the profile's presets, those of this policy first. */
export async function loadPresets() {
  const list = byId("preset-list");
  const profile = state.profile;
  try {
    const { presets } = await call("GET", `/api/presets?${new URLSearchParams({ profile })}`);
    if (profile !== state.profile) return;
    const own = (preset) => preset.policy === state.policy.name;
    presets.sort((p, q) => own(q) - own(p) || p.name.localeCompare(q.name));
    list.replaceChildren(...presets.map(presetLine));
    byId("preset-none").hidden = presets.length > 0;
    byId("preset-none").textContent = "There are no presets yet. Move A or B to a preference that you like, and save it under a name.";
  } catch (error) {
    list.replaceChildren();
    byId("preset-none").hidden = false;
    byId("preset-none").textContent = error.status === 409 ? `Presets are off: ${error.message}.` : "The presets could not be loaded.";
    byId("preset-form").hidden = error.status === 409;
    if (error.status !== 409) tools.report(error, loadPresets);
  }
}

function presetLine(preset) {
  const go = (side) => () => tools.goTo(preset.policy, side, preset.preference);
  return element("li", { "data-preset": preset.name },
    element("span", { class: "name" }, preset.name),
    element("span", { class: "small" }, `${preferenceText(preset.preference)}${preset.policy === state.policy.name ? "" : ` · ${preset.policy}`}`),
    element("span", { class: "row" }, sideButton("a", preset.name, go("a")), sideButton("b", preset.name, go("b")),
      element("button", { type: "button", class: "link", "aria-label": `Delete ${preset.name}`, click: () => forget(preset) }, "Delete")));
}

/** Save a preference under a name; a problem with the name is shown at the input. */
export async function savePreset(name, preference, input) {
  input.setCustomValidity(faultOfName(name));
  if (!input.reportValidity()) return input.addEventListener("input", () => input.setCustomValidity(""), { once: true });
  try {
    await call("PUT", `/api/presets/${encodeURIComponent(name)}`, { profile: state.profile, policy: state.policy.name, preference });
    input.value = "";
    tools.say(`Saved ${name}: ${preferenceText(preference)}.`);
    await loadPresets();
  } catch (error) {
    tools.report(error, () => savePreset(name, preference, input));
  }
}

async function forget(preset) {
  try {
    await call("DELETE", `/api/presets/${encodeURIComponent(preset.name)}?${new URLSearchParams({ profile: preset.profile })}`);
    await loadPresets();
    const body = { profile: preset.profile, policy: preset.policy, preference: preset.preference };
    tools.notice(`Deleted ${preset.name}.`, "Undo", async () => {
      await call("PUT", `/api/presets/${encodeURIComponent(preset.name)}`, body);
      await loadPresets();
    });
    byId("tab-presets").focus();
  } catch (error) {
    tools.report(error, () => forget(preset));
  }
}

function drawPresets() {
  const name = element("input", { id: "preset-name", maxlength: 64, autocomplete: "off", placeholder: "Name, such as cautious" });
  const save = (side) => () => savePreset(name.value.trim(), state.sides[side].preference, name);
  byId("presets").append(
    element("form", { id: "preset-form", class: "row", submit: (event) => { event.preventDefault(); save(state.active)(); } },
      element("label", { for: "preset-name", class: "unseen" }, "Name of the preset"), name,
      ...["a", "b"].map((side) => element("button", { type: "button", id: `save-${side}`, click: save(side) }, "Save ", element("span", { class: `mark ${side}` }, side.toUpperCase())))),
    element("ul", { id: "preset-list", class: "list" }), element("p", { id: "preset-none", class: "small" }));
}

// Floors

function drawFloors() {
  const policy = state.policy;
  const shown = places(policy);
  const root = byId("floors");
  if (!policy.points.length) return root.replaceChildren(element("p", { class: "small" }, "No front of this policy was measured, so no preference can be found for floors on scores."));
  const held = kept().floors?.[policy.name] ?? {};
  const inputs = policy.objectives.map((name, m) => {
    const means = policy.points.map((point) => point.mean[name]);
    const range = `${number(Math.min(...means), shown[name])} to ${number(Math.max(...means), shown[name])}`;
    return [name, element("input", { type: "number", step: "any", id: `floor-${m}`, value: held[name] ?? null, placeholder: range, inputmode: "text" }), range];
  });
  const result = element("div", { id: "floor-result", role: "status" });
  const find = async (event) => {
    event?.preventDefault();
    const floors = Object.fromEntries(inputs.filter(([, input]) => input.value !== "").map(([name, input]) => [name, Number(input.value)]));
    keep({ floors: { ...kept().floors, [policy.name]: floors } });
    if (!Object.keys(floors).length) return void result.replaceChildren(element("p", { class: "small" }, "Enter a floor for at least one objective."));
    try {
      show(result, policy, await call("POST", "/api/choose", { policy: policy.name, floors }));
      tools.done();
    } catch (error) {
      tools.report(error, find);
    }
  };
  root.replaceChildren(
    element("p", { class: "lead" }, "A floor is a minimum score. The studio finds the preference with the most room above all floors."),
    element("form", { class: "fields", novalidate: true, submit: find },
      ...inputs.map(([name, input, range]) => element("label", {}, `${name} ≥`, input, element("span", { class: "small" }, `measured ${range}`))),
      element("button", { type: "submit", id: "floor-find" }, "Find")),
    result);
}

function show(result, policy, choice) {
  const room = Object.entries(choice.margin).map(([name, margin]) =>
    `${name} ${margin < 0 ? "falls short by" : "has room of"} ${number(Math.abs(100 * margin), 0)} % of its range`);
  const verdict = !choice.reachable ? "Not reachable. The nearest preference falls short:" : choice.sure ? "Met, also by the intervals." : "Met by the means, but not by the whole intervals.";
  const outside = choice.allowed === false ? [element("p", { class: "small" }, "This preference is outside the bounds of this server; A and B move to the nearest one within.")] : [];
  const expected = Object.fromEntries(policy.objectives.map((name) =>
    [name, { mean: choice.expected.mean[name], low: choice.expected.low[name], high: choice.expected.high[name] }]));
  result.replaceChildren(
    element("p", { class: choice.reachable ? "told" : "told missed" }, verdict),
    element("p", { class: "row" }, element("span", {}, preferenceText(choice.preference)), ...bothSides("this", admitted(policy, choice.preference))),
    element("div", { class: "outlook" }, element("p", { class: "small" }, expectedWords()), element("dl", { class: "scores" }, ...scoreList(policy, expected))),
    element("p", { class: "small" }, `${room.join("; ")}.`), ...outside);
}

// Use elsewhere

function copyable(id, label, text) {
  const code = element("pre", { id, tabindex: 0 }, text);
  const button = element("button", { type: "button", class: "copy", "aria-label": `Copy: ${label}`, click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      tools.say("Copied.");
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1600);
  } }, "Copy");
  return element("div", { class: "code" }, element("p", { class: "small" }, label), code, button);
}

function drawTake() {
  if (isSealed()) return byId("take").replaceChildren(element("p", { class: "small" }, "The preferences of A and B are hidden until you vote."));
  const { policy, active } = state;
  const served = state.sides[active].served?.preference ?? state.sides[active].preference;
  const text = preferenceArgument(served);
  const folder = [policy.name, ...Object.entries(served).map(([name, weight]) => `${name}-${Math.round(weight * 1000) / 1000}`)].join("-");
  const command = `paretune export ${shellWord(runOf(policy).run ?? "")} ${shellWord(folder.replaceAll(/[^\w.-]+/g, "-"))} --policy ${shellWord(policy.name)} -p ${shellWord(text)} --format lora`;
  const exported = policy.exportable === false
    ? element("p", { class: "small" }, "This policy mixes next-token distributions, which no single LoRA can do. Export the soup of the same adapters, or serve the policy with paretune.")
    : !runOf(policy).run
      ? element("p", { class: "small" }, "This server does not serve the folder of a run, so there is nothing to export from.")
      : copyable("export-command", "As a LoRA for any LoRA server or PEFT; on the server's machine, in the folder in which the server was started", command);
  const choice = element("fieldset", { class: "segments" }, element("legend", { class: "unseen" }, "Preference to use"),
    ...["a", "b"].map((side) => element("label", {},
      element("input", { type: "radio", name: "take", value: side, checked: side === active, change: () => { state.active = side; tools.redraw(); byId("take").querySelector("input:checked").focus(); } }),
      element("span", {}, side.toUpperCase()))));
  const words = byId("prompt").value.trim() || runOf(policy).prompts?.[0] || "How do I keep basil alive indoors?";
  const key = hasKey() ? 'os.environ["PARETUNE_API_KEY"]' : '"none"';
  const client = `${key.startsWith("os") ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(new URL("v1", ROOT).href)}, api_key=${key})\nanswer = client.chat.completions.create(\n    model=${JSON.stringify(`${policy.name}@${text}`)},\n    messages=[{"role": "user", "content": ${JSON.stringify(words)}}],\n)\nprint(answer.choices[0].message.content)`;
  byId("take").replaceChildren(element("p", { class: "row" }, choice, element("span", {}, preferenceText(served))), exported,
    copyable("client-code", "With OpenAI's client, from this server (Python)", client));
}

// People

/** Show the mean of all people's votes on this policy, and groups of people with similar tastes. */
export async function loadPeople() {
  const root = byId("people");
  const policy = state.policy;
  try {
    const summary = await call("GET", `/api/population?${new URLSearchParams({ policy: policy.name })}`);
    if (policy !== state.policy) return;
    const people = Object.keys(summary.people ?? {});
    if (!people.length) return root.replaceChildren(element("p", { class: "small" }, "Nobody has voted on this policy yet."));
    root.replaceChildren(
      element("p", { class: "told" }, `${people.length === 1 ? "One person has" : `${people.length} people have`} voted: on average ${preferenceText(summary.mean)}.`),
      element("ul", { class: "list" }, ...(summary.clusters ?? []).map((group) => element("li", {},
        element("span", { class: "name" }, group.members.join(", ")), element("span", { class: "small" }, preferenceText(group.centre)),
        element("span", { class: "row" }, ...bothSides("the centre of this group", admitted(policy, group.centre)))))));
  } catch (error) {
    root.replaceChildren(element("p", { class: "small" }, error.status === 409 ? `There are no votes here: ${error.message}.` : "The votes could not be loaded."));
    if (error.status !== 409) tools.report(error, loadPeople);
  }
}

// Tabs

function drawTabs() {
  const tabs = [...document.querySelectorAll("#tabs [role=tab]")];
  const select = (tab, focus) => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    if (focus) tab.focus();
    if (tab.id === "tab-people") loadPeople();
    if (tab.id === "tab-history") tools.reloadProfiles().then(() => loadHistory());
    if (tab.id === "tab-take") drawTake();
  };
  tabs.forEach((tab, k) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: k + 1, ArrowLeft: k - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      select(tabs.at(step % tabs.length), true);
    });
  });
}

/** Set up the tabs. `given`: report, say, done, notice, move, goTo(policy, side, preference), redraw(), profiles(), and what `drawHistory` needs. */
export function drawTools(given) {
  tools = given;
  drawTabs();
  drawPresets();
  drawHistory(given);
  drawRank({ ...given, bothSides });
  on("policy", () => { drawFloors(); loadPresets(); });
  on("policy votes", () => { if (!byId("people").hidden) loadPeople(); });
  on("profile", loadPresets);
  on("served active sealed", drawTake);
}
