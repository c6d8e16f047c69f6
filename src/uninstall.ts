import { FIRST_OF_OLD_CHAIN, ledgerHashes } from "./committed.ts";
import { runs } from "./config.ts";
import { connect, type Sql } from "./database/connect.ts";
import { messageOf, WebhookpubError } from "./errors.ts";

const PUBLISHERS = ["webhook_publish_tx", "webhook_publish_best_effort_tx", "webhook_publish"];

const TASKS = ["webhook_fan_out", "webhook_deliver", "webhook_maintain"];

interface Options {
  /** Although there are callers, which fail from then on, and whoever depends on our objects goes. */
  readonly evenIfCalled?: boolean;
  /** Says what is in the way, and removes nothing. */
  readonly dryRun?: boolean;
}

/**
 * Removes webhookpub from a database, in one transaction: its schema, the publish functions, its
 * jobs and tasks (graphile-worker's schema with them, if nobody else has any), its rows in
 * graphile-migrate's ledger (the ledger with them, if nobody else has any), and its roles, if no
 * other database uses them. pgcrypto stays.
 *
 * @throws WebhookpubError WH035 when somebody still calls it, or a worker is connected
 */
export async function uninstall(
  url: string,
  log: (line: string) => void = console.log,
  { evenIfCalled = false, dryRun = false }: Options = {},
): Promise<void> {
  const sql = connect(url, { max: 1 });
  try {
    const workers = await connectedWorkers(sql);
    if (workers > 0 && !dryRun) {
      throw new WebhookpubError(
        "WH035",
        `${workers} sessions of workers are connected to this database`,
        "Stop the workers first. Nothing was changed.",
      );
    }
    const callers = await callersOf(sql);
    for (const caller of callers) log(`calls webhookpub: ${caller}`);
    if (dryRun) return;
    if (callers.length > 0 && !evenIfCalled) {
      throw new WebhookpubError(
        "WH035",
        `webhookpub is still called by ${callers.join(", ")}`,
        `Remove these, or say ${runs("uninstall --even-if-called")}. Nothing was changed.`,
      );
    }
    for (const line of await remove(sql)) log(line);
    for (const line of await dropRoles(sql)) log(line);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

async function connectedWorkers(sql: Sql): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    select count(*)::integer as count
    from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()
      and application_name = 'webhookpub-jobs'`;
  return row.count;
}

/** What of others would fail without us: by its text, by its trigger, or as PostgreSQL knows. */
async function callersOf(sql: Sql): Promise<string[]> {
  const rows = await sql<{ caller: string }[]>`
    with own_function as (
      select p.oid
      from pg_proc as p
      where p.pronamespace = to_regnamespace('webhookpub')
        or p.pronamespace = to_regnamespace('public') and p.proname = any (${PUBLISHERS})
    ),
    caller as (
      select p.oid
      from pg_proc as p
      where p.oid not in (select o.oid from own_function as o)
        and p.pronamespace <> all (
          array[to_regnamespace('pg_catalog'), to_regnamespace('information_schema')]::oid[]
        )
        and (
          p.prosrc ~ '\\mwebhook_publish(_tx|_best_effort_tx)?\\M' or p.prosrc ~ '\\mwebhookpub\\.'
        )
    )
    select 'function ' || c.oid::regprocedure::text as caller from caller as c
    union
    select format('trigger %I on %s', t.tgname, t.tgrelid::regclass)
    from pg_trigger as t
    join pg_class as r on r.oid = t.tgrelid
    where not t.tgisinternal
      and r.relnamespace is distinct from to_regnamespace('webhookpub')
      and t.tgfoid in (
        select o.oid from own_function as o union all select c.oid from caller as c
      )
    union
    select pg_describe_object(d.classid, d.objid, 0)
    from pg_depend as d
    left join pg_rewrite as w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
    left join pg_class as v on v.oid = w.ev_class
    left join pg_proc as f on d.classid = 'pg_proc'::regclass and f.oid = d.objid
    where d.deptype = 'n'
      and (
        d.refclassid = 'pg_proc'::regclass
        and d.refobjid in (select o.oid from own_function as o)
        or d.refclassid = 'pg_class'::regclass and d.refobjid in (
          select c.oid from pg_class as c where c.relnamespace = to_regnamespace('webhookpub')
        )
      )
      and (
        v.relnamespace <> to_regnamespace('webhookpub')
        or f.oid not in (select o.oid from own_function as o)
      )
    order by 1`;
  return rows.map(({ caller }) => caller);
}

async function remove(sql: Sql): Promise<string[]> {
  const [there] = await sql<[{ jobs: boolean; ledger: boolean; roles: boolean }]>`
    select
      to_regclass('graphile_worker._private_tasks') is not null as jobs,
      to_regclass('graphile_migrate.migrations') is not null as ledger,
      to_regrole('webhookpub_worker') is not null as roles`;
  return await sql.begin(async (tx) => {
    for (const name of PUBLISHERS)
      await tx.unsafe(`drop function if exists public.${name} cascade`);
    await tx`drop schema if exists webhookpub cascade`;
    return [
      ...(there.jobs ? await removeJobs(tx, there.roles) : []),
      ...(there.ledger ? await removeFromLedger(tx) : []),
      "left: the extension pgcrypto, which others may use",
    ];
  });
}

type Transaction = Parameters<Parameters<Sql["begin"]>[1]>[0];

async function removeJobs(tx: Transaction, roles: boolean): Promise<string[]> {
  const others = await tx`
    select from graphile_worker._private_tasks where identifier <> all (${TASKS}) limit 1`;
  if (others.count === 0) {
    await tx`drop schema graphile_worker cascade`;
    return [];
  }
  await tx`
    delete from graphile_worker._private_jobs as j
    using graphile_worker._private_tasks as t
    where t.id = j.task_id and t.identifier = any (${TASKS})`;
  await tx`delete from graphile_worker._private_tasks where identifier = any (${TASKS})`;
  await tx`delete from graphile_worker._private_known_crontabs where identifier = any (${TASKS})`;
  for (const table of ["jobs", "job_queues", "tasks", "known_crontabs"]) {
    await tx.unsafe(`drop policy if exists webhookpub_worker on graphile_worker._private_${table}`);
  }
  if (roles) {
    await tx`revoke all on all tables in schema graphile_worker from webhookpub_worker`;
    await tx`revoke all on all routines in schema graphile_worker from webhookpub_worker`;
    await tx`revoke all on schema graphile_worker from webhookpub_worker`;
  }
  return ["left: the schema graphile_worker, with the tasks and jobs of others"];
}

async function removeFromLedger(tx: Transaction): Promise<string[]> {
  await tx`
    delete from graphile_migrate.migrations
    where hash = any (${[...ledgerHashes(), FIRST_OF_OLD_CHAIN]})`;
  const others = await tx`select from graphile_migrate.migrations limit 1`;
  if (others.count > 0) return ["left: the ledger graphile_migrate, with the migrations of others"];
  await tx`drop schema graphile_migrate cascade`;
  return [];
}

/** The roles belong to the whole server: each goes unless another database, or a right, is in the way. */
async function dropRoles(sql: Sql): Promise<string[]> {
  const roles = await sql<{ name: string }[]>`
    select rolname as name from pg_roles
    where rolname ~ '^webhookpub_(publisher|worker|operator|readonly|tenant)$' order by 1`;
  const left: string[] = [];
  for (const { name } of roles) {
    await sql.unsafe(`drop role ${name}`).catch((error: unknown) => {
      left.push(`left: the role ${name}: ${messageOf(error)}`);
    });
  }
  return left;
}
