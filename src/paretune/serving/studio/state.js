// The state of the page, its listeners, and the values that survive a reload.

const PLACE = "paretune-studio";
const listeners = [];

/**
 * policies: as returned by /api/front; policy: the chosen one; profile: owner of votes and presets;
 * sides: {a, b}, each {preference, served: the response of /api/expected, or null, policy: its own one, or null for the chosen one};
 * active: the side that a click on the front moves; mode: what a step of the dial is, "outcome" or "weight".
 */
export const state = {
  front: null,
  policies: [],
  policy: null,
  profile: "default",
  sides: { a: { preference: null, served: null, policy: null }, b: { preference: null, served: null, policy: null } },
  active: "a",
  mode: "outcome",
};

/** Return a served policy by its name, or undefined. */
export const policyNamed = (name) => state.policies.find((one) => one.name === name);

/** Return what the server says of the run of a policy: its prompts, their number, what scores mean, and its folder. */
export const runOf = (policy = state.policy) => state.front?.runs?.find((run) => run.policies.includes(policy?.name)) ?? state.front ?? {};

/** Return the policy that a side asks: its own, or the chosen one. */
export const policyOf = (side) => state.sides[side].policy ?? state.policy;

/** Call `listener` after changes of any of `topics`. */
export function on(topics, listener) {
  listeners.push([topics.split(" "), listener]);
}

/** Call the listeners of `topics`. */
export function changed(topics) {
  const names = topics.split(" ");
  for (const [wanted, listener] of listeners) if (wanted.some((topic) => names.includes(topic))) listener();
}

function read(store) {
  try {
    return JSON.parse(store().getItem(PLACE));
  } catch {
    return null;
  }
}

const STORES = [() => sessionStorage, () => localStorage];

/**
 * Return the kept values: those of this tab, or for a new tab those kept last by any. So two tabs do not change each other.
 * An empty record where there are none or they cannot be read.
 */
export function kept() {
  return read(STORES[0]) ?? read(STORES[1]) ?? {};
}

/** Keep some values for the next visit; a browser that cannot keep them is no error. */
export function keep(values) {
  const text = JSON.stringify({ ...kept(), ...values });
  for (const store of STORES) {
    try {
      store().setItem(PLACE, text);
    } catch {
      // private windows
    }
  }
}

/** Return the nearest preference that the server admits: every weight is at least its minimum. */
export function admitted(policy, preference) {
  const floors = policy.objectives.map((name) => policy.bounds?.[name] ?? 0);
  const rest = Math.max(0, 1 - floors.reduce((sum, floor) => sum + floor, 0));
  const above = policy.objectives.map((name, i) => Math.max(0, (preference[name] ?? 0) - floors[i]));
  const total = above.reduce((sum, weight) => sum + weight, 0);
  const weights = above.map((weight, i) => floors[i] + rest * (total > 0 ? weight / total : 1 / above.length));
  return Object.fromEntries(policy.objectives.map((name, i) => [name, millionths(weights)[i] / 1e6]));
}

/** Return weights as whole millionths that sum to a million, so that the server accepts them as a preference. */
export function millionths(weights) {
  const whole = weights.map((weight) => Math.round(weight * 1e6));
  whole[whole.indexOf(Math.max(...whole))] += 1e6 - whole.reduce((sum, weight) => sum + weight, 0);
  return whole;
}

/** Return a preference with one weight set; the others share the rest in their old proportions. */
export function reweighted(policy, preference, objective, weight) {
  const others = policy.objectives.filter((name) => name !== objective);
  const value = Math.min(1, Math.max(0, weight));
  const sum = others.reduce((total, name) => total + preference[name], 0);
  const made = { ...preference, [objective]: value };
  for (const name of others) made[name] = (1 - value) * (sum > 1e-9 ? preference[name] / sum : 1 / others.length);
  return made;
}

/** Return preferences for A and B to start with: those used last, else near the two ends of the front. */
export function beginning(policy) {
  const last = kept().sides?.[policy.name];
  const fits = (preference) =>
    preference && policy.objectives.every((name) => Number.isFinite(preference[name])) &&
    Object.keys(preference).length === policy.objectives.length;
  if (last && fits(last.a) && fits(last.b)) return { a: last.a, b: last.b };
  const towards = (m) => {
    const leaning = Object.fromEntries(policy.objectives.map((name) => [name, 0]));
    leaning[policy.objectives[m]] = 1;
    return policy.objectives.length === 2 ? leaning : reweighted(policy, policy.default, policy.objectives[m], 0.8);
  };
  if (policy.dial?.length > 4) {
    const ordered = [...policy.dial].sort((p, q) => p.preference[policy.objectives[0]] - q.preference[policy.objectives[0]]);
    const at = (share) => ordered[Math.round(share * (ordered.length - 1))].preference;
    return { a: at(0.85), b: at(0.15) };
  }
  return policy.objectives.length === 1 ? { a: policy.default, b: policy.default } : { a: towards(0), b: towards(1) };
}
