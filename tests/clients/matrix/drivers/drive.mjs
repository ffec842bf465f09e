// What every JavaScript driver does: reads what to ask from standard input, asks it all, prints what it saw as one JSON.
import { text } from "node:stream/consumers";

export const MODEL = "claude-opus-4-8";
export const KEY = "the-caller's-own-key";
export const WHOLE = ["text", "tools", "thinking", "invalid", "refused", "overloaded", "recovers", "cut", "unknown"];
export const STREAMED = [...WHOLE, "breaks", "slow"];
export const STRUCTURED = ["structured", "refused"];

export function add(saw, name, piece) {
  saw[name] = (saw[name] ?? "") + (piece ?? "");
}

async function one(ask, way) {
  try {
    const value = await way(ask);
    if (value !== undefined) ask.saw.value = value;
  } catch (error) {
    const root = error.lastError ?? error;
    ask.saw.raised = error.constructor.name;
    ask.saw.status = root.status ?? root.statusCode;
    ask.saw.said = String(error.message).slice(0, 800);
    if (root.error && typeof root.error === "object") ask.saw.body = root.error;
    if (root.responseBody) ask.saw.body = root.responseBody;
  }
}

// Drives the ways, each an async function of an ask with the scenarios that it is for; so many at a time.
export async function drive(ways, { at_a_time = 100 } = {}) {
  const { base_url: url, through, scenarios } = JSON.parse(await text(process.stdin));
  const seen = {};
  const todo = [];
  for (const [name, [way, its]] of Object.entries(ways)) {
    for (const scenario of its.filter((one) => scenarios.includes(one))) {
      const prompt = `Go. [[${scenario}/${name}]]`;
      const ask = { url, through, scenario, prompt, messages: [{ role: "user", content: prompt }], saw: {} };
      (seen[scenario] ??= {})[name] = ask.saw;
      todo.push(() => one(ask, way));
    }
  }
  const worker = async () => {
    for (let next; (next = todo.shift()); ) await next();
  };
  await Promise.all(Array.from({ length: at_a_time }, worker));
  process.stdout.write(JSON.stringify(seen), () => process.exit(0));
}
