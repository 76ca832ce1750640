// Sets of prompts: read from pasted text or from a file in this page, and kept in this browser under a name.

const PLACE = "paretune-prompt-sets";
/** Prompts of one set at most. */
export const MOST = 500;
const COLUMNS = ["prompt", "question", "instruction", "text", "input"];

/** Return the cells of a CSV text (RFC 4180), a list for each row. */
function cells(text) {
  const rows = [[""]];
  let quoted = false;
  for (let k = 0; k < text.length; k += 1) {
    const sign = text[k];
    const row = rows.at(-1);
    if (quoted && sign === '"' && text[k + 1] === '"') { row[row.length - 1] += '"'; k += 1; }
    else if (sign === '"') quoted = !quoted;
    else if (!quoted && sign === ",") row.push("");
    else if (!quoted && (sign === "\n" || sign === "\r")) { if (sign === "\n" || text[k + 1] !== "\n") rows.push([""]); }
    else row[row.length - 1] += sign;
  }
  if (quoted) throw new Error("a quotation mark is not closed");
  return rows.filter((row) => row.some((cell) => cell.trim()));
}

function fromCsv(text) {
  const [head, ...rows] = cells(text);
  const at = (head ?? []).findIndex((name) => COLUMNS.includes(name.trim().toLowerCase()));
  if (at < 0 && (head ?? []).length > 1) throw new Error(`no column is called ${COLUMNS.join(", ")}; the columns are ${head.join(", ")}`);
  return at < 0 ? [head, ...rows].map((row) => row?.[0] ?? "") : rows.map((row) => row[at] ?? "");
}

function fromJsonl(text) {
  return text.split("\n").map((line, n) => [line.trim(), n + 1]).filter(([line]) => line).map(([line, n]) => {
    let value;
    try {
      value = JSON.parse(line);
    } catch {
      throw new Error(`line ${n} is not JSON`);
    }
    const messages = Array.isArray(value?.messages) ? value.messages : Array.isArray(value?.prompt) ? value.prompt : null;
    const found = typeof value === "string" ? value : messages ? messages.findLast((one) => one?.role === "user")?.content : COLUMNS.map((name) => value?.[name]).find((one) => typeof one === "string");
    if (typeof found !== "string") throw new Error(`line ${n} has no prompt; expected {"prompt": TEXT}, {"messages": [...]} or a text`);
    return found;
  });
}

/**
 * Return the prompts of a text: one a line, or of a file by the ending of its name (.csv, .jsonl). Throws an Error with what is
 * wrong with it.
 */
export function promptsOf(text, name = "") {
  const ending = name.toLowerCase().split(".").at(-1);
  const plain = text.replace(/^\uFEFF/, "");
  const read = { csv: fromCsv, jsonl: fromJsonl }[ending] ?? ((lines) => lines.split("\n"));
  const found = read(plain).map((prompt) => prompt.trim()).filter(Boolean);
  if (!found.length) throw new Error("there is no prompt in it");
  if (found.length > MOST) throw new Error(`it has ${found.length} prompts; at most ${MOST} are possible`);
  return found;
}

/** Return the kept sets: name -> prompts. */
export function keptSets() {
  try {
    const held = JSON.parse(localStorage.getItem(PLACE)) ?? {};
    return Object.fromEntries(Object.entries(held).filter(([, prompts]) => Array.isArray(prompts) && prompts.every((one) => typeof one === "string")));
  } catch {
    return {};
  }
}

/** Keep a set under a name; `prompts` of null deletes it. Returns whether the browser could keep it. */
export function keepSet(name, prompts) {
  const sets = keptSets();
  if (prompts === null) delete sets[name];
  else sets[name] = prompts;
  try {
    localStorage.setItem(PLACE, JSON.stringify(sets));
    return true;
  } catch {
    return false;
  }
}
