import { setTimeout as sleep } from "node:timers/promises";
import type { Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { codeOf, messageOf } from "../../src/errors.ts";
import { makePool } from "../../src/database/pool.ts";
import type { TestDatabase } from "../support/database.ts";
import { createWebhook, type WebhookOptions } from "../support/scene.ts";
import type { Scope } from "../support/scope.ts";
import { untilNone } from "../support/until.ts";
import {
  type Facts,
  type Figures,
  judge,
  type Published,
  type Subscription,
  type Tables,
} from "./conservation.ts";
import { type Receivers, startReceivers } from "./receiver_process.ts";

/** Whether a test is going to disable the webhook for a time. */
type Interruptible = Pick<Subscription, "interrupted">;

/** A database with an application in it, and receivers: what faults are set upon. */
export interface World extends TestDatabase {
  readonly receivers: Receivers;
  /** Creates a webhook whose receiver is the one of that name. */
  webhook(name: string, options?: WebhookOptions & Interruptible): Promise<Subscription>;
  /** Gives a webhook a new secret, beside the one that it has. */
  rotate(webhook: Subscription): Promise<void>;
  /** Publishes events in one transaction, which also keeps a record of its own of them. */
  publish(count: number, options?: { userId?: string; rollBack?: boolean }): Promise<void>;
  /** Publishes on several connections, whatever becomes of them, until it is stopped. */
  load(options: { connections: number; pauseMs: number; userIds?: readonly string[] }): {
    /** What publishers were told instead of an id. */
    readonly failures: readonly string[];
    stop(): Promise<void>;
  };
  /** Waits until nothing is pending, as long as it gets less. */
  settled(): Promise<void>;
  /** Everything that is known now. */
  facts(): Promise<Facts>;
}

/** An application that keeps a record of what it publishes, in the same transaction. */
const APPLICATION = `
  create schema application;

  create table application.published (
    event_id text primary key,
    user_id text not null,
    type text not null,
    data jsonb not null
  );

  create function application.publish (p_user_id text, p_count integer, p_roll_back boolean)
    returns void
    language plpgsql
  as $$
  begin
    insert into application.published (event_id, user_id, type, data)
    -- A key is one session's: what it publishes is in order.
    select
      webhook_publish_tx(
        e.type, p_user_id, e.data, ordering_key => pg_backend_pid() || '_' || nullif(e.n % 4, 0)
      ),
      p_user_id, e.type, e.data
    from (
      select
        g.n,
        (array['email.received', 'email.sent', 'email.approved'])[1 + g.n % 3] as type,
        jsonb_build_object(
          'n', g.n, 'text', 'Grüße, "' || chr(128512) || '"', 'pad', repeat('x', 40 * g.n % 900)
        ) as data
      from generate_series(1, p_count) as g (n)
    ) as e;
    if p_roll_back then
      raise 'rolled back';
    end if;
  end;
  $$`;

/** Makes the application's tables in a database, and starts the receivers. */
export async function makeWorld(t: Scope, database: TestDatabase): Promise<World> {
  const { sql, url } = database;
  await sql.unsafe(APPLICATION);
  const receivers = await startReceivers(t);
  const pool = makePool(url, { max: 1, statementMs: 60_000 });
  t.teardown(() => pool.close());
  const webhooks: (Subscription & { readonly secrets: string[] })[] = [];

  const publishOn = async (connection: Sql, count: number, userId: string, rollBack: boolean) => {
    try {
      await connection`select application.publish(${userId}, ${count}, ${rollBack})`;
    } catch (error) {
      if (!rollBack || codeOf(error) !== "P0001") throw error;
    }
  };

  /** What is pending, and what it waits for, a line each. */
  const pending = async () => {
    const rows = await pool.ask(
      (connection) => connection<{ line: string }[]>`
        select format(
          '%s%s: %s deliveries, leased %s, suspicion %s, due in %s to %s',
          regexp_replace(w.url, '^.*/', ''),
          case when w.circuit_retry_at is not null
            then ', circuit open until ' || (w.circuit_retry_at - now()) else '' end,
          count(*), q.leased, q.suspicion, min(q.due_at) - now(), max(q.due_at) - now()
        ) as line
        from webhookpub.queue as q
        join webhookpub.webhooks as w on w.id = q.webhook_id
        where w.enabled
        group by w.id, q.leased, q.suspicion
        union all
        select format('%s events since %s', count(*), min(e.created_at))
        from webhookpub.events as e
        where e.status = 'pending'
        having count(*) > 0
        union all
        select format('job %s %s, attempts %s, locked at %s', j.task_identifier, j.key, j.attempts, j.locked_at)
        from graphile_worker.jobs as j`,
    );
    return rows.map(({ line }) => line).join("\n");
  };

  return {
    ...database,
    receivers,
    publish: (count, { userId = "user_1", rollBack = false } = {}) =>
      publishOn(sql, count, userId, rollBack),
    async webhook(name, { interrupted = false, ...options } = {}) {
      const { id, secret } = await createWebhook(sql, { ...options, url: receivers.url(name) });
      const { userId = "user_1", events = "{email.*}" } = options;
      const webhook = {
        id,
        name,
        userId,
        events: events.slice(1, -1).split(","),
        secrets: [secret],
        interrupted,
        ordered: options.ordered ?? false,
      };
      webhooks.push(webhook);
      return webhook;
    },
    async rotate({ id }) {
      const [{ secret }] = await pool.ask(
        (connection) => connection<[{ secret: string }]>`
          select webhookpub.rotate_secret(${id}) as secret`,
      );
      webhooks.find((webhook) => webhook.id === id)?.secrets.push(secret);
    },
    load({ connections, pauseMs, userIds = ["user_1"] }) {
      const stop = new AbortController();
      t.teardown(() => stop.abort());
      const userOf = (n: number) => userIds[n % userIds.length] ?? "";
      const failures: string[] = [];
      const publisher = async () => {
        const pool = makePool(url, { max: 1, statementMs: 60_000 });
        for (let n = 1; !stop.signal.aborted; n += 1) {
          // Whether a transaction committed that ended with an error, its record knows.
          await pool
            .ask((connection) => publishOn(connection, 1 + (n % 7), userOf(n), n % 5 === 0))
            .catch((error: unknown) => {
              failures.push(`${codeOf(error)} ${messageOf(error)}`);
              return sleep(50);
            });
          if (pauseMs > 0) await sleep(pauseMs);
        }
        await pool.close();
      };
      const all = Promise.all(Array.from({ length: connections }, publisher));
      return {
        failures,
        async stop() {
          stop.abort();
          await all;
        },
      };
    },
    settled: () =>
      untilNone(
        async () => {
          // A connection may turn out to be gone.
          const asked = pool.ask(
            (connection) => connection<{ pending: number }[]>`
              select (
                (select count(*) from webhookpub.events where status = 'pending')
                + (
                  select count(*)
                  from webhookpub.deliveries as d
                  join webhookpub.webhooks as w on w.id = d.webhook_id
                  where d.status = 'pending' and w.enabled
                )
              )::integer as pending`,
          );
          const [row] = await asked.catch(() => []);
          return row?.pending ?? Infinity;
        },
        "every event and delivery to end",
        pending,
      ),
    async facts() {
      const [published, events, deliveries, attempts] = await Promise.all([
        sql<Published[]>`select * from application.published`,
        sql<Tables["events"][number][]>`
          select
            e.id, e.user_id, e.type, e.status, e.matched_webhook_ids, n.envelope, e.ordering_key,
            to_char(e.created_at, 'YYYYMMDDHH24MISSUS') as created_at
          from webhookpub.events as e
          left join webhookpub.envelopes_by_event as n on n.event_id = e.id
          order by e.created_at`,
        sql<Tables["deliveries"][number][]>`
          select d.id, d.webhook_id, d.event_id, d.replay_id, d.status, d.attempts
          from webhookpub.deliveries as d`,
        sql<Tables["attempts"][number][]>`
          select a.delivery_id, a.attempt, a.status_code from webhookpub.attempts as a`,
      ]);
      const requests = receivers.requests();
      return { published, webhooks, events, deliveries, attempts, requests };
    },
  };
}

/**
 * Holds a world that has settled against the law, and prints its figures.
 *
 * @param allowed how many duplicates there may be
 * @param seconds how long recovery took, and `promised`, what it stays under
 */
export async function conserved(
  t: Test,
  world: World,
  { allowed, seconds, promised }: { allowed: number; seconds?: number; promised?: number },
): Promise<Figures> {
  const { figures, problems } = judge(await world.facts(), allowed);
  t.strictSame(problems.slice(0, 10), [], `what does not hold: ${problems.length}`);
  const recovery = seconds === undefined ? "" : `; recovered in ${seconds.toFixed(1)} s`;
  t.comment(
    `${figures.events} events, ${figures.deliveries} deliveries, ${figures.requests} requests, ` +
      `${figures.duplicates} duplicates of at most ${allowed}${recovery}`,
  );
  if (promised !== undefined) {
    t.ok(seconds !== undefined && seconds < promised, `recovered within ${promised} s`);
  }
  return figures;
}

/** Holds a worker that was told to end to its promise: the deadline of a request, and 5 s. */
export function endedInTime(t: Test, seconds: number, deadline: number): void {
  t.comment(`it ended after ${seconds.toFixed(1)} s, with a deadline of ${deadline} s`);
  t.ok(seconds < deadline + 5, "it ends within the deadline and 5 s");
}

/** Seconds since a time of performance.now(). */
export const secondsSince = (begun: number): number => (performance.now() - begun) / 1000;
