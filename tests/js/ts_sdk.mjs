// Asks with Anthropic's TypeScript SDK, unchanged but for its base URL, and prints what came of it.
import Anthropic from "@anthropic-ai/sdk";
import { text } from "node:stream/consumers";

const { base_url, cases } = JSON.parse(await text(process.stdin));
const client = new Anthropic({ apiKey: "the-caller's-own-key", baseURL: base_url, maxRetries: 0 });

const params = (directive) => ({
  model: "claude-opus-4-8",
  max_tokens: 9999,
  messages: [{ role: "user", content: `Go. {{${directive}}}` }],
});

const ways = {
  // The raw events, with neighbouring deltas of one block joined.
  async events(directive) {
    const fields = { text_delta: "text", thinking_delta: "thinking", input_json_delta: "partial_json" };
    const events = [];
    for await (const event of await client.messages.create({ ...params(directive), stream: true })) {
      const last = events.at(-1);
      const field = fields[event.delta?.type];
      if (field && last?.index === event.index && last?.delta?.type === event.delta.type) {
        last.delta[field] += event.delta[field];
      } else {
        events.push(event);
      }
    }
    return events;
  },
  async final(directive) {
    return await client.messages.stream(params(directive)).finalMessage();
  },
  // What the helper's listeners are told, joined.
  async helper(directive) {
    const told = { text: "", thinking: "", json: "", signatures: [], citations: [], blocks: [] };
    const stream = client.messages.stream(params(directive));
    stream.on("text", (delta) => (told.text += delta));
    stream.on("thinking", (delta) => (told.thinking += delta));
    stream.on("inputJson", (delta) => (told.json += delta));
    stream.on("signature", (signature) => told.signatures.push(signature));
    stream.on("citation", (citation) => told.citations.push(citation));
    stream.on("contentBlock", (block) => told.blocks.push(block));
    await stream.done();
    return told;
  },
  async whole(directive) {
    return await client.messages.create(params(directive));
  },
  async count() {
    const { model, messages } = params("x");
    return await client.messages.countTokens({ model, messages });
  },
  async models() {
    const models = [];
    for await (const model of client.models.list()) models.push(model);
    return models;
  },
  // Leaves after the first text, as a page that aborts does.
  async leave(directive) {
    const stream = await client.messages.create({ ...params(directive), stream: true });
    for await (const event of stream) {
      if (event.type === "content_block_delta") {
        stream.controller.abort();
        break;
      }
    }
    return "left";
  },
};

const results = [];
for (const { way, directive } of cases) {
  try {
    results.push({ value: await ways[way](directive) });
  } catch (error) {
    const { status, type, requestID, error: body } = error;
    results.push({ raised: error.constructor.name, status, type, body, has_request_id: Boolean(requestID) });
  }
}
console.log(JSON.stringify(results));
