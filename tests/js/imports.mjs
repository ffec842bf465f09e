// Imports a module of the package where there is neither window nor document, renders its hook as a server does, and says
// what it exports and what it touched of a browser.
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { text } from "node:stream/consumers";

const touched = [];
for (const name of ["window", "document", "navigator", "sessionStorage", "requestAnimationFrame", "fetch", "addEventListener"]) {
  Object.defineProperty(globalThis, name, {
    configurable: true,
    get() {
      touched.push(name);
    },
  });
}
const { client, react } = JSON.parse(await text(process.stdin));
const { useStream } = await import(react);
const exported = Object.keys(await import(client)).sort();
function Answer() {
  const { state, text } = useStream({ save: "chat" });
  return createElement("p", null, state, text);
}
console.log(JSON.stringify({ exported, html: renderToString(createElement(Answer)), touched }));
