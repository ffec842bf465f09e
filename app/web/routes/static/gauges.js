// The live figures of a running stream: asked for while it runs, put into words, and called stale once they are.
const EVERY_MS = 700;
const STALE_MS = 3000;
const TIMEOUT_MS = 5000; // of a request whose connection may be dead
const MOST_TRIES = 30;

// Tells `standing` of each request and of what came of it until the returned function is called: figures with `at`, the
// page's time; null where the service has no such stream any more.
export function watch(handle, standing, { url, key }) {
  let over = false;
  let timer = 0;
  async function look() {
    try {
      if (handle.id && (handle.state === "open" || handle.state === "detached")) {
        const askedAt = performance.now();
        standing.asked(askedAt);
        const response = await ask(`${url}/${handle.id}/gauges`, key);
        const figures = response.status === 200 ? { ...(await response.json()), at: performance.now() } : null;
        if (figures || response.status === 204) standing.answered(figures, askedAt);
        else if (response.status < 500) standing.heard();
      }
    } catch {
      // The stream itself says what is wrong with the network.
    }
    if (!over) timer = setTimeout(look, EVERY_MS);
  }
  timer = setTimeout(look, 300);
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

function ask(url, key, stopToken) {
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(stopToken && { "X-Stop-Token": stopToken }) };
  return fetch(url, { method: stopToken ? "POST" : "GET", headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
}

// Whether the service says that a stopped stream has ended. While it does not it is told again, for some minutes: what told
// it first may have been lost with the network.
export async function hasEnded({ id, stopToken }, { url, key }) {
  for (let tries = 0; tries < MOST_TRIES; tries += 1) {
    try {
      if ((await ask(`${url}/${id}/gauges`, key)).status === 204) return true;
      await ask(`${url}/${id}/stop`, key, stopToken);
    } catch {
      // Not reached: once more.
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(EVERY_MS * 1.5 ** tries, 10_000)));
  }
  return false;
}

export const isStale = (figures, now) => now - figures.at > STALE_MS;

// How much of the time between two figures Claude was held still, from 0 to 1.
export function heldShare(figures, before) {
  if (figures.at <= before.at) return figures.paused ? 1 : 0;
  return Math.min(1, (1000 * (figures.paused_s - before.paused_s)) / (figures.at - before.at));
}

// One unit for all of them, so that they can be compared by a look.
export function dollars(usd) {
  if (usd === null || usd === undefined) return "–";
  if (usd > 0 && usd < 0.0001) return "< $0.0001";
  return `$${usd.toFixed(usd > 0 && usd < 0.1 ? 4 : 2)}`;
}

// What stopping now saves: the figure, and what stands behind it.
export function saving({ saved_usd: likely, saved_usd_upper: most }) {
  if (most === null) return ["no price", "This model is in no price table."];
  if (most === 0) return [dollars(0), "Nothing: this answer is billed as a whole, or is as long as it may be."];
  const bound = `At most ${dollars(most)}, should it grow to its longest.`;
  if (likely === null) return ["not known", `Too few answers have finished to estimate it. ${bound}`];
  return [`≈ ${dollars(likely)}`, `An estimate, from answers that finished. ${bound}`];
}
