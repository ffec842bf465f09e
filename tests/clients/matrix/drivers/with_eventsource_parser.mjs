// eventsource-parser, on fetch.
import { EventSourceParserStream } from "eventsource-parser/stream";
import { STREAMED, drive } from "./drive.mjs";
import { protocols, refused, request } from "./sse.mjs";

const reading = (protocol) => async (ask) => {
  const { path, of } = protocols[protocol](ask);
  const response = await fetch(ask.url + path, request(ask, path));
  if (!response.ok) return await refused(ask.saw, response);
  const events = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
  for await (const { data } of events) of(ask.saw, JSON.parse(data));
};

await drive({ messages: [reading("messages"), STREAMED], plain: [reading("plain"), STREAMED] });
