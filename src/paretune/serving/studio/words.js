// Numbers, preferences and errors in the words of the report.

import { element, known, number } from "./elements.js";

export { element, number };

export const byId = (name) => document.getElementById(name);

/** Return the number of decimals, 0 to 4, that show about a hundredth of the range of some values. */
export function decimals(values) {
  const numbers = values.filter(known);
  if (!numbers.length) return 2;
  const span = Math.max(...numbers) - Math.min(...numbers) || Math.max(Math.abs(numbers[0]), 1e-9);
  return Math.min(4, Math.max(0, Math.round(2 - Math.log10(span))));
}

/** Return "value [low, high]", or the value alone where there are no bounds. */
export function interval({ mean, low, high }, places) {
  const value = number(mean, places);
  return known(low) && known(high) ? `${value} [${number(low, places)}, ${number(high, places)}]` : value;
}

/** Return "concise 0.75, warm 0.25", weights with three decimals at most. */
export function preferenceText(preference) {
  return Object.entries(preference)
    .map(([name, weight]) => `${name} ${weightText(weight)}`)
    .join(", ");
}

/** Return a weight with three decimals at most. */
export function weightText(weight) {
  return number(Math.round(weight * 1000) / 1000);
}

/** Return "concise=0.75,warm=0.25", the form for commands and requests. */
export function preferenceArgument(preference) {
  return Object.entries(preference)
    .map(([name, weight]) => `${name}=${Math.round(weight * 1e6) / 1e6}`)
    .join(",");
}

/** Return whether two preferences look the same when shown. */
export function same(a, b) {
  return Object.keys(a).every((name) => Math.abs(a[name] - (b[name] ?? 0)) < 5e-4);
}

/** Return a word quoted for a POSIX shell. */
export function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return "a, b and c". */
export function listing(items) {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

/** Return what went wrong and what to do, in plain words. */
export function plainly(error) {
  const detail = error.message ? ` ${error.message[0].toUpperCase()}${error.message.slice(1)}`.replace(/([^.!?])$/, "$1.") : "";
  if (error.status === undefined) return "The server cannot be reached. Nothing is lost; try again once it runs.";
  if (error.status === 502 || error.status === 504 || ["unavailable", "upstream_failed"].includes(error.code)) return `The model server behind this one failed.${detail}`;
  if (error.status === 401) return "An API key is needed, and no valid one was given.";
  if (error.status === 429) return "The server is busy at the moment.";
  if (error.status === 503) return `The server is not ready.${detail}`;
  if (error.status >= 500) return `Something went wrong in the server.${detail}`;
  if (error.status === 404 && error.code === "not_found" && error.message === "no such address") return "This server does not know that request; it may be older than this page. Reload the page.";
  return `This is not possible.${detail}`;
}

const NAME = /^[\p{L}\p{N}_]([\p{L}\p{M}\p{N}_ .-]*[\p{L}\p{M}\p{N}_.-])?$/u;

/** Return what is wrong with a name of a preset or profile, in words; "" where nothing is. */
export function faultOfName(name) {
  if (!name) return "Enter a name.";
  if (name.length > 64) return `The name has ${name.length} characters; at most 64 are possible.`;
  return NAME.test(name) ? "" : "A name has letters, digits, spaces, _, - and ., and begins with a letter or a digit.";
}
