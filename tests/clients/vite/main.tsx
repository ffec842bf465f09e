// The README's page, as somebody writes it in TypeScript: the service and the caller's key are in the address.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { restore, type StreamHandle, type StreamOptions } from "sluiceway-client";
import { useStream } from "sluiceway-client/react";

const query = new URLSearchParams(location.search);
const options: StreamOptions = {
  url: `${query.get("service")}/api/stream`,
  key: query.get("key") ?? undefined,
  resumable: true,
  credits: true,
  save: "chat",
};

function Answer() {
  const [question, setQuestion] = useState("");
  const { state, text, error, send, stop, resume } = useStream(options);
  return (
    <section aria-busy={state === "open"}>
      <p id="text" dir="auto">{text}</p>
      <output id="state">{state}</output>
      {error && <p role="alert">{error.type} <button onClick={resume}>Go on</button></p>}
      <input id="say" value={question} onChange={(event) => setQuestion(event.target.value)} />
      <button id="send" onClick={() => send(question)}>Ask</button>
      <button id="stop" onClick={() => void stop()}>Stop</button>
    </section>
  );
}

const none: StreamHandle | null = restore("nothing was saved here", options);
if (none === null) {
  createRoot(document.getElementById("root")!).render(<StrictMode><Answer /></StrictMode>);
}
