import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Bench, resultOf } from "./support/bench.ts";
import { startSystem } from "./support/system.ts";
import type { Sql } from "../src/client.ts";

const DATA = JSON.stringify({
  from: "somebody@example.com",
  to: "another@example.com",
  subject: "A subject of ordinary length",
  text: "A body of some words, to give it a size that is usual for a notification.",
});
const ENVELOPE = `{"event": "email.received", "id": "evt_${"0".repeat(32)}", "created_at": "2026-01-01T00:00:00.000000Z", "data": ${DATA}}`;

/** What a row of events has beside its id and envelope, in bytes of a row of `bare`. */
const REST = "x".repeat(78);
const BARE = `insert into bare (id, body) values (webhookpub.random_event_id(), '${ENVELOPE}${REST}');`;
const PUBLISH = `select webhook_publish_tx('email.received', 'user_1', '${DATA}');`;

/**
 * TPS of webhook_publish_tx while a fan-out is awake, against a bare insert of one row of
 * the same size with an id of the same kind as its primary key.
 */
export const publish: Bench = async ({ rounds, small, say }) => {
  const pgbench = findPgbench();
  const system = await startSystem();
  const directory = await mkdtemp(join(tmpdir(), "webhookpub-bench-"));
  try {
    const { sql } = system;
    await sql`create table bare (id text primary key, body text not null)`;
    const awake = await sql.reserve();
    await awake`select webhookpub.enter_fan_out()`;

    const scripts = { bare: BARE, publish: PUBLISH };
    for (const [name, text] of Object.entries(scripts)) {
      await writeFile(join(directory, `${name}.sql`), text);
    }
    const tps = async (name: string, clients: number): Promise<number> => {
      await sql`truncate bare, webhookpub.events, webhookpub.envelopes`;
      await sql`checkpoint`;
      const script = join(directory, `${name}.sql`);
      const seconds = small ? "1" : "5";
      const { stdout } = await promisify(execFile)(pgbench, [
        "-n",
        "-M",
        "prepared",
        "-c",
        `${clients}`,
        "-j",
        "2",
        "-T",
        seconds,
        "-f",
        script,
        system.url,
      ]);
      return Number(/tps = ([0-9.]+)/.exec(stdout)?.[1]);
    };

    const results = [];
    await sizesAgree(sql, scripts);
    for (const clients of [1, 8, 32]) {
      const measured: [number, number][] = [];
      for (let round = 0; round < rounds; round += 1) {
        const baseline = await tps("bare", clients);
        measured.push([await tps("publish", clients), baseline]);
        say(
          `  ${clients} clients: publish ${measured.at(-1)?.[0].toFixed(0)}, bare ${baseline.toFixed(0)} TPS`,
        );
      }
      results.push(
        resultOf(`publish, ${clients} clients`, "TPS", measured, {
          atLeast: clients === 1 ? 0.5 : 0.65,
        }),
      );
    }
    awake.release();
    return results;
  } finally {
    await system.remove();
    await rm(directory, { recursive: true });
  }
};

/** Both rows must be as large, or the baseline is none. */
async function sizesAgree(sql: Sql, scripts: { bare: string; publish: string }): Promise<void> {
  await sql.unsafe(scripts.bare);
  await sql.unsafe(scripts.publish);
  const [size] = await sql<[{ bare: number; event: number }]>`
    select
      (select pg_column_size(b) from bare as b limit 1) as bare,
      (select pg_column_size(e) from webhookpub.events as e limit 1) as event`;
  if (Math.abs(size.bare - size.event) > 16) {
    throw new Error(`a row of bare has ${size.bare} bytes, one of events ${size.event}`);
  }
}

/** pgbench of the system: the embedded PostgreSQL comes without. */
function findPgbench(): string {
  const debian = "/usr/lib/postgresql";
  const folders = [
    ...(process.env["PATH"] ?? "").split(":"),
    ...(existsSync(debian)
      ? readdirSync(debian).map((version) => join(debian, version, "bin"))
      : []),
  ];
  const found = folders.map((folder) => join(folder, "pgbench")).find((path) => existsSync(path));
  if (found === undefined)
    throw new Error("pgbench is needed: install your system's PostgreSQL client");
  return found;
}
