// The live figures of a running stream, asked for once a second and only while it runs.
const EVERY_MS = 1000;

// Calls `show(figures)` until the returned function is called; figures are null where there are none.
export function watch(handle, { url, key, show }) {
  let over = false;
  let timer = 0;
  async function ask() {
    let figures = null;
    try {
      if (handle.id && handle.state === "open") {
        const headers = key ? { Authorization: `Bearer ${key}` } : {};
        const response = await fetch(`${url}/${handle.id}/gauges`, { headers, cache: "no-store" });
        if (response.status === 200) figures = await response.json();
      }
    } catch {
      // The stream itself says what is wrong with the network.
    }
    if (over) return;
    if (figures) show(figures);
    timer = setTimeout(ask, EVERY_MS);
  }
  timer = setTimeout(ask, 300);
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

export function dollars(usd) {
  if (usd === null || usd === undefined) return "–";
  if (usd === 0) return "$0";
  return usd < 0.01 ? `${(usd * 100).toFixed(3)} ¢` : `$${usd.toFixed(usd < 1 ? 4 : 2)}`;
}
