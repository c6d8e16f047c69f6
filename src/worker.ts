import {
  closedNetworks,
  connect,
  installedVersion,
  maintain,
  type Sql,
  wake,
} from "./database/calls.ts";
import { processSettings, runs } from "./config.ts";
import { type Deliverer, makeDeliverer } from "./deliver/deliverer.ts";
import { messageOf, WebhookpubError } from "./errors.ts";
import { fanOutUntilIdle, type Session } from "./fan_out.ts";
import type { Log } from "./log.ts";
import { maintainUntilDone } from "./maintain.ts";
import { makePool, type Pool } from "./database/pool.ts";
import { version } from "./version.ts";
import { type Health, serveHealth } from "./health.ts";
import { makeVitals, type Vitals } from "./vitals.ts";
import { makeWakeUp } from "./wake_up.ts";

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
  end(): Promise<void>;
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
 * @throws WebhookpubError WH030 when the schema is missing or of another version.
 */
export function startWorker(url: string | undefined, log: Log): Promise<Worker> {
  current = start(url, log);
  return current;
}

async function start(url: string | undefined, log: Log): Promise<Worker> {
  const settings = processSettings();
  const hurry = new AbortController();
  const vitals = makeVitals(log, settings.WEBHOOKPUB_MAX_IN_FLIGHT);
  const open = () => connect(url, { max: settings.WEBHOOKPUB_CONNECTIONS, onnotice: vitals.told });
  const pool = makePool(open, hurry.signal);
  let health: Health | undefined;
  try {
    if (settings.WEBHOOKPUB_PORT) {
      health = await serveHealth(settings.WEBHOOKPUB_PORT, { pool, vitals, log });
    }
    await pool.ask(checkVersion);
    const deliverer = makeDeliverer(pool, {
      maxInFlight: settings.WEBHOOKPUB_MAX_IN_FLIGHT,
      closed: await pool.ask(closedNetworks),
      hurry: hurry.signal,
      log,
      vitals,
    });
    const made = makeWorker(pool, {
      deliverer,
      hurry,
      log,
      url,
      vitals,
      health,
      openAwake: () => openSession(url),
    });
    vitals.enter("running");
    return made;
  } catch (error) {
    await Promise.all([health?.close(), pool.end()]);
    throw error;
  }
}

/**
 * Opens the session that says that a fan-out is awake. Not one reserved from the pool: a query
 * on such a one whose connection was terminated may never end.
 */
function openSession(url: string | undefined): Session {
  const lost = new AbortController();
  const sql = connect(url, { max: 1, max_lifetime: null, onclose: () => lost.abort() });
  return { sql, lost: lost.signal };
}

async function checkVersion(sql: Sql): Promise<void> {
  const installed = await installedVersion(sql);
  if (installed === version) return;
  throw new WebhookpubError(
    "WH030",
    installed === null
      ? "webhookpub is not installed in this database"
      : `this worker is of webhookpub ${version}, the database of ${installed}`,
    `Run: ${runs("migrate")}`,
  );
}

interface Parts {
  readonly deliverer: Deliverer;
  /** Aborted when the process has to end soon. */
  readonly hurry: AbortController;
  readonly url: string | undefined;
  readonly openAwake: () => Session;
  readonly log: Log;
  readonly vitals: Vitals;
  readonly health: Health | undefined;
}

function makeWorker(pool: Pool, parts: Parts): Worker {
  const { deliverer, hurry, url, openAwake, log, vitals, health } = parts;
  const stopping = new AbortController();
  let fanningOut: Promise<void> | undefined;
  let waking: Promise<void> | undefined;
  let drained: Promise<unknown> | undefined;
  let awake = openAwake();

  const wakeOthers = () => {
    waking ??= pool
      .ask((sql) => wake(sql, "1 second"))
      .catch((error: unknown) => log.warn(`waking: ${messageOf(error)}`))
      .finally(() => {
        waking = undefined;
      });
  };

  const reopen = () => {
    void awake.sql.end({ timeout: 0 }).catch(() => {});
    awake = openAwake();
  };

  const fanOutAwake = async () => {
    if (awake.lost.aborted) reopen();
    try {
      await fanOutUntilIdle(
        awake,
        {
          deliver: ({ webhook_ids, user_ids }) => deliverer.take(webhook_ids ?? [], user_ids ?? []),
          wake: wakeOthers,
        },
        stopping.signal,
      );
    } catch (error) {
      reopen();
      throw error;
    }
  };

  const fanOut = async () => {
    // One a process: a second would share its session.
    if (fanningOut || stopping.signal.aborted) return;
    fanningOut = fanOutAwake().catch((error: unknown) => {
      if (stopping.signal.aborted) throw error;
      log.warn(`fan-out, trying again: ${messageOf(error)}`);
      return fanOutAwake();
    });
    try {
      await fanningOut;
    } finally {
      fanningOut = undefined;
    }
  };

  const wakeUp = makeWakeUp(url, vitals, () => {
    // The next tick adds a job for it.
    fanOut().catch((error: unknown) => log.warn(`fan-out: ${messageOf(error)}`));
  });

  return {
    fanOut,
    deliver: (webhookId, userId) => deliverer.deliver(webhookId, userId),
    maintain: () => maintainUntilDone(() => pool.ask(maintain), log, stopping.signal),
    drain(hurried) {
      stopping.abort();
      vitals.enter("draining");
      if (hurried) hurry.abort();
      return (drained ??= Promise.all([
        wakeUp.stop(),
        deliverer.drain(),
        fanningOut?.catch(() => {}),
      ]));
    },
    async end() {
      await Promise.all([pool.end(), awake.sql.end({ timeout: 1 }), health?.close()]);
      vitals.enter("stopped");
    },
  };
}
