// Anthropic's TypeScript SDK.
import Anthropic from "@anthropic-ai/sdk";
import { KEY, MODEL, STREAMED, WHOLE, add, drive } from "./drive.mjs";

const TOOL = {
  name: "weather",
  description: "The weather",
  input_schema: { type: "object", properties: { city: { type: "string" }, unit: { type: "string" } } },
};
const FIELDS = { text_delta: "text", thinking_delta: "thinking", input_json_delta: "partial_json" };

const client = (ask) => new Anthropic({ apiKey: KEY, baseURL: ask.url });
const asked = (ask) => ({
  model: MODEL,
  max_tokens: 999,
  messages: ask.messages,
  ...(ask.scenario === "tools" && { tools: [TOOL] }),
});

async function whole(ask) {
  const { data, request_id } = await client(ask).messages.create(asked(ask)).withResponse();
  return { data, request_id };
}

// Every event as it came, but neighbouring deltas of one block and kind joined.
async function raw(ask) {
  const events = (ask.saw.events = []);
  for await (const event of await client(ask).messages.create({ ...asked(ask), stream: true })) {
    const last = events.at(-1);
    const field = FIELDS[event.delta?.type];
    if (field && last?.index === event.index && last?.delta?.type === event.delta.type) {
      last.delta[field] += event.delta[field];
    } else if (event.type !== "ping") {
      events.push(event);
    }
  }
}

async function helper(ask) {
  const stream = client(ask).messages.stream(asked(ask));
  stream.on("text", (delta) => add(ask.saw, "text", delta));
  stream.on("thinking", (delta) => add(ask.saw, "thinking", delta));
  stream.on("inputJson", (delta) => add(ask.saw, "json", delta));
  return await stream.finalMessage();
}

async function beta(ask) {
  return await client(ask)
    .beta.messages.stream({ ...asked(ask), betas: ["brand-new-2026-11-01"] })
    .finalMessage();
}

async function runner(ask) {
  const run = async ({ city, unit }) => {
    ask.saw.called = [city, unit];
    return `21 ${unit}`;
  };
  const tools = [{ ...TOOL, type: "custom", run, parse: (input) => input }];
  const messages = [];
  for await (const message of client(ask).beta.messages.toolRunner({ ...asked(ask), tools })) messages.push(message);
  return messages;
}

async function count(ask) {
  return await client(ask).messages.countTokens({ model: MODEL, messages: ask.messages });
}

async function models(ask) {
  const all = [];
  for await (const model of client(ask).models.list()) all.push(model);
  return all;
}

await drive({
  whole: [whole, WHOLE],
  raw: [raw, STREAMED],
  helper: [helper, STREAMED],
  beta: [beta, STREAMED],
  runner: [runner, ["text", "tools"]],
  count: [count, ["text", "invalid", "refused", "overloaded", "recovers"]],
  models: [models, ["text"]],
});
