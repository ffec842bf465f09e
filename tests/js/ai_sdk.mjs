// Chats with the AI SDK's own client, unchanged, its check of every chunk on, and prints what came of it.
import { text } from "node:stream/consumers";

const { base_url, version, cases } = JSON.parse(await text(process.stdin));
const [react, ai] = version === 6 ? ["ai-sdk-react-6", "ai-6"] : ["@ai-sdk/react", "ai"];
const { Chat } = await import(react);
const { DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } = await import(ai);
const api = `${base_url}/api/chat`;

function open({ id, messages = [], tools = {}, body, headers } = {}) {
  const seen = { errors: [], finishes: [] };
  const chat = new Chat({
    id,
    messages,
    transport: new DefaultChatTransport({ api, body, headers }),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onError: (error) => seen.errors.push(`${error.name}: ${error.message}`),
    onFinish: ({ finishReason, isAbort, isDisconnect, isError }) =>
      seen.finishes.push({ finishReason, isAbort, isDisconnect, isError }),
    onToolCall: ({ toolCall }) => {
      if (toolCall.toolName in tools) {
        const output = tools[toolCall.toolName];
        // Not awaited: the client waits for this callback before it goes on.
        chat.addToolOutput({ tool: toolCall.toolName, toolCallId: toolCall.toolCallId, output });
      }
    },
  });
  return { chat, seen };
}

const told = ({ chat, seen }) => ({ status: chat.status, messages: chat.messages, ...seen });
const words = (chat) =>
  (chat.lastMessage?.parts ?? []).filter(({ type }) => type === "text").map((part) => part.text).join("");

async function until(condition) {
  for (let tries = 0; tries < 2000; tries += 1) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`waited in vain for ${condition}`);
}

const ways = {
  async ask({ id, say, messages, body, headers, file }) {
    const open_chat = open({ id, messages, body, headers });
    const files = file ? [file] : undefined;
    await open_chat.chat.sendMessage({ text: say, files });
    return told(open_chat);
  },
  // Calls the page's tool, and goes on by itself with what it gave.
  async tools({ id, say, tools }) {
    const open_chat = open({ id, tools });
    await open_chat.chat.sendMessage({ text: say });
    await until(() => open_chat.seen.finishes.length === 2 && open_chat.chat.status === "ready");
    return told(open_chat);
  },
  // Loses its connection in mid-answer; then a page that was loaded anew, or the same one, comes back.
  async resume({ id, say, messages, after, keeps_page, body }) {
    const first = open({ id, messages, body });
    const asked = first.chat.sendMessage({ text: say });
    await until(() => words(first.chat).includes(after));
    const partial = words(first.chat);
    await first.chat.stop();
    await asked;
    const kept = keeps_page ? first.chat.messages : first.chat.messages.filter(({ role }) => role === "user");
    const second = open({ id, messages: kept });
    await second.chat.resumeStream();
    return { partial, ...told(second) };
  },
  // The same in the second step of an answer, after the page's tool.
  async resume_second_step({ id, messages, after, body }) {
    const first = open({ id, messages, body });
    const asked = first.chat.sendMessage();
    await until(() => words(first.chat).includes(after));
    await first.chat.stop();
    await asked;
    const second = open({ id, messages });
    await second.chat.resumeStream();
    return told(second);
  },
  async only_resume({ id, messages }) {
    const open_chat = open({ id, messages });
    await open_chat.chat.resumeStream();
    return told(open_chat);
  },
  // The page's own stop(), once the words `after` have come; then what it asks after that.
  async stop({ id, say, after, then }) {
    const open_chat = open({ id });
    const { chat } = open_chat;
    const asked = chat.sendMessage({ text: say });
    await until(() => (after === "" ? chat.lastMessage?.role === "assistant" : words(chat).includes(after)));
    await chat.stop();
    await asked;
    const kept = structuredClone(chat.messages);
    if (then) await chat.sendMessage({ text: then });
    return { kept, ...told(open_chat) };
  },
  // A page that may come back says so, and then says so too when it stops.
  async stop_resumable({ id, say, after }) {
    const open_chat = open({ id, body: { resumable: true } });
    const asked = open_chat.chat.sendMessage({ text: say });
    await until(() => words(open_chat.chat).includes(after));
    await open_chat.chat.stop();
    const response = await fetch(`${api}/${encodeURIComponent(id)}/stop`, { method: "POST" });
    await asked;
    return { answer: await response.json(), ...told(open_chat) };
  },
  // Somebody else stops it, or another tab does.
  async stopped({ id, say, after }) {
    const open_chat = open({ id });
    const asked = open_chat.chat.sendMessage({ text: say });
    await until(() => words(open_chat.chat).includes(after));
    const response = await fetch(`${api}/${encodeURIComponent(id)}/stop`, { method: "POST" });
    await asked;
    return { answer: await response.json(), ...told(open_chat) };
  },
  // A second question in the same chat, from another tab, while the first answer runs.
  async again({ id, say, after, then }) {
    const first = open({ id });
    const asked = first.chat.sendMessage({ text: say });
    await until(() => words(first.chat).includes(after));
    const second = open({ id });
    await second.chat.sendMessage({ text: then });
    await asked;
    return { first: told(first), second: told(second) };
  },
};

// At once: each is a chat of its own, and rests between the reads of its answer.
console.log(JSON.stringify(await Promise.all(cases.map((asked) => ways[asked.way](asked)))));
