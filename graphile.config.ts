import { setFlagsFromString } from "node:v8";
import { WorkerPreset } from "graphile-worker";
import { processSettings } from "./src/config.ts";
import { logger } from "./src/log.ts";
import { WebhookpubPlugin } from "./src/plugin.ts";

// V8 would let what is new and mostly garbage grow to 128 MB before it looks through all of it.
// It delivers no slower without, and a worker stays below 200 MB with 1,000 requests under way.
setFlagsFromString("--semi-space-growth-factor=1");

/** What `npx graphile-worker` runs here: every task, the crontab and the plugin. */
const { WEBHOOKPUB_JOBS: jobs } = processSettings();

const preset: GraphileConfig.Preset = {
  extends: [WorkerPreset],
  plugins: [WebhookpubPlugin],
  worker: {
    logger,
    concurrentJobs: jobs,
    // Jobs are only wake-ups: fetched in batches, completed in batches. Without the
    // batching, a stop leaves jobs locked.
    localQueue: { size: jobs },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    // A bound that graphile-worker wants; batching leaves it at two or three.
    maxPoolSize: jobs,
  },
};

export default preset;
