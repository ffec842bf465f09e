// Calls the API's other paths with Anthropic's TypeScript SDK, unchanged but for its base URL, and prints what came.
import Anthropic, { toFile } from "@anthropic-ai/sdk";
import { text } from "node:stream/consumers";

const { base_url } = JSON.parse(await text(process.stdin));
const client = new Anthropic({ apiKey: "the-caller's-own-key", baseURL: base_url, maxRetries: 0 });

async function all(pages) {
  const items = [];
  for await (const item of pages) items.push(item);
  return items;
}

const file = () => toFile(new Uint8Array(300_000), "a.pdf", { type: "application/pdf" });
const content = await (await client.beta.files.download("300000")).arrayBuffer();
const batch = await client.messages.batches.retrieve("batch_1");
console.log(
  JSON.stringify({
    upload: await client.beta.files.upload({ file: await file() }),
    files: await all(client.beta.files.list()),
    metadata: await client.beta.files.retrieveMetadata("file_1"),
    bytes: content.byteLength,
    batch: { ...batch, results_url: Boolean(batch.results_url) },
    results: await all(await client.messages.batches.results("batch_1")),
    skills: await all(client.beta.skills.list()),
    models: await all(client.models.list()),
    model: await client.models.retrieve("claude-x"),
    deleted: await client.beta.files.delete("file_1"),
  }),
);
