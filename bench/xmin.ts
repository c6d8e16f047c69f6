import { setTimeout as sleep } from "node:timers/promises";
import { type Bench, resultOf } from "./support/bench.ts";
import { clear, drainFanOut, drainLeases, publishEvents, subscribe } from "./support/load.ts";
import { startSystem } from "./support/system.ts";

/**
 * Fan-out and lease while an idle transaction holds the horizon, so that no dead row or
 * index entry can be forgotten, after minutes of ordinary work; against those before.
 */
export const xmin: Bench = async ({ rounds, small, say }) => {
  const seconds = small ? 5 : 300;
  const perSecond = 200;
  const events = small ? 500 : 5000;
  const system = await startSystem();
  const { sql } = system;
  try {
    await subscribe(sql);
    const measure = async () => {
      await publishEvents(sql, events);
      const fannedOut = (await drainFanOut(sql)) * 3;
      return { fannedOut, leased: await drainLeases(sql) };
    };
    const fanOuts: [number, number][] = [];
    const leases: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await clear(sql);
      await measure();
      const before = await measure();
      const holder = await sql.reserve();
      await holder`begin isolation level repeatable read`;
      await holder`select from webhookpub.settings`;
      const end = performance.now() + seconds * 1000;
      let worked = 0;
      while (performance.now() < end) {
        const next = performance.now() + 500;
        await publishEvents(sql, perSecond / 2);
        await drainFanOut(sql);
        await drainLeases(sql);
        worked += perSecond / 2;
        await sleep(Math.max(0, next - performance.now()));
      }
      const after = await measure();
      await holder`rollback`;
      holder.release();
      fanOuts.push([after.fannedOut, before.fannedOut]);
      leases.push([after.leased, before.leased]);
      say(
        `  after ${worked} events in ${seconds} s: ${after.fannedOut.toFixed(0)} fanned out, ` +
          `${after.leased.toFixed(0)} leased/s; before: ${before.fannedOut.toFixed(0)}, ` +
          `${before.leased.toFixed(0)}`,
      );
    }
    return [
      resultOf("fan-out, horizon held", "per second", fanOuts, { atLeast: 0.7 }),
      resultOf("lease and record, horizon held", "per second", leases, { atLeast: 0.7 }),
    ];
  } finally {
    await system.remove();
  }
};
