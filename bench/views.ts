import { writeHistory } from "../test/support/history.ts";
import { explained } from "../test/support/plans.ts";
import { usualQuestions } from "../test/support/questions.ts";
import { type Bench, type Result, resultWithin } from "./support/bench.ts";
import { startSystem } from "./support/system.ts";

const GOAL_MS = 50;

/**
 * How long the views take to answer their usual questions on a million deliveries, planning
 * included, against the 50 ms that they may take.
 */
export const views: Bench = async ({ rounds, small, say }) => {
  const system = await startSystem();
  try {
    const { sql } = system;
    const events = small ? 33_334 : 333_334;
    await writeHistory(sql, { events, users: 100, days: 25 });
    await sql`vacuum analyze`;
    say(`  ${events * 3} deliveries to 300 webhooks in 25 days, 3 % of them pending`);
    const questions = await usualQuestions(sql);
    // As monitoring asks: with row-level security.
    const session = await sql.reserve();
    await session`set role webhookpub_readonly`;
    const results: Result[] = [];
    for (const { what, query } of questions) {
      const measured: number[] = [];
      let shown = "";
      // The first time loads the catalog and the pages.
      for (let round = -1; round < rounds; round += 1) {
        const { ms, rows, buffers, readThrough } = await explained(session, query);
        if (readThrough.length > 0) throw new Error(`${what}: ${readThrough.join()}`);
        if (round >= 0) measured.push(ms);
        shown = `${rows} rows, ${buffers} pages`;
      }
      results.push(resultWithin(`${what} (${shown})`, measured, GOAL_MS));
    }
    await session`reset role`;
    session.release();
    return results;
  } finally {
    await system.remove();
  }
};
