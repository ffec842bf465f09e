// LangChain's ChatAnthropic.
import { ChatAnthropic } from "@langchain/anthropic";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { z } from "zod";
import { KEY, MODEL, STREAMED, WHOLE, drive } from "./drive.mjs";

const weather = tool(async ({ city, unit }) => `21 ${unit} in ${city}`, {
  name: "weather",
  description: "The weather",
  schema: z.object({ city: z.string(), unit: z.string() }),
});

function chat(ask) {
  const model = new ChatAnthropic({ model: MODEL, apiKey: KEY, anthropicApiUrl: ask.url, maxTokens: 999, maxRetries: 2 });
  return ask.scenario === "tools" ? model.bindTools([weather]) : model;
}

// One chunk's text is one block there: how many there are says only how the text was cut on its way.
function joined(content) {
  if (typeof content === "string") return content;
  const made = [];
  for (const block of content) {
    const last = made.at(-1);
    if (block.type === "text" && last?.type === "text") last.text += block.text;
    else made.push({ ...block });
  }
  return made;
}

const told = ({ content, tool_calls, usage_metadata, response_metadata, additional_kwargs }) => ({
  content: joined(content),
  tool_calls,
  usage_metadata,
  response_metadata,
  additional_kwargs,
});

// Asks, and runs the tool as long as one is called.
async function loop(ask, answer) {
  const messages = [new HumanMessage(ask.prompt)];
  const seen = [];
  for (let turn = 0; turn < 3; turn++) {
    const message = await answer(messages);
    seen.push(told(message));
    messages.push(message);
    if (!message.tool_calls?.length) break;
    for (const call of message.tool_calls) {
      messages.push(new ToolMessage({ content: await weather.invoke(call.args), tool_call_id: call.id }));
    }
  }
  return seen;
}

const invoke = (ask) => loop(ask, (messages) => chat(ask).invoke(messages));

const stream = (ask) =>
  loop(ask, async (messages) => {
    let whole;
    for await (const chunk of await chat(ask).stream(messages)) {
      whole = whole ? whole.concat(chunk) : chunk;
      ask.saw.so_far = whole.text;
    }
    return whole;
  });

await drive({ invoke: [invoke, WHOLE], stream: [stream, STREAMED] });
