import type {} from "graphile-worker";
import { messageOf, WebhookpubError } from "./errors.ts";
import { version } from "./version.ts";
import { startWorker, type Worker } from "./worker.ts";

const started = new WeakMap<object, Promise<Worker | undefined>>();

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
        events.on("pool:create", ({ workerPool }) => {
          const worker = startWorker(resolvedPreset.worker.connectionString, {
            info: (message) => logger.info(message),
            warn: (message) => logger.warn(message),
            error: (message) => logger.error(message),
          }).catch((error: unknown) => {
            logger.error(error instanceof WebhookpubError ? error.report() : messageOf(error));
            process.exitCode = 1;
            // The runner stops by itself when its pool has ended.
            void workerPool.gracefulShutdown("webhookpub could not start");
            return undefined;
          });
          started.set(workerPool, worker);
        });
      },
    },
    middleware: {
      async poolGracefulShutdown(next, { workerPool }) {
        const worker = await started.get(workerPool);
        try {
          await Promise.all([worker?.drain(), next()]);
        } finally {
          await worker?.end();
        }
      },
    },
  },
};
