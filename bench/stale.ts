import type { Sql } from "../src/client.ts";
import { type Bench, resultOf } from "./support/bench.ts";
import { clear, drainFanOut, drainLeases, publishEvents, subscribe } from "./support/load.ts";
import { startSystem } from "./support/system.ts";

const TABLES = ["events", "envelopes", "deliveries", "attempts", "webhooks", "secrets"];

/**
 * Fan-out and lease with statistics that were taken when all tables were empty, against
 * fresh ones, in sessions that go on: plans that they keep are from then, too.
 */
export const stale: Bench = async ({ rounds, small, say }) => {
  const events = small ? 1000 : 20_000;
  const system = await startSystem({ settings: ["autovacuum=off"] });
  const { sql } = system;
  try {
    const measure = async (analyze: "when empty" | "when full") => {
      await clear(sql);
      await sql`truncate webhookpub.webhooks, webhookpub.secrets`;
      if (analyze === "when empty") await analyzeAll(sql);
      await subscribe(sql);
      await publishEvents(sql, events);
      if (analyze === "when full") await analyzeAll(sql);
      await sql`checkpoint`;
      const fannedOut = await drainFanOut(sql);
      if (analyze === "when full") await analyzeAll(sql);
      await sql`checkpoint`;
      return { fannedOut: fannedOut * 3, leased: await drainLeases(sql) };
    };
    const fanOuts: [number, number][] = [];
    const leases: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      const empty = await measure("when empty");
      const full = await measure("when full");
      fanOuts.push([empty.fannedOut, full.fannedOut]);
      leases.push([empty.leased, full.leased]);
      say(
        `  stale: ${empty.fannedOut.toFixed(0)} fanned out, ${empty.leased.toFixed(0)} leased/s; ` +
          `fresh: ${full.fannedOut.toFixed(0)}, ${full.leased.toFixed(0)}`,
      );
    }
    return [
      resultOf("fan-out, stale statistics", "per second", fanOuts, { atLeast: 0.8 }),
      resultOf("lease and record, stale statistics", "per second", leases, { atLeast: 0.8 }),
    ];
  } finally {
    await system.remove();
  }
};

async function analyzeAll(sql: Sql): Promise<void> {
  for (const table of TABLES) await sql`analyze webhookpub.${sql(table)}`;
}
