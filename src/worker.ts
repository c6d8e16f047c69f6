import { closedNetworks, maintain, wake } from "./database/calls.ts";
import type { Sql } from "./database/connect.ts";
import { makePool, type Pool } from "./database/pool.ts";
import { processSettings } from "./config.ts";
import { type Deliverer, makeDeliverer } from "./deliver/deliverer.ts";
import { messageOf } from "./errors.ts";
import { makeFanOut } from "./fan_out.ts";
import { makeHeavyLane } from "./heavy_lane.ts";
import type { Log } from "./log.ts";
import { maintainUntilDone } from "./maintain.ts";
import { refuseTransactionPooler } from "./database/pooler.ts";
import { schemaFault } from "./schema.ts";
import { type Health, serveHealth } from "./health.ts";
import { makeVitals, type Vitals } from "./vitals.ts";
import { makeWakeUp } from "./wake_up.ts";

/** Two leases, two records, a look for what others have to do, and metrics, at once. */
const CONNECTIONS = 6;
/** How long the server works on a batch of any of them, and of a fan-out. */
const BATCH_MS = 15_000;
/** How long it works on a round of upkeep. */
const ROUND_MS = 50_000;
/** How long a connection is kept that is not always needed. */
const IDLE_S = 10;

/** What the tasks of one worker process share. */
export interface Worker {
  fanOut(): Promise<void>;
  deliver(webhookId: string, userId: string): Promise<void>;
  maintain(): Promise<void>;
  /**
   * Takes nothing new; resolves when all that is under way is recorded.
   *
   * @param hurried do not wait for a database that is away
   */
  drain(hurried: boolean): Promise<unknown>;
  /** Closes the connections, after the last task has ended. */
  close(): Promise<void>;
}

let current: Promise<Worker> | undefined;

/** The worker of this process. The wake-up plugin starts it before any task runs. */
export function worker(): Promise<Worker> {
  if (current) return current;
  throw new Error("webhookpub's plugin is missing from the preset: see graphile.config.ts");
}

/**
 * Starts the worker of this process.
 *
 * @param url connection string; undefined: the PG* variables
 * @param onTick called once a second, while the database answers
 * @throws WebhookpubError WH030 when the schema is missing or of another version; WH033 behind a
 *   pooler in transaction mode.
 */
export function startWorker(
  url: string | undefined,
  log: Log,
  onTick: () => void,
): Promise<Worker> {
  current = start(url, log, onTick);
  return current;
}

async function start(url: string | undefined, log: Log, onTick: () => void): Promise<Worker> {
  const settings = processSettings();
  await refuseTransactionPooler(url);
  const hurry = new AbortController();
  const vitals = makeVitals(log, settings.WEBHOOKPUB_MAX_IN_FLIGHT);
  const limits = { max: 1, statementMs: BATCH_MS, hurry: hurry.signal, onnotice: vitals.told };
  const pools = {
    batches: makePool(url, { ...limits, max: CONNECTIONS }),
    fanOut: makePool(url, limits),
    heavy: makePool(url, { ...limits, idleS: IDLE_S }),
    upkeep: makePool(url, { ...limits, statementMs: ROUND_MS, idleS: IDLE_S }),
  };
  let health: Health | undefined;
  try {
    if (settings.WEBHOOKPUB_PORT) {
      health = await serveHealth(settings.WEBHOOKPUB_PORT, { pool: pools.batches, vitals, log });
    }
    await pools.batches.ask(checkSchema);
    const deliverer = makeDeliverer(pools.batches, {
      maxInFlight: settings.WEBHOOKPUB_MAX_IN_FLIGHT,
      closed: await pools.batches.ask(closedNetworks),
      hurry: hurry.signal,
      log,
      vitals,
    });
    const made = makeWorker(pools, { deliverer, hurry, log, onTick, url, vitals, health });
    vitals.enter("running");
    return made;
  } catch (error) {
    await Promise.all([health?.close(), closeAll(pools)]);
    throw error;
  }
}

/** One for each kind of work: none waits for another's connection. */
interface Pools {
  /** Leases and records. */
  readonly batches: Pool;
  /** Of one connection, whose session says that a fan-out is awake. */
  readonly fanOut: Pool;
  /** Of one more, while there are events that go to very many webhooks. */
  readonly heavy: Pool;
  readonly upkeep: Pool;
}

async function closeAll(pools: Pools): Promise<void> {
  await Promise.all(Object.values(pools).map((pool: Pool) => pool.close()));
}

async function checkSchema(sql: Sql): Promise<void> {
  const fault = await schemaFault(sql);
  if (fault) throw fault;
}

interface Parts {
  readonly deliverer: Deliverer;
  /** Aborted when the process has to end soon. */
  readonly hurry: AbortController;
  readonly url: string | undefined;
  readonly log: Log;
  readonly vitals: Vitals;
  readonly health: Health | undefined;
  readonly onTick: () => void;
}

function makeWorker(pools: Pools, parts: Parts): Worker {
  const { deliverer, hurry, url, log, vitals, health, onTick } = parts;
  const stopping = new AbortController();
  let fanningOut: Promise<void> | undefined;
  let drained: Promise<unknown> | undefined;

  const wakeOthers = () =>
    pools.batches
      .ask((sql) => wake(sql, "1 second"))
      .catch((error: unknown) => log.warn(`waking: ${messageOf(error)}`));

  const heavyLane = makeHeavyLane(
    pools.heavy,
    (batch) => deliverer.take(batch),
    (error) => log.warn(`fan-out of a heavy event: ${messageOf(error)}`),
    stopping.signal,
  );
  const { look } = makeFanOut(
    pools.fanOut,
    {
      room: () => deliverer.room(),
      deliver: (batch) => deliverer.take(batch),
      wake: wakeOthers,
      lookForHeavy: () => heavyLane.look(),
    },
    stopping.signal,
  );

  const fanOut = async (isTold = false) => {
    if (stopping.signal.aborted) return;
    fanningOut = look(isTold).catch((error: unknown) => {
      if (stopping.signal.aborted) throw error;
      log.warn(`fan-out, trying again: ${messageOf(error)}`);
      return look(isTold);
    });
    await fanningOut;
  };

  const lookForEvents = (isTold: boolean) => {
    // The next tick looks again.
    fanOut(isTold).catch((error: unknown) => log.warn(`fan-out: ${messageOf(error)}`));
  };

  const wakeUp = makeWakeUp(url, vitals, {
    onEvents: () => lookForEvents(true),
    onTick: () => {
      lookForEvents(false);
      onTick();
    },
  });

  return {
    fanOut: () => fanOut(),
    deliver: (webhookId, userId) => deliverer.deliver(webhookId, userId),
    maintain: () => maintainUntilDone(() => pools.upkeep.ask(maintain), log, stopping.signal),
    drain(hurried) {
      stopping.abort();
      vitals.enter("draining");
      if (hurried) hurry.abort();
      return (drained ??= Promise.all([
        wakeUp.stop(),
        deliverer.drain(),
        fanningOut?.catch(() => {}),
        heavyLane.ended(),
      ]));
    },
    async close() {
      await Promise.all([closeAll(pools), health?.close()]);
      vitals.enter("stopped");
    },
  };
}
