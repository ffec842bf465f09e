// @microsoft/fetch-event-source, with the JSON.parse in `onmessage` that everybody writes. It asks anew by itself.
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { STREAMED, drive } from "./drive.mjs";
import { protocols, refused, request } from "./sse.mjs";

// It is made for a page.
globalThis.window = globalThis;
globalThis.document = Object.assign(new EventTarget(), { hidden: false });

const reading = (protocol) => async (ask) => {
  const { path, of } = protocols[protocol](ask);
  let failures = 0;
  await fetchEventSource(ask.url + path, {
    ...request(ask, path),
    openWhenHidden: true,
    async onopen(response) {
      if (!response.ok) {
        await refused(ask.saw, response);
        throw new Error("refused");
      }
    },
    onmessage({ data }) {
      of(ask.saw, JSON.parse(data));
    },
    onerror(error) {
      if (ask.saw.refused || ++failures === 3) throw error; // else it asks again, as it does by default
      return 10;
    },
  });
};

await drive({ messages: [reading("messages"), STREAMED], plain: [reading("plain"), STREAMED] });
