import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "graphile-worker";
import postgres from "postgres";
import { processSettings } from "./config.ts";
import { type Cluster, startPostgres, STOP_MS } from "./database/embedded_postgres.ts";
import { takeFolder } from "./database/calls.ts";
import { connect, type Sql } from "./database/connect.ts";
import { targetOf } from "./database/dial.ts";
import { codeOf, messageOf, WebhookpubError } from "./errors.ts";
import { makeLogger } from "./log.ts";
import "./memory.ts";
import { migrate } from "./migrate.ts";
import preset, { checkConnection } from "./preset.ts";

const { WEBHOOKPUB_LOG: format } = processSettings();
const logger = makeLogger(format);
/** What this command says itself: plain for people. */
const say = (line: string) => (format === "json" ? logger.info(line) : console.log(line));

const LOOK_MS = 200;

/** A database to work on, until it is let go. */
interface Place {
  readonly url: string;
  release(): Promise<void>;
}

/**
 * Migrates the database of DATABASE_URL, or an embedded one in this folder, and runs a worker
 * until a signal comes; resolves to the exit code.
 *
 * @param migrating false: it is as new as it has to be, or the worker does not start
 * @throws WebhookpubError WH030 when another runs in this folder, which it does not touch.
 */
export async function startHere({ migrating }: { migrating: boolean }): Promise<number> {
  // What is wrong there is said before anything is touched.
  processSettings();
  const stopped = new Promise<string>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => resolve(signal));
  });
  const url = process.env["DATABASE_URL"];
  const place = url ? { url, release: async () => {} } : await embedded();
  try {
    say(`psql "${withoutPassword(place.url)}"`);
    if (migrating) await migrate(place.url, say);
    return await work(place.url, stopped);
  } finally {
    await place.release();
  }
}

async function work(url: string, stopped: Promise<string>): Promise<number> {
  await checkConnection(url);
  const options = {
    preset: { extends: [preset], worker: { connectionString: url } },
    taskDirectory: join(import.meta.dirname, "..", "tasks"),
    noHandleSignals: true,
  };
  // No crontab: one in this folder is a host's.
  const runner = await run(options, undefined, []);
  const ended = runner.promise.then(
    () => "the worker pool ended by itself",
    (error: unknown) => `the worker pool ended: ${messageOf(error)}`,
  );
  const signal = await Promise.race([stopped, ended.then(() => undefined)]);
  if (signal === undefined) {
    logger.error(await ended);
    return 1;
  }
  say(`${signal}: finishing what is under way`);
  await runner.stop();
  await ended;
  return 0;
}

/** The PostgreSQL of this folder, which only one process uses and stops. */
async function embedded(): Promise<Place> {
  const { cluster, sql, holder } = await reachEmbedded();
  if (holder !== undefined) {
    await sql.end();
    throw new WebhookpubError(
      "WH030",
      `webhookpub runs in this folder already, as process ${holder}`,
      `Look with psql "${cluster.url}", stop that one first, or set DATABASE_URL.`,
    );
  }
  return { url: cluster.url, release: () => letGo(sql, cluster) };
}

/** That PostgreSQL, a session there, and the process that uses it already. */
async function reachEmbedded() {
  const directory = join(process.cwd(), ".webhookpub", "data");
  const begun = performance.now();
  for (let told = false; ; told = true) {
    const cluster = await startPostgres({ directory });
    const sql = connect(cluster.url, { max: 1, max_lifetime: null });
    try {
      return { cluster, sql, holder: await takeFolder(sql, process.pid) };
    } catch (error) {
      await sql.end();
      // Whoever ran here was stopped a moment ago: its server ends, and is started again.
      const isOver = performance.now() - begun > STOP_MS;
      if (isOver || !isStartingOrStopping(error)) throw error;
      if (!told) say(`PostgreSQL starts or stops (${messageOf(error)}): waiting for it`);
      await sleep(LOOK_MS);
    }
  }
}

/** Then a server says so, or breaks off what was begun, or is not even heard. */
const isStartingOrStopping = (error: unknown) =>
  !(error instanceof postgres.PostgresError) || codeOf(error).startsWith("57P0");

async function letGo(sql: Sql, cluster: Cluster): Promise<void> {
  await sql.end({ timeout: 1 });
  await cluster.stop();
}

/** The connection string for psql; it asks for the password, or knows it. */
function withoutPassword(text: string): string {
  const { password } = targetOf(text);
  const hidden = [`:${encodeURIComponent(password)}@`, `password=${password}`];
  return password === "" ? text : text.replace(hidden[0] ?? "", "@").replace(hidden[1] ?? "", "");
}
