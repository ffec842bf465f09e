// A page with `useStream`, in StrictMode; `?save` finds an answer again after a reload.
import { createElement, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useStream } from "sluiceway-client/react";

const query = new URLSearchParams(location.search);
const url = query.get("api");
window.renders = []; // the frame and the text's length of each
window.ends = []; // what a page that looks at the state in an effect would have met
let frame = 0;
const count = () => requestAnimationFrame(() => ((frame += 1), count()));
count();

function Answer() {
  const [input, setInput] = useState("");
  const { state, text, thinking, tools, usage, error, send, stop, resume } = useStream({
    url,
    resumable: true,
    credits: true,
    save: query.get("save") ?? undefined,
    onDone: (result) => ends.push([result.text.length, document.getElementById("text").textContent.length, input]),
  });
  renders.push([frame, text.length]);
  return createElement(
    "main",
    null,
    createElement("p", { id: "text" }, text),
    createElement("p", { id: "thinking" }, thinking),
    createElement("p", { id: "tools" }, tools.map(({ name, json }) => `${name} ${json}`).join()),
    createElement("output", { id: "state" }, state),
    createElement("output", { id: "error" }, error?.type ?? ""),
    createElement("output", { id: "tokens" }, usage?.output_tokens ?? ""),
    createElement("input", { id: "say", value: input, onChange: (event) => setInput(event.target.value) }),
    createElement("button", { id: "send", onClick: () => send(input) }, "Send"),
    createElement("button", { id: "stop", onClick: () => stop() }, "Stop"),
    createElement("button", { id: "resume", onClick: resume }, "Resume"),
  );
}

function Page() {
  const [shown, setShown] = useState(true);
  return createElement(
    StrictMode,
    null,
    createElement("button", { id: "leave", onClick: () => setShown(false) }, "Leave"),
    shown && createElement(Answer),
  );
}

createRoot(document.getElementById("root")).render(createElement(Page));
