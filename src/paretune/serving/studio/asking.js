// One answer from the server: requested with patience, read as it arrives, and measured. Nothing here is drawn.

import { Refusal, stream } from "./api.js";
import { plainly } from "./words.js";

const MOST_TRIES = 60;
const LONGEST_WAIT = 60;
/** Codes of a 503 that waiting does not mend: what the server needs behind it fails. */
const LASTING = ["unavailable", "upstream_failed", "store_unavailable", "audit_unavailable", "draining"];

/**
 * Return a new answer of a side, "a", "b" or "base". `text` grows; `about` is what the server said of it; `reason` is why it ended,
 * null while it runs or where it broke off; `pieces` are its parts with the conflicts of a mixture; `own` are its own scores, null
 * while they are not known; `first` and `took` are the milliseconds to its first text and to its end, `tokens` is their number.
 */
export function newAnswer(side, more = {}) {
  return {
    side, text: "", about: null, reason: null, pieces: [], waiting: [], error: null, own: null, missing: {}, scoring: false,
    first: null, took: null, tokens: null, live: false, ...more,
  };
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("stopped", "AbortError")); }, { once: true });
  });

/**
 * Return what `attempt` returns. A busy or starting server is asked again after the time that it states, for which `told` gets the
 * words, and "" at its end, as long as `repeatable` is true.
 */
export async function patiently(attempt, signal, told, repeatable = () => true) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      const passes = error.status === 429 || (error.status === 503 && !LASTING.includes(error.code));
      if (!(error instanceof Refusal && error.retryAfter && passes && tries < MOST_TRIES && repeatable())) throw error;
      for (let left = Math.min(LONGEST_WAIT, error.retryAfter); left > 0; left -= 1) {
        told(`${plainly(error)} Trying again in ${left} s.`);
        await pause(Math.min(1, left), signal);
      }
      told("");
    }
  }
}

/** Add text that has arrived; conflicts of tokens that have no text yet wait for the next piece. Returns the piece, or null. */
function grow(answer, text, conflicts) {
  const held = [...answer.waiting, ...conflicts];
  answer.waiting = text ? [] : held;
  if (!text) return null;
  answer.text += text;
  const piece = held.length ? { text, conflicts: held, most: Math.max(...held) } : { text, conflicts: [], most: 0 };
  if (held.length) answer.pieces.push(piece);
  return piece;
}

/**
 * Fetch `answer`. `hooks`: told(text) says why it waits, described() after its preference is known, grew(piece) after each piece.
 * An error is kept in `answer.error`; one that was stopped ends with the reason "cancelled".
 */
export async function fetchAnswer(body, answer, signal, hooks) {
  const kept = answer.text;
  const began = performance.now();
  answer.live = true;
  const read = (chunk) => {
    const [choice] = chunk.choices;
    if (chunk.paretune?.policy) { answer.about = chunk.paretune; hooks.described(); }
    if (chunk.usage) answer.tokens = chunk.usage.completion_tokens;
    if (!choice) return;
    const piece = grow(answer, choice.delta.content ?? "", chunk.paretune?.conflicts ?? []);
    if (piece) {
      answer.first ??= performance.now() - began;
      hooks.grew(piece);
    }
    answer.reason = choice.finish_reason ?? answer.reason;
  };
  try {
    const asked = { ...body, stream_options: { include_usage: true } };
    await patiently(() => stream(asked, read, signal), signal, hooks.told, () => answer.text === kept);
  } catch (error) {
    if (error.name === "AbortError") answer.reason = "cancelled";
    else answer.error = error;
  }
  answer.took = performance.now() - began;
  answer.live = false;
}
