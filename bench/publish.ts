import { type Bench, resultOf } from "./support/bench.ts";
import { DATA, PUBLISH } from "./support/load.ts";
import { pgbench } from "./support/pgbench.ts";
import { startSystem } from "./support/system.ts";
import type { Sql } from "../src/database/connect.ts";

const ENVELOPE = `{"event": "email.received", "id": "evt_${"0".repeat(32)}", "created_at": "2026-01-01T00:00:00.000000Z", "data": ${DATA}}`;

/** What a row of events has beside its id and envelope, in bytes of a row of `bare`. */
const REST = "x".repeat(78);
const SCRIPTS = {
  bare: `insert into bare (id, body) values (webhookpub.random_event_id(), '${ENVELOPE}${REST}');`,
  // As what comes of a message's is: a hash.
  "bare, by a hash": `insert into bare (id, body)
values ('evt_' || encode(gen_random_bytes(16), 'hex'), '${ENVELOPE}${REST}');`,
  publish: PUBLISH,
  // What triggers do: an id that comes of a message's.
  "with message_id": `\\set n random(1, 1000000000000)
${PUBLISH.replace(/\);$/, ", message_id => 'msg_' || :n);")}`,
  "with add_job": PUBLISH.replace("webhook_publish_tx", "publish_and_add_job"),
};

/**
 * TPS of webhook_publish_tx while a fan-out is awake, against a bare insert of one row of
 * the same size with an id of the same kind as its primary key, and against the same
 * function with graphile-worker's add_job in it.
 */
export const publish: Bench = async ({ rounds, small, say }) => {
  const system = await startSystem();
  try {
    const { sql } = system;
    await sql`create table bare (id text primary key, body text not null)`;
    await addJobToPublish(sql);
    const awake = await sql.reserve();
    await awake`select webhookpub.enter_fan_out()`;
    await awake`set idle_session_timeout = 0`;
    await sizesAgree(sql);

    const tps = async (name: keyof typeof SCRIPTS, clients: number) => {
      await sql`truncate bare, webhookpub.events, webhookpub.envelopes`;
      await sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
      await sql`checkpoint`;
      const load = { script: SCRIPTS[name], clients, seconds: small ? 1 : 5 };
      return (await pgbench(system.url, load)).tps;
    };
    const results = [];
    for (const clients of [1, 8, 32]) {
      const measured: [number, number][] = [];
      const jobs: [number, number][] = [];
      const named: [number, number][] = [];
      for (let round = 0; round < rounds; round += 1) {
        const baseline = await tps("bare", clients);
        const published = await tps("publish", clients);
        measured.push([published, baseline]);
        if (clients === 8) {
          jobs.push([published, await tps("with add_job", clients)]);
          named.push([
            await tps("with message_id", clients),
            await tps("bare, by a hash", clients),
          ]);
        }
        say(
          `  ${clients} clients: publish ${published.toFixed(0)}, bare ${baseline.toFixed(0)} TPS` +
            (clients === 8
              ? `, with message_id ${named.at(-1)?.[0].toFixed(0)}, with add_job ${jobs.at(-1)?.[1].toFixed(0)}`
              : ""),
        );
      }
      results.push(resultOf(`publish, ${clients} clients`, "TPS", measured, { atLeast: 0.75 }));
      if (clients === 8) {
        results.push(resultOf("publish with message_id", "TPS", named, { atLeast: 0.7 }));
        results.push(resultOf("publish against add_job in it", "TPS", jobs, { atLeast: 5 }));
      }
    }
    awake.release();
    return results;
  } finally {
    await system.remove();
  }
};

/** The same function under another name, which adds a job before it returns. */
async function addJobToPublish(sql: Sql): Promise<void> {
  const [{ definition }] = await sql<[{ definition: string }]>`
    select pg_get_functiondef('webhook_publish_tx'::regproc) as definition`;
  const changed = definition
    .replaceAll("webhook_publish_tx", "publish_and_add_job")
    .replaceAll("return v_id;", "perform graphile_worker.add_job('webhook_fan_out'); return v_id;");
  await sql.unsafe(changed);
  await sql.unsafe(SCRIPTS["with add_job"]);
  const jobs = await sql`select from graphile_worker.jobs`;
  if (jobs.count !== 1) throw new Error("the variant adds no job");
}

/** Both rows must be as large, or the baseline is none. */
async function sizesAgree(sql: Sql): Promise<void> {
  await sql`truncate webhookpub.events`;
  await sql.unsafe(SCRIPTS.bare);
  await sql.unsafe(SCRIPTS.publish);
  const [size] = await sql<[{ bare: number; event: number }]>`
    select
      (select pg_column_size(b) from bare as b limit 1) as bare,
      (select pg_column_size(e) from webhookpub.events as e limit 1) as event`;
  if (Math.abs(size.bare - size.event) > 16) {
    throw new Error(`a row of bare has ${size.bare} bytes, one of events ${size.event}`);
  }
}
