import type { Migration } from "../committed.ts";
import type { Sql } from "./connect.ts";

/** A delivery that this worker has to POST, as webhookpub.lease_deliveries returns it. */
export interface Lease {
  readonly webhook_id: string;
  readonly delivery_id: string;
  /** Number of this attempt; the answer is fenced by it. */
  readonly attempt: number;
  /** The database's time, as text: a Date would lose the microseconds. */
  readonly started_at: string;
  /** There may be more that is due for its webhook. */
  readonly more: boolean;
  /** Others wait for its end: it is their turn then. */
  readonly holds_up: boolean;
}

/** What to POST for a lease, as webhookpub.lease_requests returns it. */
export interface LeasedRequest {
  readonly delivery_id: string;
  readonly event_id: string;
  readonly event_type: string;
  readonly url: string;
  /** The webhook's own. */
  readonly headers: Readonly<Record<string, string>>;
  readonly signature_scheme: "standard" | "stripe";
  /** Unix seconds. */
  readonly signed_at: string | number;
  readonly signature: string;
  readonly body: string;
  /** Deadline of the whole exchange, in milliseconds. */
  readonly timeout_ms: number;
  /** Where it may go, by the settings in force: JSON of { allowHttp, allowed }. */
  readonly policy: string;
  /** Others wait until its answer is recorded: its webhook keeps order, or has little room. */
  readonly awaited: boolean;
  /** Why it can't be sent; then the rest is null. */
  readonly problem: string | null;
}

/** What came of a request, as webhookpub.record_attempts takes it. */
export interface Answer {
  readonly deliveryId: string;
  readonly attempt: number;
  readonly startedAt: string;
  readonly durationMs: number;
  readonly outcome: "responded" | "timed_out" | "refused" | "blocked";
  readonly statusCode: number | null;
  readonly error: string | null;
  readonly responseBody: string | null;
  readonly retryAfter: string | null;
}

/** The last migration that ran; null when webhookpub is not installed. */
export async function lastMigration(sql: Sql): Promise<Migration | null> {
  const [row] = await sql<[{ found: boolean }]>`
    select to_regprocedure('webhookpub.last_migration()') is not null as found`;
  if (!row.found) return null;
  const [last] = await sql<[{ migration: string | null }]>`
    select webhookpub.last_migration() as migration`;
  const [name = "", hash = ""] = last.migration?.split(" ") ?? [];
  return { name, hash };
}

/** The networks that are closed unless settings open them. */
export async function closedNetworks(sql: Sql): Promise<string[]> {
  const [row] = await sql<[{ networks: string[] }]>`
    select webhookpub.closed_networks()::text[] as networks`;
  return row.networks;
}

/** Makes this connection hear of events while no fan-out is awake. */
export async function listen(sql: Sql): Promise<void> {
  await sql`listen webhook_events_new`;
}

/** Adds the jobs that are missing; `window` is an interval, null means ever. */
export async function wake(sql: Sql, window: string | null): Promise<void> {
  await sql`select webhookpub.wake(p_window => ${window}::interval)`;
}

/** Takes a seat as an awake fan-out; false when all seats are taken. */
export async function enterFanOut(sql: Sql): Promise<boolean> {
  const [row] = await sql<[{ entered: boolean }]>`select webhookpub.enter_fan_out() as entered`;
  return row.entered;
}

/** Gives the seat back. */
export async function leaveFanOut(sql: Sql): Promise<void> {
  await sql`select webhookpub.leave_fan_out()`;
}

/** What a batch of events became. */
export interface Batch {
  readonly event_count: number;
  /** More is pending than went into the batch. */
  readonly more: boolean;
  /**
   * There may be more in a moment: somebody is publishing who sends no NOTIFY, and had not committed
   * as this batch began, or an event waits for what is before it with its ordering key.
   */
  readonly look_again: boolean;
  /** The webhooks that got deliveries, or null. */
  readonly webhook_ids: readonly string[] | null;
  /** The user of each. */
  readonly user_ids: readonly string[] | null;
  /** Deliveries that are leased already, for their first attempt, or null. */
  readonly leased_ids: readonly string[] | null;
  /** The webhook of each. */
  readonly leased_webhook_ids: readonly string[] | null;
  /** And its user. */
  readonly leased_user_ids: readonly string[] | null;
  /** When; the database's time, as text. */
  readonly leased_at: string | null;
  /** What to POST for all of them, if that is little; null: lease_requests says it. */
  readonly requests: readonly LeasedRequest[] | null;
  /** The heavy lane has something to do; null from there. */
  readonly heavy_waits: boolean | null;
}

/**
 * Fans out one batch of pending events, for this process to deliver.
 *
 * @param room how many requests it can begin at once
 */
export async function fanOutBatch(sql: Sql, room = 0): Promise<Batch> {
  const [row] = await sql<[Batch]>`
    select * from webhookpub.fan_out_batch(p_room => ${room}::integer)`;
  return row;
}

/** The same with one event of the heavy lane, which leases nothing. */
export async function fanOutHeavy(sql: Sql): Promise<Batch> {
  const [row] = await sql<[Batch]>`select * from webhookpub.fan_out_batch(p_heavy => true)`;
  return row;
}

/** A webhook that is to be asked for again: somebody held its lease, or its pace is spent. */
export interface Wait {
  readonly webhook_id: string;
  readonly delivery_id: null;
  readonly wait_ms: number;
}

/**
 * Leases due deliveries of these webhooks, at most `limits[i]` of each.
 *
 * @returns what was leased; and which webhooks to ask for again, and when
 */
export async function leaseDeliveries(
  sql: Sql,
  webhookIds: readonly string[],
  limits: readonly number[],
): Promise<{ leases: Lease[]; waits: Wait[] }> {
  const rows = await sql<(Lease | Wait)[]>`
    select * from webhookpub.lease_deliveries(
      p_webhook_ids => ${webhookIds as string[]}::text[],
      p_limits => ${limits as number[]}::integer[]
    )`;
  return {
    leases: rows.filter((row): row is Lease => row.delivery_id !== null),
    waits: rows.filter((row): row is Wait => row.delivery_id === null),
  };
}

/** What to POST for these leases: of the first ones, as many as fit into some megabytes. */
export async function leaseRequests(
  sql: Sql,
  deliveryIds: readonly string[],
): Promise<LeasedRequest[]> {
  return await sql<LeasedRequest[]>`
    select * from webhookpub.lease_requests(p_delivery_ids => ${deliveryIds as string[]}::text[])`;
}

/** Gives leases back of which nothing was sent, each with the error that it keeps, or null. */
export async function releaseDeliveries(
  sql: Sql,
  leases: readonly Lease[],
  errors: readonly (string | null)[] = leases.map(() => null),
): Promise<void> {
  await sql`
    select webhookpub.release_deliveries(
      p_delivery_ids => ${leases.map((lease) => lease.delivery_id)}::text[],
      p_attempts => ${leases.map((lease) => lease.attempt)}::integer[],
      p_errors => ${errors as string[]}::text[]
    )`;
}

/** What came of recording answers. */
export interface Recorded {
  /** The deliveries that somebody holds: their answers have to be told again. */
  readonly held_ids: readonly string[];
  /** The webhooks for which something is due now that what was before it has ended, or null. */
  readonly ready_webhook_ids: readonly string[] | null;
}

/** Records what came back; the database decides what becomes of each delivery. */
export async function recordAttempts(sql: Sql, answers: readonly Answer[]): Promise<Recorded> {
  const column = <K extends keyof Answer>(key: K) =>
    answers.map((answer) => answer[key]) as never[];
  const [row] = await sql<[Recorded]>`
    select * from webhookpub.record_attempts(
      p_delivery_ids => ${column("deliveryId")}::text[],
      p_attempts => ${column("attempt")}::integer[],
      p_started_at => ${column("startedAt")}::timestamptz[],
      p_durations_ms => ${column("durationMs")}::integer[],
      p_outcomes => ${column("outcome")}::text[],
      p_status_codes => ${column("statusCode")}::integer[],
      p_errors => ${column("error")}::text[],
      p_response_bodies => ${column("responseBody")}::text[],
      p_retry_afters => ${column("retryAfter")}::text[]
    )`;
  return row;
}

/** What a round of upkeep did, to how many; a bigint comes as text. */
export interface Upkeep {
  readonly task: string;
  readonly affected: string;
}

/** One round of upkeep; returns what was done to how many, where that is not none. */
export async function maintain(sql: Sql): Promise<Upkeep[]> {
  return await sql<Upkeep[]>`
    select task, affected from webhookpub.maintain() where affected > 0`;
}

/**
 * Says that this process is the one that uses the database's folder, for as long as the
 * connection lives.
 *
 * @returns the process that does so already, if there is one
 */
export async function takeFolder(sql: Sql, pid: number): Promise<string | undefined> {
  const [taken] = await sql<[{ taken: boolean }]>`
    select
      pg_try_advisory_lock(2003006834, 4) as taken,
      set_config('application_name', ${`webhookpub process ${pid}`}, false)`;
  if (taken.taken) return undefined;
  const [holder] = await sql<[{ name: string }?]>`
    select a.application_name as name
    from pg_locks as l
    join pg_stat_activity as a on a.pid = l.pid
    where l.locktype = 'advisory' and l.classid = 2003006834 and l.objid = 4 and l.granted`;
  return holder?.name.replace(/^.* /, "") ?? "unknown";
}

/** A row of webhookpub.metrics. */
export interface Metric {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** The numbers for monitoring. */
export async function readMetrics(sql: Sql): Promise<Metric[]> {
  return await sql<Metric[]>`
    select name, labels, value::float8 as value from webhookpub.read_metrics()`;
}

/** Something that is wrong, and what to do about it. */
export interface Finding {
  readonly topic: string;
  readonly finding: string;
  readonly advice: string;
}

/** What the database knows to be wrong; this session is no worker's. */
export async function diagnose(sql: Sql): Promise<Finding[]> {
  await sql`select set_config('application_name', 'webhookpub doctor', false)`;
  return await sql<Finding[]>`select topic, finding, advice from webhookpub.diagnose()`;
}

/** The server's version and clock. */
export async function serverFacts(sql: Sql): Promise<{ version: string; now: Date }> {
  const [row] = await sql<[{ version: string; ms: number }]>`
    select
      current_setting('server_version') as version,
      extract(epoch from clock_timestamp())::float8 * 1000 as ms`;
  return { version: row.version, now: new Date(row.ms) };
}

/** Listens to a channel of its own, and sends itself something from another connection. */
export async function echo(listener: Sql, sender: Sql, channel: string): Promise<void> {
  await listener.unsafe(`listen ${channel}`);
  await sender`select pg_notify(${channel}, '')`;
}

/** Adds event types to the catalog, or updates them; says what became of each. */
export async function registerEventTypes(
  sql: Sql,
  types: readonly object[],
): Promise<{ name: string; outcome: string }[]> {
  return await sql<{ name: string; outcome: string }[]>`
    select name, outcome
    from webhookpub.register_event_types(p_types => ${JSON.stringify(types)}::text::jsonb)`;
}
