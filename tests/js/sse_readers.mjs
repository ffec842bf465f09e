// Reads one answer with each library for server-sent events, as its own words tell to, and with what browsers have.
// Each way returns every message it was handed, as it was handed on.
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { createEventSource } from "eventsource-client";
import { createParser } from "eventsource-parser";
import { EventSourceParserStream } from "eventsource-parser/stream";

const POST = { method: "POST", headers: { "Content-Type": "application/json" } };
const CLIENT = "/client.js"; // of the service whose page this is, not of the bundle
const last = ({ data }) => JSON.parse(data).done === true;

window.ways = {
  async fetch_event_source(url, body) {
    const messages = [];
    await fetchEventSource(url, {
      ...POST,
      body,
      onmessage(message) {
        messages.push({ ...message, data: JSON.stringify(JSON.parse(message.data)) });
      },
      onerror(error) {
        throw error; // else it asks anew, a second after each
      },
    });
    return messages;
  },

  async eventsource_parser(url, body) {
    const messages = [];
    const parser = createParser({
      onEvent: (message) => messages.push(message),
      onError: (error) => messages.push({ data: String(error) }),
    });
    const response = await fetch(url, { ...POST, body });
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
    return messages;
  },

  async eventsource_parser_stream(url, body) {
    const response = await fetch(url, { ...POST, body });
    const stream = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream({ onError: "terminate" }));
    return await Array.fromAsync(stream);
  },

  async eventsource_client(url, body) {
    const messages = [];
    const source = createEventSource({ url, ...POST, body });
    for await (const message of source) {
      messages.push(message);
      if (last(message)) break; // else it connects again, as an EventSource does
    }
    source.close();
    return messages;
  },

  // It can only ask with GET: for the rest of an answer that was begun otherwise.
  async event_source(url, body) {
    const response = await fetch(url, { ...POST, body: JSON.stringify({ ...JSON.parse(body), resumable: true }) });
    await response.body.cancel();
    const source = new EventSource(`${url}/${response.headers.get("X-Stream-Id")}`);
    const messages = [];
    await new Promise((resolve) => {
      source.onmessage = (message) => {
        messages.push({ id: message.lastEventId, data: message.data });
        if (last(message)) resolve();
      };
    });
    source.close();
    return messages;
  },

  async client_js(url, body) {
    const { stream } = await import(CLIENT);
    const messages = [];
    for await (const event of stream(JSON.parse(body), { url })) {
      messages.push({ id: event.id, data: JSON.stringify(event.type === "text" ? { text: event.text } : { done: true }) });
    }
    return messages;
  },

  // Lines, as a reader has them that looks for nothing else.
  async lines(url, body) {
    const response = await fetch(url, { ...POST, body });
    const messages = [];
    let rest = "";
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) messages.push({ data: line.slice(6) });
    }
    return messages;
  },
};
