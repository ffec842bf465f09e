// A page with `useChat`, as the AI SDK's own examples write it.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createElement, useState } from "react";
import { createRoot } from "react-dom/client";

const query = new URLSearchParams(location.search);
const api = query.get("api");
const id = query.get("id");
const transport = new DefaultChatTransport({ api });

function Chat() {
  const [input, setInput] = useState("");
  const { messages, sendMessage, status, stop, error } = useChat({ id, transport, resume: query.has("resume") });
  const part = (part, key) => {
    if (part.type === "text") return createElement("span", { key, className: "text" }, part.text);
    if (part.type === "reasoning") return createElement("i", { key, className: "reasoning" }, part.text);
    return createElement("b", { key, className: "part" }, part.type);
  };
  return createElement(
    "main",
    null,
    messages.map((message) =>
      createElement("p", { key: message.id, className: message.role }, message.parts.map(part)),
    ),
    createElement("output", { id: "status" }, status),
    createElement("output", { id: "error" }, error?.message ?? ""),
    createElement("input", { value: input, onChange: (event) => setInput(event.target.value) }),
    createElement("button", { id: "send", onClick: () => sendMessage({ text: input }) }, "Send"),
    createElement(
      "button",
      {
        id: "stop",
        onClick: async () => {
          await fetch(`${api}/${encodeURIComponent(id)}/stop`, { method: "POST" });
          await stop();
        },
      },
      "Stop",
    ),
  );
}

createRoot(document.getElementById("root")).render(createElement(Chat));
