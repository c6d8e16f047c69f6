import { join } from "node:path";
import { run } from "graphile-worker";
import preset from "../graphile.config.ts";
import { root } from "./config.ts";
import { type Cluster, startPostgres } from "./database/embedded_postgres.ts";
import { messageOf, WebhookpubError } from "./errors.ts";
import { migrate } from "./migrate.ts";

const USAGE = `npm start: migrates the database and runs a worker until it is stopped.

DATABASE_URL              the database; without it, an embedded PostgreSQL in .webhookpub/
WEBHOOKPUB_JOBS           jobs that run at once (50)
WEBHOOKPUB_MAX_IN_FLIGHT  requests under way at once (1000)
WEBHOOKPUB_CONNECTIONS    connections for leasing and recording (4)`;

/** Runs until a signal comes; resolves to the exit code. */
async function start(): Promise<number> {
  const stopped = new Promise<string>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => resolve(signal));
  });
  let cluster: Cluster | undefined;
  try {
    let url = process.env["DATABASE_URL"];
    if (!url) {
      cluster = await startPostgres({ directory: join(root, ".webhookpub", "data") });
      url = cluster.url;
    }
    console.log(`psql "${withoutPassword(url)}"`);
    await migrate(url);

    const runner = await run({
      preset: { extends: [preset], worker: { connectionString: url } },
      taskDirectory: join(root, "tasks"),
      crontabFile: join(root, "crontab"),
      noHandleSignals: true,
    });
    const ended = runner.promise.then(
      () => "the worker pool ended by itself",
      (error: unknown) => `the worker pool ended: ${messageOf(error)}`,
    );
    const signal = await Promise.race([stopped, ended.then(() => undefined)]);
    if (signal === undefined) {
      console.error(await ended);
      return 1;
    }
    console.log(`${signal}: finishing what is under way`);
    await runner.stop();
    await ended;
    return 0;
  } catch (error) {
    console.error(error instanceof WebhookpubError ? error.report() : error);
    return 1;
  } finally {
    await cluster?.stop();
  }
}

function withoutPassword(text: string): string {
  const url = new URL(text);
  url.password = "";
  return url.href;
}

if (process.argv.includes("--help")) console.log(USAGE);
else process.exit(await start());
