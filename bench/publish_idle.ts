import { setTimeout as sleep } from "node:timers/promises";
import { until } from "../test/support/until.ts";
import { type Bench, resultOf, resultWithin } from "./support/bench.ts";
import { PUBLISH, subscribe } from "./support/load.ts";
import { pgbench } from "./support/pgbench.ts";
import { startSystem, type System } from "./support/system.ts";

const TICK_MS = 1000;

/**
 * Publishing while no fan-out is awake: TPS against that with one awake, how often a
 * publisher is seen to wait for another, and how long the first event takes to be fanned
 * out by a worker that sleeps, against the tick that would find it in the end.
 */
export const publishIdle: Bench = async ({ rounds, small, say }) => {
  const system = await startSystem();
  const { sql } = system;
  try {
    await subscribe(sql, { users: 1 });
    const load = { script: PUBLISH, clients: 8, seconds: small ? 1 : 5 };
    const tps = async () => {
      await sql`truncate webhookpub.events`;
      await sql`checkpoint`;
      return (await pgbench(system.url, load)).tps;
    };
    const measured: [number, number][] = [];
    const waits: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      const awake = await sql.reserve();
      await awake`select webhookpub.enter_fan_out()`;
      await awake`set idle_session_timeout = 0`;
      const baseline = await tps();
      await awake`select webhookpub.leave_fan_out()`;
      awake.release();
      const watching = watch(system);
      measured.push([await tps(), baseline]);
      waits.push(await watching.stop());
      say(
        `  asleep ${measured.at(-1)?.[0].toFixed(0)}, awake ${baseline.toFixed(0)} TPS; ` +
          `${waits.at(-1)?.[0]} of ${waits.at(-1)?.[1]} looks at a publisher found it waiting`,
      );
    }

    await sql`truncate webhookpub.events`;
    const stop = await system.startWorker();
    const woken: number[] = [];
    for (let i = 0; i < (small ? 3 : 10); i += 1) {
      await until(() => isAsleep(system), "the fan-out to fall asleep");
      // Anywhere between two ticks.
      await sleep(Math.random() * TICK_MS);
      const begun = performance.now();
      await sql.unsafe(PUBLISH);
      await until(
        async () => (await sql`select from webhookpub.events where status = 'pending'`).count === 0,
        "the fan-out",
      );
      woken.push(performance.now() - begun);
    }
    await stop();
    return [
      resultOf("publish, no fan-out awake", "TPS", measured, { atLeast: 0.75 }),
      resultOf("publishers that wait for one", "looks", waits, { atMost: 0.01 }),
      resultWithin("first event to fan-out", woken, TICK_MS / 4),
    ];
  } finally {
    await system.remove();
  }
};

async function isAsleep({ sql }: System): Promise<boolean> {
  const [row] = await sql<[{ asleep: boolean }]>`
    select webhookpub.fan_out_is_asleep() as asleep`;
  return row.asleep;
}

/** Looks at the publishers again and again: how often one waits for a lock of another. */
function watch({ sql }: System): { stop(): Promise<[number, number]> } {
  let watched = true;
  const looking = (async (): Promise<[number, number]> => {
    let waiting = 0;
    let looks = 0;
    while (watched) {
      // Extending a file is no lock that a publisher holds: any insert waits for it.
      const [seen] = await sql<[{ waiting: number; looks: number }]>`
        select
          count(*) filter (where wait_event_type = 'Lock' and wait_event <> 'extend')::int
            as waiting,
          count(*)::int as looks
        from pg_stat_activity
        where application_name = 'pgbench'`;
      waiting += seen.waiting;
      looks += seen.looks;
      await sleep(2);
    }
    return [waiting, looks];
  })();
  return {
    async stop() {
      watched = false;
      return await looking;
    },
  };
}
