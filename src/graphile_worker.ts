// graphile-worker's schema, which may be somebody else's, too: it is not upgraded under them.
import type {} from "graphile-worker";
import { runs } from "./config.ts";
import { connect } from "./database/connect.ts";
import { WebhookpubError } from "./errors.ts";

type Event = GraphileWorker.MigrateEvent;

/** The last revision of its schema that a version brought. */
const VERSIONS: Readonly<Record<number, string>> = {
  10: "0.13",
  14: "0.15",
  18: "0.16",
  19: "0.17",
  20: "0.18",
};

/**
 * What happens before graphile-worker upgrades its schema: refuses if workers of the version
 * before could not go on, and these may be somebody else's.
 *
 * @throws WebhookpubError WH034
 */
export async function refuseBreakingUpgrade(event: Event): Promise<void> {
  const { maxMigrationNumber, breakingMigrationNumbers, version } = event.ctx;
  const { rows } = await event.client.query<{ revision: number | null }>(
    "select max(id) as revision from graphile_worker.migrations",
  );
  const revision = rows[0]?.revision;
  if (revision === null || revision === undefined) return;
  const breaks = breakingMigrationNumbers.some(
    (number) => revision < number && number <= maxMigrationNumber,
  );
  if (!breaks || !(await isSharedOrForeign(event))) return;
  throw new WebhookpubError(
    "WH034",
    `this database has graphile-worker's schema of revision ${named(revision)}, webhookpub brings ${maxMigrationNumber} (${version}): workers of the older one would stop`,
    `Upgrade graphile-worker in your application first. Or stop its workers for good, and run:
${runs("migrate --upgrade-graphile-worker")}`,
  );
}

/**
 * Whether this role may look for jobs, which graphile-worker does before it asks any plugin.
 *
 * @throws PostgresError 42501
 */
export async function checkJobs(url: string | undefined): Promise<void> {
  const sql = connect(url, { max: 1 });
  try {
    const [schema] = await sql<[{ found: boolean }]>`
      select to_regclass('graphile_worker.migrations') is not null as found`;
    if (schema.found) await sql`select from graphile_worker.migrations limit 1`;
  } finally {
    await sql.end({ timeout: 1 });
  }
}

const named = (revision: number) => `${revision} (${VERSIONS[revision] ?? "another version"})`;

/** Whether somebody else has installed it, or has tasks of its own in it. */
async function isSharedOrForeign({ client }: Event): Promise<boolean> {
  const { rows } = await client.query<{ ours: boolean }>(
    `select to_regnamespace('webhookpub') is not null
       and to_regclass('graphile_worker._private_tasks') is not null as ours`,
  );
  if (!rows[0]?.ours) return true;
  const tasks = await client.query(
    "select from graphile_worker._private_tasks where identifier !~ '^webhook_' limit 1",
  );
  return tasks.rowCount !== 0;
}
