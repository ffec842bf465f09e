// The AI SDK with its Anthropic provider.
import { createAnthropic } from "@ai-sdk/anthropic";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { KEY, MODEL, STREAMED, STRUCTURED, WHOLE, add, drive } from "./drive.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const weather = z.object({ city: z.string(), unit: z.string() });

function asked(ask) {
  const model = createAnthropic({ apiKey: KEY, baseURL: `${ask.url}/v1` })(MODEL);
  const execute = async ({ city, unit }) => {
    ask.saw.called = [city, unit];
    return `21 ${unit}`;
  };
  const tools = { weather: tool({ description: "The weather", inputSchema: weather, execute }) };
  return { model, prompt: ask.prompt, maxOutputTokens: 999, ...(ask.scenario === "tools" && { tools, stopWhen: stepCountIs(3) }) };
}

// Without what the SDK itself draws and reads from the clock.
const told = (steps) =>
  steps.map(({ content, finishReason, usage, response, providerMetadata }) => ({
    content,
    finishReason,
    usage,
    id: response.id,
    model: response.modelId,
    providerMetadata,
  }));

async function generate(ask) {
  return told((await generateText(asked(ask))).steps);
}

async function stream(ask) {
  const result = streamText({ ...asked(ask), onError: () => {} });
  for await (const part of result.fullStream) {
    if (part.type === "text-delta" || part.type === "reasoning-delta") add(ask.saw, part.type, part.text);
    if (part.type === "tool-input-delta") add(ask.saw, part.type, part.delta);
    if (part.type === "error") ask.saw.error = { name: part.error?.name, said: part.error?.message, is: part.error };
  }
  if (!ask.saw.error) return told(await result.steps);
  const { name, said, is } = ask.saw.error;
  const root = is?.lastError ?? is;
  ask.saw.error = { name, said, status: root?.statusCode, body: root?.responseBody, bare: is instanceof Error ? null : is };
}

async function object(ask) {
  return (await generateText({ ...asked(ask), output: Output.object({ schema: weather }) })).output;
}

await drive({ generate: [generate, WHOLE], stream: [stream, STREAMED], object: [object, STRUCTURED] });
