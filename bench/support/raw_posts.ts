// The baseline of `deliver`: POSTs by undici.request and nothing else.
// Arguments: URL, how many, how many at once. Prints requests per second.
import { Agent } from "undici";

const [target = "", count = "0", width = "1"] = process.argv.slice(2);
const url = new URL(target);
const agent = new Agent();
const body = JSON.stringify({
  event: "email.received",
  id: `evt_${"0".repeat(32)}`,
  created_at: "2026-01-01T00:00:00.000000Z",
  data: { subject: "A subject of ordinary length", text: "x".repeat(300), n: 12345 },
});
let left = Number(count);

const begun = performance.now();
await Promise.all(
  Array.from({ length: Number(width) }, async () => {
    while (left-- > 0) {
      const response = await agent.request({
        origin: url.origin,
        path: url.pathname,
        method: "POST",
        headers: { "content-type": "application/json", "accept-encoding": "identity" },
        body,
      });
      await response.body.text();
    }
  }),
);
console.log((Number(count) * 1000) / (performance.now() - begun));
await agent.close();
