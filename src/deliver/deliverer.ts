import { answerTo } from "./answer.ts";
import { setTimeout as sleep } from "node:timers/promises";
import { coalesce } from "./coalesce.ts";
import {
  type Batch,
  type Lease,
  leaseDeliveries,
  releaseDeliveries,
  type Wait,
} from "../database/calls.ts";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Vitals } from "../vitals.ts";
import type { Pool } from "../database/pool.ts";
import { makeSenders } from "./senders.ts";
import { makeRecorder } from "./recorder.ts";
import { type Post, requestAll } from "./requests.ts";
import { type Claim, makeShares, type Turn } from "./shares.ts";

/** Leases that are asked for at once, and for how many webhooks each. */
const LEASE_WIDTH = 2;
const LEASE_LIMIT = 100;

/** What this machine lacks is not there again at once. */
const SHORT_MS = 1000;
/** How long it asks what to POST, while the database fails. */
const REQUEST_MS = 5000;

/** A lease lasts 15 s longer than its request may; a record takes milliseconds. */
const BEHIND_MS = 5000;
/** With so many answers of a webhook that are not recorded, its next deliveries would wait for room. */
const CROWD = 3;

/** Delivers for any number of webhooks at once. */
export interface Deliverer {
  /**
   * Leases, POSTs and records until nothing is due for this webhook. Resolves as soon as
   * that is under way or in line, for a slow receiver must not hold a job: deliveries belong
   * to the lease. Only while the process has all the requests that it may have does it wait,
   * so that other processes get the next jobs.
   */
  deliver(webhookId: string, userId: string): Promise<void>;
  /** How many requests a fan-out may lease for it: half of what is free is left for turns. */
  room(): number;
  /**
   * Takes what was fanned out: sends what is leased, and begins the rest without waiting; what
   * there is no room for needs a job.
   */
  take(batch: Batch): void;
  /** Leases nothing more; resolves when all that is under way is recorded. */
  drain(): Promise<void>;
}

/** A webhook that is being delivered to. */
interface Course extends Claim {
  readonly webhookId: string;
  /** Requests under way, and answers that are not recorded yet. */
  open: number;
  /** Those answers, the oldest first. */
  readonly unrecorded: Set<{ readonly since: number }>;
  /** It waits for its turn. */
  inLine: boolean;
  /** Leases are being asked for. */
  leasing: boolean;
  /** Something became due since. */
  again: boolean;
  /** With the last leases there may have been more. */
  more: boolean;
  /** It is asked for in a while, and when by performance.now(). */
  later: { readonly at: number; readonly timer: NodeJS.Timeout } | undefined;
}

/**
 * Makes a deliverer.
 *
 * @param maxInFlight requests under way at once, over all webhooks
 * @param closed webhookpub.closed_networks()
 * @param hurry when it is aborted, the process has to end soon: a database that is away is not
 *   waited for
 */
export function makeDeliverer(
  pool: Pool,
  {
    maxInFlight,
    closed,
    hurry,
    log,
    vitals,
  }: {
    maxInFlight: number;
    closed: readonly string[];
    hurry?: AbortSignal;
    log: Log;
    vitals: Vitals;
  },
): Deliverer {
  const courses = new Map<string, Course>();
  const shares = makeShares<Course>(maxInFlight);
  const recorder = makeRecorder(
    pool,
    log,
    (webhookIds) => {
      if (draining) return;
      for (const webhookId of webhookIds) {
        const course = courses.get(webhookId);
        if (course) lineUp(course);
      }
    },
    hurry,
  );
  const senderFor = makeSenders(closed);
  /** Until when nothing more is asked for: this machine lacks what a request needs. */
  let shortUntil = 0;
  let leasing = 0;
  let scheduled = false;
  let draining = false;
  let freed = Promise.withResolvers<void>();
  const drained = Promise.withResolvers<void>();

  /** At the next turn of the event loop, so that what comes at once is asked for at once. */
  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      const shortMs = shortUntil - performance.now();
      if (shortMs > 0 && !draining) setTimeout(schedule, shortMs);
      while (leasing < LEASE_WIDTH && !draining && shortMs <= 0) {
        const turns = shares.next(LEASE_LIMIT);
        if (turns.length === 0) break;
        void leaseFor(turns);
      }
      if (shares.free() > 0 || draining) {
        freed.resolve();
        freed = Promise.withResolvers<void>();
      }
      if (draining && leasing === 0 && courses.size === 0) drained.resolve();
    });
  };

  /**
   * An answer of this webhook waits to be recorded. Its lease may run out before it is: what is
   * known must be told before more is asked for.
   */
  const isBehind = (course: Course): boolean => {
    const [oldest] = course.unrecorded;
    return oldest !== undefined && performance.now() - oldest.since > BEHIND_MS;
  };

  const lineUp = (course: Course) => {
    // Somebody waits for what nobody has waited for.
    if (course.unrecorded.size > 0) recorder.hasten();
    if (course.leasing || isBehind(course)) {
      course.again = true;
      return;
    }
    course.inLine = true;
    shares.lineUp(course);
    schedule();
  };

  const leaseFor = async (turns: readonly Turn<Course>[]): Promise<void> => {
    leasing += 1;
    for (const { claim } of turns) {
      claim.inLine = false;
      claim.leasing = true;
      claim.again = false;
    }
    const { leases, waits } = await lease(turns);
    leasing -= 1;
    const kept = keep(leases);
    const own = Map.groupBy(kept, (leased) => leased.webhook_id);
    settle(turns, own, new Map(waits.map((wait) => [wait.webhook_id, wait])));
    await request(kept);
  };

  /** What was leased is under way from here on; what was not used of the room goes back. */
  const settle = (
    turns: readonly Turn<Course>[],
    leases: ReadonlyMap<string, readonly Lease[]>,
    waits: ReadonlyMap<string, Wait>,
  ) => {
    for (const { claim: course, room } of turns) {
      const own = leases.get(course.webhookId) ?? [];
      const wait = waits.get(course.webhookId);
      course.leasing = false;
      course.open += own.length;
      vitals.leased(own.length);
      // None came: is none due, or no room? While some are open, the next answer asks again.
      course.more = own.some(({ more }) => more) || (own.length === 0 && course.open > 0);
      shares.give(course, room - own.length);
      if (wait && !draining) lineUpLater(course, wait.wait_ms);
      else if (!draining && (course.again || (course.more && own.length === room))) lineUp(course);
      else forget(course);
    }
    schedule();
  };

  /**
   * Until then asking would be in vain, whatever is answered meanwhile; unless somebody asks, and
   * hears of an earlier time.
   */
  const lineUpLater = (course: Course, ms: number) => {
    course.more = false;
    course.again = false;
    const at = performance.now() + ms;
    if (course.later && course.later.at <= at) return;
    endWait(course);
    course.open += 1;
    const timer = setTimeout(() => {
      endWait(course);
      course.more = true;
      lineUp(course);
    }, ms);
    course.later = { at, timer };
  };

  const endWait = (course: Course) => {
    if (!course.later) return;
    clearTimeout(course.later.timer);
    course.later = undefined;
    course.open -= 1;
  };

  /** Asks what to POST for leases, as far as it is not known, and begins. */
  const request = async (
    leases: readonly Lease[],
    known: Batch["requests"] = null,
  ): Promise<void> => {
    const left = new Set(leases);
    const begin = (post: Post) => {
      left.delete(post.lease);
      void exchange(post);
    };
    // It locks nothing, so it is asked again: a lease that nothing is sent for counts as lost.
    for (let pause = 50; left.size > 0; pause *= 2) {
      try {
        await requestAll(pool.ask, [...left], begin, known);
        break;
      } catch (error) {
        log.error(`requests of ${left.size} leases: ${messageOf(error)}`);
        if (pause > REQUEST_MS || draining) break;
        await sleep(pause);
      }
    }
    // Deleted meanwhile, or not to be sent: nothing comes of them.
    for (const { webhook_id: webhookId } of left) {
      const course = courses.get(webhookId);
      if (!course) continue;
      shares.give(course, 1);
      close(course);
    }
    schedule();
  };

  const lease = async (turns: readonly Turn<Course>[]) => {
    const webhookIds = turns.map(({ claim }) => claim.webhookId);
    const rooms = turns.map(({ room }) => room);
    try {
      return await pool.ask((sql) => leaseDeliveries(sql, webhookIds, rooms));
    } catch (error) {
      // The tick finds what is left, when the database is back.
      log.error(`leasing for ${webhookIds.length} webhooks: ${messageOf(error)}`);
      return { leases: [], waits: [] };
    }
  };

  /** What of this it sends: none when it has been told to stop, for then they go back. */
  const keep = (leases: readonly Lease[]): readonly Lease[] => {
    if (!draining || leases.length === 0) return leases;
    leasing += 1;
    // If that fails, they run out.
    void pool
      .ask((sql) => releaseDeliveries(sql, leases))
      .catch((error: unknown) => log.error(`giving leases back: ${messageOf(error)}`))
      .finally(() => {
        leasing -= 1;
        schedule();
      });
    return [];
  };

  /** Gives a lease back; if that fails, it runs out. */
  const release = coalesce(
    async (unsent: { lease: Lease; error: string }[]) => {
      const why = unsent[0]?.error ?? "";
      log.error(`${unsent.length} requests could not be sent, and go out later: ${why}`);
      const leases = unsent.map(({ lease }) => lease);
      const errors = unsent.map((one) => one.error);
      await pool.ask((sql) => releaseDeliveries(sql, leases, errors));
      return unsent;
    },
    { width: 1, limit: 500 },
  );

  /** POSTs; whatever comes of it, its room is free again. */
  const send = async (course: Course, post: Post) => {
    try {
      return await vitals.request(post.lease, () => senderFor(post.policy).post(post));
    } finally {
      shares.give(course, 1);
      schedule();
    }
  };

  const exchange = async (post: Post): Promise<void> => {
    const course = courses.get(post.lease.webhook_id);
    if (!course) return;
    const begun = performance.now();
    try {
      const outcome = await send(course, post);
      if (outcome.kind === "unsent") {
        shortUntil = performance.now() + SHORT_MS;
        await release({ lease: post.lease, error: outcome.error });
        return close(course);
      }
      course.responded = outcome.kind === "responded";
      const now = performance.now();
      const answer = { since: now };
      course.unrecorded.add(answer);
      // It may be what keeps the next request from being leased, or the next event's from being
      // born leased.
      const urgent =
        post.lease.holds_up ||
        post.awaited ||
        course.more ||
        course.again ||
        course.unrecorded.size >= CROWD ||
        draining ||
        shares.free() === 0;
      await recorder.record(answerTo(post.lease, outcome, now - begun), urgent);
      course.unrecorded.delete(answer);
    } catch (error) {
      log.error(`delivery ${post.lease.delivery_id}: ${messageOf(error)}`);
    }
    close(course);
  };

  /** One of its deliveries has come to its end. */
  const close = (course: Course) => {
    course.open -= 1;
    vitals.leased(-1);
    if ((course.more || course.again) && !draining) lineUp(course);
    else forget(course);
  };

  /** Ends a course that has come to its end. */
  const forget = (course: Course) => {
    if (course.open > 0 || course.leasing || (course.inLine && !draining)) return;
    courses.delete(course.webhookId);
    if (draining) schedule();
  };

  const courseOf = (webhookId: string, userId: string): Course => {
    const course = courses.get(webhookId) ?? {
      webhookId,
      userId,
      taken: 0,
      responded: false,
      open: 0,
      unrecorded: new Set(),
      inLine: false,
      leasing: false,
      again: false,
      more: false,
      later: undefined,
    };
    courses.set(webhookId, course);
    return course;
  };

  /** Sends what a fan-out has leased. */
  const takeLeased = (batch: Batch) => {
    const leased = (batch.leased_ids ?? []).map((deliveryId, i) => ({
      webhook_id: batch.leased_webhook_ids?.[i] ?? "",
      delivery_id: deliveryId,
      attempt: 1,
      started_at: batch.leased_at ?? "",
      more: false,
      holds_up: false,
    }));
    const leases = keep(leased);
    if (leases.length === 0) return;
    leases.forEach((lease, i) => {
      const course = courseOf(lease.webhook_id, batch.leased_user_ids?.[i] ?? lease.webhook_id);
      shares.take(course, 1);
      course.open += 1;
    });
    vitals.leased(leases.length);
    void request(leases, batch.requests);
  };

  return {
    async deliver(webhookId, userId) {
      if (draining) return;
      lineUp(courseOf(webhookId, userId));
      while (shares.free() <= 0 && !draining) await freed.promise;
    },
    room: () => (draining ? 0 : Math.max(0, Math.floor(shares.free() / 2))),
    take(batch) {
      takeLeased(batch);
      if (draining || shares.free() <= 0) return;
      batch.webhook_ids?.forEach((webhookId, i) => {
        lineUp(courseOf(webhookId, batch.user_ids?.[i] ?? webhookId));
      });
    },
    async drain() {
      draining = true;
      recorder.drain();
      // What is only in line goes to others.
      for (const course of courses.values()) {
        endWait(course);
        forget(course);
      }
      schedule();
      await drained.promise;
      senderFor.close();
    },
  };
}
