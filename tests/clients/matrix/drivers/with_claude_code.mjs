// Claude Code's `-p`, in a folder and a home of its own, with one tool that it may run without asking.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { KEY, MODEL, STREAMED, drive } from "./drive.mjs";

const platform = `@anthropic-ai/claude-code-${process.platform}-${process.arch}`;
const program = ["", "-musl"]
  .map((libc) => join(process.cwd(), "node_modules", platform + libc, "claude"))
  .find((path) => existsSync(path));

async function print(ask) {
  const home = mkdtempSync(join(tmpdir(), "claude-code-"));
  const env = {
    PATH: process.env.PATH,
    HOME: home,
    ANTHROPIC_BASE_URL: ask.url,
    ANTHROPIC_API_KEY: KEY,
    ANTHROPIC_MODEL: MODEL,
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
    CLAUDE_CODE_MAX_RETRIES: "2",
    IS_SANDBOX: "1",
  };
  const words = ["-p", ask.prompt, "--output-format", "stream-json", "--verbose", "--allowedTools", "Bash(echo:*)"];
  const child = spawn(program, words, { cwd: home, env, stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise((resolve) => child.on("close", resolve));
  const clock = setTimeout(() => child.kill("SIGKILL"), 90_000);
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
  ask.saw.exit = await ended;
  clearTimeout(clock);
  rmSync(home, { recursive: true, force: true });
  for (const line of out.split("\n").filter(Boolean)) {
    const told = JSON.parse(line);
    if (told.type === "assistant" || told.type === "user") {
      (ask.saw.turns ??= []).push({ type: told.type, content: told.message.content, stop: told.message.stop_reason });
    }
    if (told.type === "result") {
      const { subtype, is_error, result, num_turns, stop_reason, total_cost_usd, usage } = told;
      ask.saw.result = { subtype, is_error, result, num_turns, stop_reason, total_cost_usd, usage };
    }
  }
  if (err) ask.saw.said = err.slice(0, 800);
}

await drive({ print: [print, STREAMED] }, { at_a_time: 2 });
