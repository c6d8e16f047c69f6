import { existsSync } from "node:fs";
import { devNull } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { WorkerPreset } from "graphile-worker";
import { processSettings } from "./config.ts";
import { refuseTransactionPooler } from "./database/pooler.ts";
import { makeLogger } from "./log.ts";
import { WebhookpubPlugin } from "./plugin.ts";
import { checkJobs } from "./graphile_worker.ts";
import { plainly } from "./refusal.ts";

/** Jobs that run at once. One ends as soon as what it asks for is under way. */
const JOBS = 50;

/** A host's own tasks, where graphile-worker looks for them; where there are none, ours. */
const taskDirectory = [join(process.cwd(), "tasks")].find((path) => existsSync(path));

/**
 * webhookpub in a graphile-worker: for `extends` in a `graphile.config.ts`. It brings its tasks
 * and its upkeep; the host's tasks, crontab, plugins and settings stand beside it, and what the
 * host sets wins.
 */
const preset: GraphileConfig.Preset = {
  extends: [WorkerPreset],
  plugins: [WebhookpubPlugin],
  worker: {
    logger: makeLogger(processSettings().WEBHOOKPUB_LOG),
    // Where there is none, graphile-worker would say that it failed to read it.
    ...(!existsSync(join(process.cwd(), "crontab")) && { crontabFile: devNull }),
    taskDirectory: taskDirectory ?? fileURLToPath(new URL("../tasks", import.meta.url)),
    concurrentJobs: JOBS,
    // Jobs are only wake-ups: fetched in batches, completed in batches. Without the
    // batching, a stop leaves jobs locked.
    localQueue: { size: JOBS },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    // A bound that graphile-worker wants; batching leaves it at two or three.
    maxPoolSize: JOBS,
  },
};

export default preset;

/**
 * Comes to the database as a worker's sessions do. Where graphile-worker would print a stack, this
 * says in a sentence what is wrong, and what to do; then, too, it knows whether the server has TLS,
 * and which of several can be written to.
 *
 * @param url connection string; by default what graphile-worker's command line has, which need not be
 *   that of the environment, or else DATABASE_URL, or the PG* variables
 */
export async function checkConnection(url = connectionOf(process.argv)): Promise<void> {
  if (!url && !process.env["PGDATABASE"]) return;
  await plainly(async () => {
    await refuseTransactionPooler(url);
    await checkJobs(url);
  });
}

function connectionOf([, program = "", ...args]: readonly string[]): string | undefined {
  // To another program, -c may mean anything.
  if (!/\bgraphile-worker(?:\/dist\/cli\.js)?$/.test(program)) return process.env["DATABASE_URL"];
  const { connection } = parseArgs({
    args,
    options: { connection: { type: "string", short: "c" } },
    strict: false,
  }).values;
  return typeof connection === "string" ? connection : process.env["DATABASE_URL"];
}
