// The bar at the bottom: the message, what starts and stops the answers, and how they are sampled.

import { again, ask, askLast, carryOn, pair, stop } from "./answers.js";
import { rounds, talk } from "./conversation.js";
import { changed, keep, kept, on, runOf, state } from "./state.js";
import { showLast } from "./thread.js";
import { byId, element } from "./words.js";

const TALLEST = 220;
const MOST_STOPS = 4;
let tools = null;

/** Return how answers are sampled, as fields of a request. */
export function options() {
  const value = (name) => (byId(name).value === "" ? undefined : Number(byId(name).value));
  const stops = byId("stop").value.split("\n").filter(Boolean).slice(0, MOST_STOPS);
  const given = { max_tokens: value("max-tokens"), temperature: value("temperature"), top_p: value("top-p"), seed: value("seed"), stop: stops.length ? stops : undefined };
  return Object.fromEntries(Object.entries(given).filter(([, one]) => one !== undefined));
}

const base = () => byId("ask-base").checked;

/** Return the message that is being written, else the last one of the conversation. */
export const prompt = () => byId("prompt").value.trim() || (rounds().at(-1)?.user.text ?? "");

function fit() {
  const field = byId("prompt");
  field.style.height = "auto";
  field.style.height = `${Math.min(TALLEST, field.scrollHeight + 2)}px`;
}

function write(text) {
  byId("prompt").value = text;
  keep({ prompt: text });
  fit();
}

/** Say how a request goes; `retry` repeats it. */
async function followed(answering, retry, words = "Both are answering.") {
  tools.say(words);
  showLast();
  const top = scrollY;
  const error = await answering;
  // What has grown since may have made room to bring the message to the top; whoever has scrolled meanwhile stays there.
  if (Math.abs(scrollY - top) < 2) showLast();
  if (error) tools.report(error, retry);
  else if (pair.whole) tools.say("Both answers are complete.");
  return error;
}

/** Send a message after the answer `parent`; if nothing comes of it, it stands in the field again. */
export async function send(text, parent = talk.head) {
  const error = await followed(ask(text, options(), { base: base(), parent }), () => { write(""); return send(text, parent); });
  const lost = error && !rounds().some(({ user }) => user.text === text);
  if (lost && !byId("prompt").value) write(text);
}

/** Send the message that is being written; without one, ask both again for the last one. */
export async function askBoth() {
  const text = byId("prompt").value.trim();
  if (text) {
    write("");
    await send(text);
  } else if (rounds().length) {
    await followed(askLast(options(), base()), askBoth);
  } else {
    byId("prompt").focus();
  }
}

/** Ask some sides again for an answer to a user's turn. */
export const askAgain = (user, sides) => followed(again(user, sides, options()), () => askAgain(user, sides), "Asking again.");

/** Let a cut answer go on. */
export const goOn = (answer) => followed(carryOn(answer, options()), () => goOn(answer), "The answer goes on.");

function drawExamples() {
  const prompts = (runOf().prompts ?? []).slice(0, 3);
  const box = byId("examples");
  box.hidden = !prompts.length || byId("prompt").value !== "" || rounds().length > 0;
  box.replaceChildren(...prompts.map((text) => element("button", { type: "button", click: () => { write(""); send(text); } }, text)));
}

/** Fill in what the server states of sampling. */
export function fillSettings(front) {
  const held = kept().sampling ?? {};
  byId("max-tokens").value = Math.min(held["max-tokens"] || front.sampling.max_tokens, front.max_tokens);
  byId("max-tokens").max = front.max_tokens;
  byId("temperature").value = held.temperature || front.sampling.temperature;
  byId("top-p").value = held["top-p"] || (front.sampling.top_p ?? "");
  byId("seed").value = held.seed ?? "";
  byId("stop").value = held.stop ?? "";
  byId("ask-base").checked = Boolean(held.base && front.base);
  byId("ask-base").closest("label").hidden = !front.base;
  drawExamples();
}

function keepSettings() {
  const held = Object.fromEntries(["max-tokens", "temperature", "top-p", "seed", "stop"].map((name) => [name, byId(name).value]));
  keep({ sampling: { ...held, base: base() } });
}

/** Set up the bar. `given`: report(error, retry), say(text). */
export function drawPrompt(given) {
  tools = given;
  const field = byId("prompt");
  field.value = kept().prompt ?? "";
  field.addEventListener("input", () => { keep({ prompt: field.value }); fit(); drawExamples(); });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!pair.running && field.value.trim()) askBoth(); }
  });
  fit();
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); if (pair.running) stop(); else askBoth(); });
  byId("options").addEventListener("change", (event) => {
    if (event.target.id !== "system") return keepSettings();
    talk.system = event.target.value;
    changed("system");
  });
  on("talk pair", () => {
    byId("send").textContent = pair.running ? "Stop" : rounds().length && !field.value ? "Ask again" : "Ask both";
    byId("send").classList.toggle("stop", pair.running);
    byId("studio").classList.toggle("busy", pair.running);
    if (document.activeElement !== byId("system")) byId("system").value = talk.system;
    drawExamples();
  });
  on("policy", drawExamples);
  field.addEventListener("input", () => { if (!pair.running) byId("send").textContent = rounds().length && !field.value ? "Ask again" : "Ask both"; });
}
