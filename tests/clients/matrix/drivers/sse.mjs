// What a reader of plain server-sent events makes of the Messages API, and of the service's own plain protocol.
import { KEY, MODEL, add } from "./drive.mjs";

const TOOL = { name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } };

export function request(ask, path) {
  const body = {
    model: MODEL,
    max_tokens: 999,
    ...(path === "/v1/messages" && { stream: true }),
    messages: ask.messages,
    ...(ask.scenario === "tools" && { tools: [TOOL] }),
    ...(ask.scenario === "thinking" && { thinking: { type: "adaptive" } }),
  };
  const headers = { "content-type": "application/json", "x-api-key": KEY, "anthropic-version": "2023-06-01" };
  return { method: "POST", headers, body: JSON.stringify(body) };
}

const FIELDS = { text_delta: "text", thinking_delta: "thinking", input_json_delta: "partial_json" };

function ofMessages(saw, data) {
  if (data.type === "content_block_delta" && FIELDS[data.delta.type]) {
    const field = FIELDS[data.delta.type];
    add(saw, field, data.delta[field]);
  }
  if (data.content_block?.type === "tool_use") saw.tool = [data.content_block.id, data.content_block.name];
  if (data.type === "message_delta") Object.assign(saw, ended(data.delta.stop_reason, data.usage));
  if (data.type === "error") saw.error = [data.error.type, data.error.message];
}

function ofPlain(saw, data) {
  for (const field of ["text", "thinking"]) if (field in data) add(saw, field, data[field]);
  if (data.tool_use?.partial_json !== undefined) add(saw, "partial_json", data.tool_use.partial_json);
  else if (data.tool_use) saw.tool = [data.tool_use.id, data.tool_use.name];
  if (data.done) Object.assign(saw, ended(data.stop_reason, data.usage));
  if ("error" in data) saw.error = [data.type, data.error];
}

const ended = (stop_reason, usage) => ({ stop_reason, output_tokens: usage.output_tokens });

// The same for both protocols: the plain one is spoken only by the service.
export const protocols = {
  messages: () => ({ path: "/v1/messages", of: ofMessages }),
  plain: (ask) => (ask.through ? { path: "/api/stream", of: ofPlain } : protocols.messages()),
};

export async function refused(saw, response) {
  const told = await response.json();
  const error = typeof told.error === "object" ? told.error : { type: told.type, message: told.error };
  saw.refused = [response.status, error.type, error.message];
}
