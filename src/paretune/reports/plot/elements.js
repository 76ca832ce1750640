// Elements whose text is never parsed as markup, and numbers in words.

/** Return an element; attributes that are null are left out, functions are listeners, children are nodes or text. */
export function element(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Return whether a value is a finite number. */
export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Return a number with a true minus sign, "-" where there is none. */
export function number(value, places) {
  if (!known(value)) return "-";
  const text = places === undefined ? String(Number(value.toPrecision(3))) : value.toFixed(places);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}
