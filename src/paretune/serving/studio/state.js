// What the page knows, who wants to hear of changes, and what survives a reload.

const PLACE = "paretune-studio";
const listeners = [];

/**
 * policies: as /api/front tells; policy: the chosen one; profile: whose votes and presets;
 * sides: {a, b}, each {preference, outlook: what /api/expected says of it, or null};
 * active: the side that a click on the front moves; mode: what a step of the dial is, "outcome" or "weight".
 */
export const state = {
  front: null,
  policies: [],
  policy: null,
  profile: "default",
  sides: { a: { preference: null, outlook: null }, b: { preference: null, outlook: null } },
  active: "a",
  mode: "outcome",
};

/** Call `listener` after changes of any of `topics`. */
export function on(topics, listener) {
  listeners.push([topics.split(" "), listener]);
}

/** Tell everybody that listens to `topics`. */
export function changed(topics) {
  const told = topics.split(" ");
  for (const [wanted, listener] of listeners) if (wanted.some((topic) => told.includes(topic))) listener();
}

/** Return what was kept, an empty record where nothing was or where it cannot be read. */
export function kept() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) ?? {};
  } catch {
    return {};
  }
}

/** Keep some values for the next visit; a browser that keeps nothing is no error. */
export function keep(values) {
  try {
    localStorage.setItem(PLACE, JSON.stringify({ ...kept(), ...values }));
  } catch {
    // private windows
  }
}

/** Return the nearest preference the server admits: every weight at least at its floor. */
export function admitted(policy, preference) {
  const floors = policy.objectives.map((name) => policy.bounds?.[name] ?? 0);
  const rest = Math.max(0, 1 - floors.reduce((sum, floor) => sum + floor, 0));
  const above = policy.objectives.map((name, i) => Math.max(0, (preference[name] ?? 0) - floors[i]));
  const total = above.reduce((sum, weight) => sum + weight, 0);
  const weights = above.map((weight, i) => floors[i] + rest * (total > 0 ? weight / total : 1 / above.length));
  return Object.fromEntries(policy.objectives.map((name, i) => [name, millionths(weights)[i] / 1e6]));
}

/** Return weights as whole millionths that sum to a million: what a server reads as a preference. */
export function millionths(weights) {
  const whole = weights.map((weight) => Math.round(weight * 1e6));
  whole[whole.indexOf(Math.max(...whole))] += 1e6 - whole.reduce((sum, weight) => sum + weight, 0);
  return whole;
}

/** Give one objective a weight; the others share the rest as before. */
export function reweighted(policy, preference, objective, weight) {
  const others = policy.objectives.filter((name) => name !== objective);
  const value = Math.min(1, Math.max(0, weight));
  const sum = others.reduce((total, name) => total + preference[name], 0);
  const made = { ...preference, [objective]: value };
  for (const name of others) made[name] = (1 - value) * (sum > 1e-9 ? preference[name] / sum : 1 / others.length);
  return made;
}

/** Return preferences for A and B to begin with: what was used last, else near the two ends of the front. */
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
