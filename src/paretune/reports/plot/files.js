// Files that a page gives away: tables as CSV, pictures as SVG and PNG. They are made here and sent nowhere.

/** Save content under a name in the visitor's folder for downloads. */
export function save(name, content, type) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement("a");
  Object.assign(link, { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Return a name of a file without what file systems do not like. */
export const fileName = (...parts) => parts.join("-").replaceAll(/[^\p{L}\p{N}._-]+/gu, "-");

/**
 * Return rows as CSV (RFC 4180). Text that a spreadsheet would take for a formula gets an apostrophe before it; a number that is
 * not known is an empty cell.
 */
export function csv(rows) {
  const cell = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}

/** The least width of a PNG in pixels. */
const FINE = 1600;
const STYLES = [
  "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity",
  "font-family", "font-size", "font-weight", "font-variant-numeric", "text-anchor", "paint-order",
];

/** Return an SVG element that is on the page as a document of its own, which looks as it does there, on a ground of a colour. */
export function svgText(picture, ground) {
  const copy = picture.cloneNode(true);
  const [from, to] = [[picture, ...picture.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
  from.forEach((one, n) => {
    const style = getComputedStyle(one);
    for (const name of [...to[n].getAttributeNames()]) if (/^(aria-|data-)|^(class|role|style|tabindex)$/.test(name)) to[n].removeAttribute(name);
    for (const name of STYLES) if (style.getPropertyValue(name)) to[n].setAttribute(name, style.getPropertyValue(name));
  });
  const size = picture.getBoundingClientRect();
  const back = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width: "100%", height: "100%", fill: ground })) back.setAttribute(name, value);
  copy.prepend(back);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", Math.round(size.width));
  copy.setAttribute("height", Math.round(size.height));
  return new XMLSerializer().serializeToString(copy);
}

/** Return an SVG document as a PNG of at least twice its size, and never a small one. */
export function pngOf(text) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      const scale = Math.max(2, Math.ceil(FINE / image.width));
      Object.assign(canvas, { width: image.width * scale, height: image.height * scale });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the picture cannot be made"))), "image/png");
    };
    image.onerror = () => reject(new Error("the picture cannot be made"));
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  });
}
