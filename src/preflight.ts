// What has to be so before migrate writes anything: found out first, and said all at once.
import type { Sql } from "./database/connect.ts";
import { WebhookpubError } from "./errors.ts";

const OLDEST_POSTGRES = 15;
const SCHEMAS = ["webhookpub", "graphile_worker", "graphile_migrate"];

interface Facts {
  readonly me: string;
  readonly database: string;
  readonly version: number;
  readonly encoding: string;
  readonly read_only: boolean;
  readonly may_create_schemas: boolean;
  /** Null: there is no schema public. */
  readonly may_create_in_public: boolean | null;
  readonly pgcrypto: { schema: string; usable: boolean } | null;
  readonly pgcrypto_is_available: boolean;
  /** Those of SCHEMAS that are there, and whether this role may do with them what their owner may. */
  readonly schemas: readonly { name: string; owner: string; is_ours: boolean }[];
}

/** Something that is missing, and the statement of somebody with more rights that gives it. */
interface Fault {
  readonly what: string;
  readonly statement: string;
}

/**
 * Checks that a database can be migrated by this role.
 *
 * @throws WebhookpubError WH031, with all that is missing and what gives it
 */
export async function checkDatabase(sql: Sql): Promise<void> {
  const found = faults(await facts(sql));
  if (found.length === 0) return;
  throw new WebhookpubError(
    "WH031",
    `this database can't be migrated: ${found.map(({ what }) => what).join("; ")}`,
    `Nothing was changed. Somebody who may has to do this first:\n${found.map(({ statement }) => statement).join("\n")}`,
  );
}

function faults(it: Facts): Fault[] {
  const me = quoted(it.me);
  const found: Fault[] = [];
  const unless = (holds: boolean, what: string, statement: string) => {
    if (!holds) found.push({ what, statement });
  };
  unless(
    it.version >= OLDEST_POSTGRES * 10_000,
    `PostgreSQL is ${Math.floor(it.version / 10_000)}, and has to be ${OLDEST_POSTGRES} or newer`,
    "-- upgrade PostgreSQL",
  );
  unless(
    it.encoding === "UTF8",
    `its encoding is ${it.encoding}, and has to be UTF8: events and answers are any text`,
    `create database ${quoted(`${it.database}_utf8`)} encoding 'UTF8' template template0; -- and move to it`,
  );
  unless(
    !it.read_only,
    "it can't be written to",
    "-- connect to the primary server, without default_transaction_read_only",
  );
  const missing = SCHEMAS.filter((name) => !it.schemas.some((one) => one.name === name));
  unless(
    it.may_create_schemas || (missing.length === 0 && it.pgcrypto !== null),
    `${it.me} may not create ${missing.length > 0 ? "schemas" : "extensions"} in it`,
    `grant create on database ${quoted(it.database)} to ${me};`,
  );
  for (const { name, owner } of it.schemas.filter((one) => !one.is_ours)) {
    found.push({
      what: `its schema ${name} belongs to ${owner}`,
      statement: `-- migrate as ${owner}, or: grant ${quoted(owner)} to ${me};`,
    });
  }
  unless(
    it.may_create_in_public !== null,
    "it has no schema public, where the publish functions belong",
    `create schema public; grant usage on schema public to public; grant create on schema public to ${me};`,
  );
  unless(
    it.may_create_in_public !== false,
    `${it.me} may not create functions in its schema public`,
    `grant create on schema public to ${me};`,
  );
  unless(
    it.pgcrypto?.usable ?? true,
    `${it.me} may not use schema ${it.pgcrypto?.schema ?? ""}, where pgcrypto is`,
    `grant usage on schema ${quoted(it.pgcrypto?.schema ?? "")} to ${me};`,
  );
  unless(
    it.pgcrypto !== null || it.pgcrypto_is_available,
    "the server does not have the extension pgcrypto",
    "-- install PostgreSQL's contrib package",
  );
  return found;
}

async function facts(sql: Sql): Promise<Facts> {
  const [found] = await sql<[Facts]>`
    select
      current_user::text as me,
      current_database()::text as database,
      current_setting('server_version_num')::integer as version,
      current_setting('server_encoding') as encoding,
      pg_is_in_recovery() or current_setting('transaction_read_only')::boolean as read_only,
      has_database_privilege(current_database(), 'create') as may_create_schemas,
      has_schema_privilege(to_regnamespace('public'), 'create') as may_create_in_public,
      (
        select json_build_object(
          'schema', e.extnamespace::regnamespace::text,
          'usable', has_schema_privilege(e.extnamespace, 'usage')
        )
        from pg_extension as e
        where e.extname = 'pgcrypto'
      ) as pgcrypto,
      exists (
        select from pg_available_extensions as a where a.name = 'pgcrypto'
      ) as pgcrypto_is_available,
      coalesce((
        select json_agg(json_build_object(
          'name', n.nspname,
          'owner', pg_get_userbyid(n.nspowner),
          'is_ours', pg_has_role(n.nspowner, 'usage')
        ) order by n.nspname desc)
        from pg_namespace as n
        where n.nspname = any (${SCHEMAS})
      ), '[]') as schemas`;
  return found;
}

/** A name as SQL has it. */
function quoted(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}
