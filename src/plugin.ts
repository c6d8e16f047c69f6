import { setTimeout as sleep } from "node:timers/promises";
import type { Logger, TaskList } from "graphile-worker";
import webhookDeliver from "../tasks/webhook_deliver.ts";
import webhookFanOut from "../tasks/webhook_fan_out.ts";
import webhookMaintain from "../tasks/webhook_maintain.ts";
import { databaseUrl } from "./config.ts";
import { pgUrl } from "./database/dial.ts";
import type { Log } from "./log.ts";
import { refuseBreakingUpgrade } from "./graphile_worker.ts";
import { letStop } from "./local_queue.ts";
import { endWithParent } from "./orphan.ts";
import { plainly, reportOf } from "./refusal.ts";
import { version } from "./version.ts";
import { watchRunner } from "./watch.ts";
import { startWorker, type Worker } from "./worker.ts";

const started = new WeakMap<object, Promise<Worker | undefined>>();
/** What a runner says when somebody tells it to stop. */
const TOLD = ["gracefulShutdown", "forcefulShutdown", "stop"] as const;
/** The events of runners that somebody has told to stop. */
const stopped = new WeakSet<object>();
/** Of those that were told again, and are not to wait for anything. */
const forced = new WeakSet<object>();

/** Those of tasks/, for a host whose task directory is its own. */
const tasks: TaskList = {
  webhook_deliver: webhookDeliver,
  webhook_fan_out: webhookFanOut,
  webhook_maintain: webhookMaintain,
};

/** A runner's logger, as ours. */
const logOf = (logger: Logger): Log => ({
  debug: (message, fields) => logger.debug(message, fields),
  info: (message, fields) => logger.info(message, fields),
  warn: (message, fields) => logger.warn(message, fields),
  error: (message, fields) => logger.error(message, fields),
});

/** How long a runner may take to give its jobs back, after all else has ended. */
const GIVE_BACK_MS = 1000;

/**
 * Ends the process when its runner does not: it waits for an answer that will not come, and so
 * would whoever waits for it.
 */
async function endIfHung(runner: Promise<unknown>, logger: Logger): Promise<void> {
  const hung = Symbol("hung");
  const first = await Promise.race([
    runner.catch(() => {}),
    sleep(GIVE_BACK_MS, hung, { ref: false }),
  ]);
  if (first !== hung) return;
  logger.error("graphile-worker gets no answer from the database: ending, its jobs stay locked");
  process.exit(process.exitCode || 1);
}

/**
 * Part of every worker process, through the preset: starts what the tasks share, the
 * wake-up among it, and at the end waits for what is under way.
 */
export const WebhookpubPlugin: GraphileConfig.Plugin = {
  name: "WebhookpubPlugin",
  version,
  worker: {
    hooks: {
      init({ events, logger, resolvedPreset }) {
        for (const told of TOLD) events.on(told, () => stopped.add(events));
        events.on("forcefulShutdown", () => forced.add(events));
        // What it was given is what it looks up jobs by: now, before its first look.
        events.on("worker:create", (created) => void Object.assign(created.tasks, tasks));
        letStop(events);
        const stopLooking = endWithParent(logger);
        events.on("pool:release", stopLooking);
        let end: (why: string) => void = () => {};
        const tick = watchRunner(events, resolvedPreset.worker?.pollInterval ?? 0, (what) =>
          end(`the database answers, but not graphile-worker's question for ${what}: ending`),
        );
        events.on("pool:create", ({ workerPool }) => {
          end = (why) => {
            logger.error(why);
            process.exitCode = 1;
            // What still waits for an answer waits on connections that are dead, too.
            void started.get(workerPool)?.then((it) => it?.drain(true));
            void Promise.resolve(workerPool.gracefulShutdown(why)).catch(() => {});
          };
          const worker = startWorker(
            resolvedPreset.worker.connectionString,
            logOf(logger),
            tick,
          ).catch((error: unknown) => {
            logger.error(reportOf(error));
            process.exitCode = 1;
            // The runner stops by itself when its pool has ended.
            void workerPool.gracefulShutdown("webhookpub could not start");
            return undefined;
          });
          started.set(workerPool, worker);
          // Also one that is draining already, for its database is lost: it has to end now.
          for (const told of TOLD) {
            events.on(told, () => void worker.then((it) => it?.drain(true)).catch(() => {}));
          }
        });
      },
    },
    middleware: {
      init(next, { ctx }) {
        const { worker } = ctx.resolvedPreset;
        // graphile-worker's pool reads it as ours do.
        if (worker.connectionString !== undefined || process.env["PGDATABASE"]) {
          const connectionString = plainly(() => pgUrl(worker.connectionString ?? ""));
          Object.assign(worker, { connectionString });
        }
        const compiled = next();
        if (!worker.connectionString && !("pgPool" in compiled._rawOptions)) plainly(databaseUrl);
        return compiled;
      },
      // Not even by starting a worker.
      migrate: (next, event) =>
        plainly(async () => {
          await refuseBreakingUpgrade(event);
          return await next();
        }),
      async poolGracefulShutdown(next, { ctx, workerPool }) {
        // A pool that ends because it lost its database says nothing of it: a supervisor has
        // to see that.
        if (!stopped.has(ctx.events)) process.exitCode ||= 1;
        const worker = await started.get(workerPool);
        const runner = Promise.resolve(next());
        runner.catch(() => {}); // it is awaited below
        await Promise.resolve(worker?.drain(stopped.has(ctx.events))).catch(() => {});
        await Promise.all([worker?.close(), endIfHung(runner, ctx.logger)]);
        return await runner;
      },
      async poolForcefulShutdown(next, { ctx, workerPool }) {
        try {
          return await next();
        } finally {
          // Where nobody asked for it, something went wrong, as with a database that is lost:
          // requests and their answers outlive that.
          if (!forced.has(ctx.events)) {
            await (await started.get(workerPool))?.drain(stopped.has(ctx.events));
          }
        }
      },
    },
  },
};
