// The page as a whole: it fetches what is served, draws it, and connects the parts.

import { call, onKeyNeeded } from "./api.js";
import { readAddress, setAddress } from "./address.js";
import { pair, refreshPair, showAnswersBy, stop } from "./answers.js";
import { drawBatch } from "./batch.js";
import { rounds } from "./conversation.js";
import { drawDial } from "./dial.js";
import { beginFront, drawFront, tabulate } from "./front.js";
import { drawTools, savePreset } from "./keep.js";
import { begin as newTalk, reopen, setKeeping } from "./keeping.js";
import { drawVotes, next, reload, skip, taken, undo, vote } from "./learn.js";
import { refresh } from "./expected.js";
import { askAgain, askBoth, drawPrompt, fillSettings, goOn, options, prompt, send } from "./prompt.js";
import { admitted, beginning, changed, keep, kept, on, policyNamed, policyOf, state } from "./state.js";
import { drawTalks } from "./talks.js";
import { drawTernary } from "./ternary.js";
import { drawThread, setThread, views } from "./thread.js";
import { drawWeights } from "./weights.js";
import { byId, element, faultOfName, listing, plainly, preferenceText } from "./words.js";

let redrawPicker = () => {};
let drawing = 0;
let profiles = [];

// Messages to the user

/** Hide an error, as something has worked since. */
function done() {
  if (byId("alert").classList.contains("error")) byId("alert").hidden = true;
}

/** Announce a success. */
function say(text) {
  done();
  byId("status").textContent = "";
  requestAnimationFrame(() => (byId("status").textContent = text));
}

/** Show a message with a button; it stays until the user presses the button or dismisses it. */
function notice(text, label, act, kind = "notice") {
  const box = byId("alert");
  const hide = () => (box.hidden = true);
  box.className = `alert ${kind}`;
  box.replaceChildren(
    element("p", {}, text),
    element("span", { class: "row" },
      act ? element("button", { type: "button", click: async () => { hide(); try { await act(); } catch (error) { report(error, act); } } }, label) : null,
      element("button", { type: "button", class: "link", click: hide }, "Dismiss")));
  box.hidden = false;
}

/** Show an error in plain words; `retry` repeats what failed. Null is no error. */
function report(error, retry) {
  if (error === null) return;
  if (error.name === "AbortError") return;
  if (error.status === undefined && !(error.message ?? "").includes("server")) console.error(error);
  notice(plainly(error), "Try again", retry, "error");
}

// Moving A and B

const unreached = { a: null, b: null };

/** Return the function that shows an error of a dial, and hides it once the dial is at a preference that is served. */
function reportSide(side) {
  return (error) => {
    if (error === null && unreached[side]) byId("alert").hidden = true;
    unreached[side] = error;
    report(error, () => refresh(side, reportSide(side)));
  };
}

/** Set the preference of a side, within the bounds of the server. */
function move(side, preference) {
  state.sides[side].preference = admitted(state.policy, preference);
  state.active = side;
  redrawPicker();
  const sides = { ...kept().sides, [state.policy.name]: { a: state.sides.a.preference, b: state.sides.b.preference } };
  keep({ sides });
  refresh(side, reportSide(side));
}

/** Draw the front at the next frame, once, however often this is called. */
function redrawFront() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    try {
      drawFront((preference, name) => {
        if (name !== state.policy.name) choosePolicy(name);
        move(state.active, preference);
      });
    } catch (error) {
      byId("chart").replaceChildren(element("p", { class: "empty" }, "The front cannot be drawn; the table below has its numbers."));
      console.error(error);
    }
  });
}

/** Say beside the folded front where A and B are. */
function drawSteer() {
  const at = (side) => [element("span", { class: `mark ${side}`, "aria-hidden": "true" }, side.toUpperCase()),
    element("span", {}, [state.sides.b.policy && (policyOf(side).title ?? policyOf(side).name), preferenceText(state.sides[side].served?.preference ?? state.sides[side].preference)].filter(Boolean).join(": "))];
  byId("steer-now").replaceChildren(...["a", "b"].map((side) => element("span", { class: "side" }, ...at(side))));
}

// Policy and profile

function choosePolicy(name) {
  const policy = state.policies.find((one) => one.name === name) ?? state.policies[0];
  const M = policy.objectives.length;
  state.policy = policy;
  state.active = "a";
  const start = beginning(policy);
  for (const side of ["a", "b"]) state.sides[side] = { preference: admitted(policy, start[side]), served: null, policy: null };
  offerPolicyB();
  keep({ policy: policy.name });
  byId("policy").value = policy.name;
  byId("headline").textContent = headline(policy.objectives);
  const model = policy.base_model?.split("/").at(-1);
  byId("over").textContent = ["paretune studio", policy.title ?? policy.name, model].filter(Boolean).join(" · ");
  byId("mode").hidden = M !== 2 || policy.dial.length < 2;
  drawLead();
  const root = byId("picker");
  root.replaceChildren();
  const draw = M === 2 ? drawDial : M === 3 ? drawTernary : drawWeights;
  redrawPicker = draw(root, policy, move);
  redrawPicker();
  beginFront();
  redrawFront();
  tabulate((preference, side) => move(side, preference));
  changed("policy active");
  for (const side of ["a", "b"]) refresh(side, reportSide(side));
  reload();
}

/** Let B be asked of a policy of its own; "" is that of A. */
function choosePolicyB(name) {
  state.sides.b.policy = policyNamed(name) ?? null;
  byId("policy-b").value = name;
  drawSteer();
  refresh("b", reportSide("b"));
}

/** Return the options of a list of policies; in groups by run, where several runs are served. */
function policyOptions(policies) {
  const option = (policy) => element("option", { value: policy.name }, policy.title ?? policy.name);
  const runs = state.front.runs ?? [];
  if (runs.length < 2) return policies.map(option);
  const of = (run) => policies.filter((policy) => run.policies.includes(policy.name));
  return runs.filter((run) => of(run).length).map((run) => element("optgroup", { label: run.name }, ...of(run).map(option)));
}

/** Offer the policies that B can have instead of A's: those on the same objectives. */
function offerPolicyB() {
  const mine = state.policy.objectives;
  const others = state.policies.filter((one) => one !== state.policy && one.objectives.length === mine.length && mine.every((name) => one.objectives.includes(name)));
  byId("policy-b-box").hidden = !others.length;
  byId("policy-b").replaceChildren(element("option", { value: "" }, "as A"), ...policyOptions(others));
}

function headline(objectives) {
  if (objectives.length === 1) return "One model, one objective";
  return objectives.length === 2 ? `One model, from ${objectives[0]} to ${objectives[1]}` : `One model between ${listing(objectives)}`;
}

function drawLead() {
  const { policy } = state;
  const M = policy.objectives.length;
  const steps = state.mode === "outcome" && policy.dial.length > 1 ? "Equal steps of the dial are equal steps of outcome." : "Steps of the dial are steps of weight.";
  const how = M === 2 ? steps : M === 3 ? "Drag A and B. A corner is all weight on its objective." : "Move one weight; the others share the rest.";
  const snaps = policy.anchored ? ` ${policy.title ?? policy.name} answers at the nearest of ${policy.anchors?.length ?? "its"} trained preferences.` : "";
  byId("dial-lead").textContent = how + snaps + (policy.dial_by ? ` The reason: ${policy.dial_by}.` : "");
}

async function loadProfiles(wanted = state.profile) {
  const select = byId("profile");
  try {
    profiles = (await call("GET", "/api/profiles")).profiles;
    byId("profile-box").hidden = false;
  } catch (error) {
    if (error.status !== 409) report(error, loadProfiles);
    byId("profile-box").hidden = true;
  }
  const all = [...new Set(["default", ...profiles.map((one) => one.name), wanted])];
  select.replaceChildren(...all.map((name) => element("option", { value: name }, name)));
  select.value = wanted;
}

/** Return after asking whether something is really to be done. */
function sure(text, title = "Delete this profile?") {
  const dialog = byId("sure-dialog");
  byId("sure-title").textContent = title;
  byId("sure-lead").textContent = text;
  return new Promise((resolve) => {
    let given = false;
    byId("sure-form").onsubmit = (event) => { event.preventDefault(); given = true; dialog.close(); };
    byId("sure-cancel").onclick = () => dialog.close();
    dialog.onclose = () => resolve(given);
    dialog.showModal();
    byId("sure-cancel").focus();
  });
}

/** Go to the default profile after one is deleted; the page forgets its name too. */
async function forgotten(profile) {
  const next = state.profile === profile ? "default" : state.profile;
  await loadProfiles(next);
  chooseProfile(next);
}

function chooseProfile(name) {
  stop();
  // A conversation belongs to the person who began it.
  if (name !== state.profile && rounds().length) newTalk();
  state.profile = name;
  keep({ profile: name });
  byId("profile").value = name;
  changed("profile");
  reload();
}

/** Open a dialog with one field; returns the text, or null if the dialog is closed without any. `check` returns what is wrong with it. */
function prompted(which, ready, check = () => "") {
  const dialog = byId(`${which}-dialog`);
  const field = byId(which);
  field.value = "";
  ready?.();
  return new Promise((resolve) => {
    let given = null;
    field.oninput = () => field.setCustomValidity("");
    byId(`${which}-form`).onsubmit = (event) => {
      event.preventDefault();
      const text = field.value.trim();
      field.setCustomValidity(check(text));
      if (!field.reportValidity()) return;
      given = text || null;
      dialog.close();
    };
    byId(`${which}-cancel`).onclick = () => dialog.close();
    dialog.onclose = () => resolve(given);
    dialog.showModal();
    field.focus();
  });
}

async function newProfile() {
  const name = await prompted("name", undefined, faultOfName);
  if (!name) return;
  const make = async () => {
    const made = await call("POST", "/api/profiles", { name });
    await loadProfiles(made.name);
    chooseProfile(made.name);
  };
  try {
    await make();
  } catch (error) {
    report(error, make);
  }
}

// Keys

const SHORTCUTS = {
  "/": () => byId("prompt").focus(),
  1: () => vote("first"),
  2: () => vote("tie"),
  3: () => vote("second"),
  n: () => next(),
  s: () => skip(),
  u: () => undo(),
  a: () => focusSide("a"),
  b: () => focusSide("b"),
  "?": () => byId("help-dialog").showModal(),
};

function focusSide(side) {
  if (state.policy.objectives.length > 3) { state.active = side; changed("active"); }
  byId("steer").open = true;
  byId(`dial-${side}`)?.focus();
}

function drawKeys() {
  byId("single-keys").checked = kept().keys ?? true;
  byId("single-keys").addEventListener("change", (event) => keep({ keys: event.target.checked }));
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());
  byId("help-close").addEventListener("click", () => byId("help-dialog").close());
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && pair.running) return stop();
    const typing = event.target.closest("textarea, select, input:not([type=range]):not([type=radio]):not([type=checkbox])");
    const act = SHORTCUTS[event.key.toLowerCase()];
    if (typing || !act || !byId("single-keys").checked || !state.policy) return;
    event.preventDefault();
    act();
  });
}

// Beginning

/** Go to what an address asks for. */
function show({ policy, policyB, a, b }) {
  if (policy && policy !== state.policy.name) choosePolicy(policy);
  if (policyB !== null) choosePolicyB(policyB);
  if (a) move("a", a);
  if (b) move("b", b);
}

async function load() {
  const front = await call("GET", "/api/front");
  state.front = front;
  state.policies = front.policies;
  byId("policy").replaceChildren(...policyOptions(front.policies));
  byId("policy").closest("label").hidden = front.policies.length < 2;
  fillSettings(front);
  await loadProfiles();
  const usual = policyNamed(kept().policy)?.name ?? front.default;
  const asked = readAddress(location.hash, usual);
  choosePolicy(asked.policy ?? usual);
  show(asked);
  if (asked.faults.length) notice(asked.faults.join(" "));
  reopen();
  refreshPair();
  changed("talk pair");
  byId("studio").setAttribute("aria-busy", "false");
}

async function start() {
  byId("unstarted").remove();
  onKeyNeeded((wrong) => prompted("key", () => {
    byId("key-lead").textContent = wrong
      ? "This key is not valid. Try another one; it is kept in this tab only, until you close it."
      : "This server needs an API key. The key is kept in this tab only, until you close it.";
  }));
  Object.assign(state, { profile: kept().profile ?? "default", mode: kept().mode ?? "outcome" });
  showAnswersBy(views);
  setKeeping();
  setThread({ say, send, again: askAgain, carryOn: goOn });
  on("talk pair", drawThread);
  drawPrompt({ report, say });
  drawTalks({ report, say, sure });
  drawKeys();
  // A vote says something about the preferences of one policy.
  const moveForVotes = (side, preference) => { if (state.sides.b.policy) choosePolicyB(""); move(side, preference); };
  drawVotes({ report, say, move: moveForVotes, askBoth, savePreset, prompt });
  drawTools({
    report, say, done, notice, move, taken, sure, forgotten, profiles: () => profiles, reloadProfiles: loadProfiles, redraw: () => changed("active"),
    prompt, options, voted: () => { changed("votes"); reload(); },
    goTo: (policy, side, preference) => {
      if (policy !== state.policy.name) {
        if (!state.policies.some((one) => one.name === policy)) return notice(`${policy} is not served here.`);
        choosePolicy(policy);
      }
      move(side, preference);
    },
  });
  drawBatch({ say, options });
  setAddress({ say, notice, show });
  on("served active", () => { redrawPicker(); redrawFront(); drawSteer(); });
  const narrow = matchMedia("(max-width: 1099px)");
  byId("steer").open = !narrow.matches;
  narrow.addEventListener("change", () => (byId("steer").open = !narrow.matches));
  byId("policy").addEventListener("change", (event) => { stop(); choosePolicy(event.target.value); });
  byId("policy-b").addEventListener("change", (event) => choosePolicyB(event.target.value));
  byId("profile").addEventListener("change", (event) => chooseProfile(event.target.value));
  byId("new-profile").addEventListener("click", newProfile);
  for (const radio of document.querySelectorAll("[name=mode]")) {
    radio.checked = radio.value === state.mode;
    radio.addEventListener("change", () => { state.mode = radio.value; keep({ mode: radio.value }); drawLead(); redrawPicker(); });
  }
  const begin = async () => { try { await load(); } catch (error) { report(error, begin); } };
  await begin();
}

start();
