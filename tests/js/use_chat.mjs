// A page with `useChat`, as the README has it: without a word about coming back, or with `?resumable`.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createElement, useState } from "react";
import { createRoot } from "react-dom/client";

const query = new URLSearchParams(location.search);
const api = query.get("api");
const id = query.get("id") ?? undefined;
const resumable = query.has("resumable");
const transport = new DefaultChatTransport({ api, body: resumable ? { resumable } : undefined });

function Chat() {
  const [input, setInput] = useState("");
  const [files, setFiles] = useState();
  const { messages, sendMessage, status, stop, error } = useChat({ id, transport, resume: resumable });
  const stopForGood = () => {
    stop();
    fetch(`${api}/${encodeURIComponent(id)}/stop`, { method: "POST" });
  };
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
    createElement("input", { id: "say", value: input, onChange: (event) => setInput(event.target.value) }),
    createElement("input", { id: "files", type: "file", multiple: true, onChange: (event) => setFiles(event.target.files) }),
    createElement("button", { id: "send", onClick: () => sendMessage({ text: input, files }) }, "Send"),
    createElement("button", { id: "stop", onClick: resumable ? stopForGood : stop }, "Stop"),
  );
}

createRoot(document.getElementById("root")).render(createElement(Chat));
