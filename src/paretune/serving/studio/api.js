// Requests to the server of this page: JSON, streams of server-sent events, and the API key.

const KEY = "paretune-key";
/** Where the server is, as seen from here: a proxy may serve it below a path of its own. */
export const ROOT = new URL("../", import.meta.url);

/** A response other than success, or a server that cannot be reached (then without a status). */
export class Refusal extends Error {
  constructor(message, status, code, retryAfter) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** Return whether this tab holds an API key. */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

let asking = null;
let askForKey = async () => null;

/** Set the function that asks the user for the key; it returns the key, or null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Ask for the key once, however many requests wait for it; return whether one was given. */
async function newKey(used) {
  const held = sessionStorage.getItem(KEY);
  if (held !== used) return held !== null;
  asking ??= askForKey(used !== null).finally(() => (asking = null));
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  return Boolean(key);
}

async function refused(response) {
  const error = (await response.json().catch(() => ({}))).error ?? {};
  const after = Number(response.headers.get("retry-after"));
  return new Refusal(error.message ?? response.statusText, response.status, error.code, after > 0 ? after : undefined);
}

async function send(method, path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(key && { authorization: `Bearer ${key}` }), ...(body && { "content-type": "application/json" }) };
    let response;
    try {
      response = await fetch(new URL(path.slice(1), ROOT), { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("the server cannot be reached");
    }
    if (response.ok) return response;
    const error = await refused(response);
    if (error.status !== 401 || !(await newKey(key))) throw error;
  }
}

/** Return the JSON of a response; `path` begins with a slash and is below the server's root. Throws a Refusal. */
export async function call(method, path, body, signal) {
  return (await send(method, path, body, signal)).json();
}

/** Save a response as a file of the browser. Throws a Refusal. */
export async function download(path, name) {
  const address = URL.createObjectURL(await (await send("GET", path)).blob());
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Read a chat completion as a stream: `onChunk` receives each chunk. Throws a Refusal, or an AbortError by the signal. */
export async function stream(body, onChunk, signal) {
  const response = await send("POST", "/v1/chat/completions", { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("the connection to the server broke off");
    }
    if (read.done) throw new Refusal("the connection to the server broke off");
    const events = (held + read.value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(chunk.error.message, 500, chunk.error.code);
      onChunk(chunk);
    }
  }
}
