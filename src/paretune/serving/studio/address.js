// The page's address says which policy and which preferences are shown, so that a link opens what somebody saw.

import { isSealed } from "./blind.js";
import { copy } from "./rendered.js";
import { admitted, on, policyNamed, state } from "./state.js";
import { byId, element, preferenceText, same } from "./words.js";

const SIDES = ["a", "b"];
const OFF = 1e-3;

/** Return a preference as an address has it: "concise=0.7,warm=0.3". */
const written = (preference) => Object.entries(preference).map(([name, weight]) => `${encodeURIComponent(name)}=${Math.round(weight * 1e6) / 1e6}`).join(",");

/** Return the preference that a text states for a policy; throws an Error with what is wrong with it. */
function preferenceOf(text, policy) {
  const weights = Object.fromEntries(policy.objectives.map((name) => [name, 0]));
  for (const part of text.split(",")) {
    const [name, value] = [part.slice(0, part.lastIndexOf("=")), part.slice(part.lastIndexOf("=") + 1)];
    const weight = value.trim() === "" ? NaN : Number(value);
    if (!(name in weights)) throw new Error(`“${name || part}” is no objective of ${policy.name}, which has ${policy.objectives.join(", ")}`);
    if (!(weight >= 0 && weight <= 1)) throw new Error(`“${part}” is no weight from 0 to 1`);
    weights[name] = weight;
  }
  const sum = Object.values(weights).reduce((total, weight) => total + weight, 0);
  if (Math.abs(sum - 1) > OFF) throw new Error(`the weights “${text}” sum to ${Math.round(sum * 1000) / 1000}, not to 1`);
  return weights;
}

/**
 * Return what an address asks for, {policy, policyB, a, b} (each null where it says nothing of it), and what is wrong with it as
 * sentences. `policyB` is B's own policy, "" for that of A.
 */
export function readAddress(hash, fallback) {
  const asked = { policy: null, policyB: null, a: null, b: null, faults: [] };
  if (!hash.includes("=")) return asked;
  const found = new URLSearchParams(hash.replace(/^#/, ""));
  const name = found.get("policy");
  if (name !== null && policyNamed(name)) asked.policy = name;
  else if (name !== null) asked.faults.push(`The address asks for the policy “${name.slice(0, 80)}”, which is not served here.`);
  const policy = policyNamed(asked.policy ?? fallback);
  const other = found.get("policy-b");
  const fits = other !== null && policyNamed(other)?.objectives.every((one) => policy.objectives.includes(one));
  if (other !== null && !fits) asked.faults.push(`The address asks for the policy “${other.slice(0, 80)}” for B, which is not served here on the same objectives.`);
  if (fits) asked.policyB = other === policy.name ? "" : other;
  else if (found.has("b")) asked.policyB = "";
  for (const side of SIDES) {
    if (!found.has(side)) continue;
    try {
      const wanted = preferenceOf(found.get(side).slice(0, 2000), policy);
      asked[side] = admitted(policy, wanted);
      if (!same(asked[side], wanted)) asked.faults.push(`${side.toUpperCase()} is outside the bounds of this server; it is moved to ${preferenceText(asked[side])}.`);
    } catch (error) {
      asked.faults.push(`What the address says of ${side.toUpperCase()} is ignored: ${error.message}.`);
    }
  }
  const strange = [...found.keys()].filter((key) => !["policy", "policy-b", ...SIDES].includes(key));
  if (strange.length) asked.faults.push(`The address has “${strange[0].slice(0, 80)}”, which is ignored; policy, policy-b, a and b are known.`);
  return asked;
}

/** Return the address of what is shown. While the sides of a pair are hidden it does not say where they are. */
function address() {
  const sides = isSealed() ? [] : SIDES.map((side) => `${side}=${written(state.sides[side].preference)}`);
  const other = state.sides.b.policy && !isSealed() ? [`policy-b=${encodeURIComponent(state.sides.b.policy.name)}`] : [];
  const at = new URL(location.href);
  at.hash = [`policy=${encodeURIComponent(state.policy.name)}`, ...other, ...sides].join("&");
  return at.href;
}

/** Set up the address. `given`: say(text), notice(text), show(asked), which goes to what an address asks for. */
export function setAddress(given) {
  const follow = () => {
    if (state.policy && state.sides.b.preference && address() !== location.href) history.replaceState(history.state, "", address());
  };
  on("policy served talk pair", follow);
  addEventListener("hashchange", (event) => {
    if (!state.policy) return;
    // The event comes later than the change: the address may follow what is shown in between.
    const asked = readAddress(new URL(event.newURL).hash, state.policy.name);
    given.show(asked);
    if (asked.faults.length) given.notice(asked.faults.join(" "));
    follow();
  });
  byId("picker").after(element("p", { class: "row" },
    element("button", { type: "button", class: "link", id: "copy-link", click: (event) => copy(event.target, address(), given.say) }, "Copy a link to this")));
}
