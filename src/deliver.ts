import { setTimeout as sleep } from "node:timers/promises";
import { answerTo } from "./answer.ts";
import { type Lease, leaseDeliveries } from "./client.ts";
import { coalesce } from "./coalesce.ts";
import { messageOf } from "./errors.ts";
import type { Log } from "./log.ts";
import type { Pool } from "./pool.ts";
import { makeSender, type Sender } from "./post.ts";
import { makeRecorder } from "./record.ts";

/** After this, a webhook goes on in the background and its job makes room for others. */
const JOB_MS = 1000;

/** Delivers for any number of webhooks at once. */
export interface Deliverer {
  /**
   * Leases, POSTs and records until nothing is due for this webhook; resolves then, or
   * after a second: a slow receiver must not hold a job slot. Deliveries belong to the
   * lease, not to the job, so that nothing depends on when the job ends.
   */
  deliver(webhookId: string): Promise<void>;
  /**
   * Leases nothing more; resolves when all that is under way is recorded.
   *
   * @param hurried do not wait for a database that is away
   */
  drain(hurried: boolean): Promise<void>;
}

interface Loop {
  /** Wakes the loop: an answer was recorded, or something new is due. */
  poke: () => void;
  readonly done: Promise<void>;
}

/**
 * Makes a deliverer.
 *
 * @param maxInFlight requests under way at once, over all webhooks
 * @param closed webhookpub.closed_networks()
 */
export function makeDeliverer(
  pool: Pool,
  { maxInFlight, closed, log }: { maxInFlight: number; closed: readonly string[]; log: Log },
): Deliverer {
  const loops = new Map<string, Loop>();
  const recorder = makeRecorder(pool, log);
  let inFlight = 0;
  let draining = false;
  let freed = Promise.withResolvers<void>();

  const lease = coalesce(
    async (webhookIds: string[]) => {
      while (inFlight >= maxInFlight) await freed.promise;
      if (draining) return webhookIds.map(() => []);
      const share = Math.max(1, Math.floor((maxInFlight - inFlight) / webhookIds.length));
      const leases = await pool.ask((sql) =>
        leaseDeliveries(
          sql,
          webhookIds,
          webhookIds.map(() => share),
        ),
      );
      inFlight += leases.length;
      const byWebhook = Map.groupBy(leases, (leased) => leased.webhook_id);
      return webhookIds.map((id) => byWebhook.get(id) ?? []);
    },
    { width: 2, limit: 100 },
  );

  const exchange = async (leased: Lease): Promise<void> => {
    const begun = performance.now();
    try {
      const outcome = await senderFor(leased)
        .post(leased)
        .finally(() => {
          inFlight -= 1;
          freed.resolve();
          freed = Promise.withResolvers<void>();
        });
      await recorder.record(answerTo(leased, outcome, performance.now() - begun));
    } catch (error) {
      log.error(`delivery ${leased.delivery_id}: ${messageOf(error)}`);
    }
  };

  const run = async (webhookId: string, wait: () => Promise<void>, poke: () => void) => {
    let own = 0;
    for (;;) {
      const leases = draining ? [] : await lease(webhookId);
      for (const leased of leases) {
        own += 1;
        void exchange(leased).then(() => {
          own -= 1;
          poke();
        });
      }
      if (own === 0) return;
      await wait();
    }
  };

  const start = (webhookId: string): Loop => {
    let poked = Promise.withResolvers<void>();
    const wait = async () => {
      await poked.promise;
      poked = Promise.withResolvers<void>();
    };
    const poke = () => poked.resolve();
    const done = run(webhookId, wait, poke)
      // The tick finds what is left, when the database is back.
      .catch((error: unknown) => log.error(`leasing for ${webhookId}: ${messageOf(error)}`))
      .finally(() => loops.delete(webhookId));
    const loop = { poke, done };
    loops.set(webhookId, loop);
    return loop;
  };

  let sender: Sender | undefined;
  let senderKey: string | undefined;
  /** The settings in force came with the lease; a change of them makes a new sender. */
  const senderFor = (leased: Lease): Sender => {
    const key = `${leased.allow_http} ${leased.allowed_networks.join()}`;
    if (sender === undefined || key !== senderKey) {
      void sender?.close();
      sender = makeSender({
        allowHttp: leased.allow_http,
        allowed: leased.allowed_networks,
        closed,
      });
      senderKey = key;
    }
    return sender;
  };

  return {
    async deliver(webhookId) {
      const running = loops.get(webhookId);
      if (running) {
        running.poke();
        return;
      }
      const release = new AbortController();
      await Promise.race([
        start(webhookId).done,
        sleep(JOB_MS, undefined, { signal: release.signal }).catch(() => {}),
      ]);
      release.abort();
    },
    async drain(hurried) {
      draining = true;
      if (hurried) recorder.hurry();
      await Promise.all([...loops.values()].map((loop) => loop.done));
      await sender?.close();
    },
  };
}
