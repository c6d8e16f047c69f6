import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { committedTexts, latest, releases } from "./committed.ts";
import { version } from "./version.ts";

const head = (
  what: string,
) => `-- webhookpub ${version}: ${what}, for one transaction of any migration tool.

do $$
begin
  -- What is set for a transaction only is gone where there is none.
  perform set_config('webhookpub.installing', txid_current()::text, true);
end;
$$;
do $$
begin
  if current_setting('webhookpub.installing', true) is distinct from txid_current()::text then
    raise exception using
      errcode = 'WH030',
      message = 'this has to run in one transaction',
      hint = 'With psql: --single-transaction.';
  end if;
end;
$$;
select
  set_config('webhookpub.host_path', current_setting('search_path'), true),
  set_config('webhookpub.host_bodies', current_setting('check_function_bodies'), true),
  set_config('webhookpub.host_patience', current_setting('lock_timeout'), true);
`;

const NEEDS_NOTHING_OF_OURS = `
do $$
declare
  v_there text := 'a schema webhookpub, which is somebody else''s, is';
begin
  if to_regnamespace('webhookpub') is null then
    return;
  end if;
  if to_regprocedure('webhookpub.version()') is not null then
    v_there := format('webhookpub %s is', webhookpub.version());
  end if;
  raise exception using
    errcode = 'WH030',
    message = v_there || ' in this database already',
    hint = 'This file installs it, once. To upgrade: npx webhookpub sql --from, and the version that is there.';
end;
$$;
`;

const needs = (release: string, last: string) => `
do $$
declare
  v_there text := 'none';
  v_last text := '';
begin
  if to_regprocedure('webhookpub.last_migration()') is not null then
    v_there := webhookpub.version();
    v_last := webhookpub.last_migration();
  end if;
  if v_last <> '${last}' then
    raise exception using
      errcode = 'WH030',
      message = format('this upgrades webhookpub ${release}, and in this database is %s', v_there),
      hint = 'Print what that one needs: npx webhookpub sql, with --from and its version if there is one.';
  end if;
end;
$$;
`;

const NEEDS_WORKER = `
do $$
begin
  if to_regclass('graphile_worker.jobs') is null then
    raise exception using
      errcode = 'WH030',
      message = 'the schema graphile_worker is missing',
      hint = 'First run: npx graphile-worker --schema-only; or print it, too: npx webhookpub sql --graphile-worker';
  end if;
end;
$$;
`;

/** Between our files, and after them, all is as the host's tool had it. */
const TAIL = `
select
  set_config('search_path', current_setting('webhookpub.host_path'), true),
  set_config('check_function_bodies', current_setting('webhookpub.host_bodies'), true),
  set_config('lock_timeout', current_setting('webhookpub.host_patience'), true);
`;

/**
 * Everything that `migrate` would run, as one text for other migration tools.
 *
 * @param withWorker graphile-worker's schema, too
 */
export async function sqlFile({ withWorker }: { withWorker: boolean }): Promise<string> {
  const worker = withWorker ? await workerSchema() : NEEDS_WORKER;
  return [head("everything"), NEEDS_NOTHING_OF_OURS, worker, ...parts(committedTexts())].join("\n");
}

/** The same of what has come since a release; undefined: there is no such release. */
export function sqlFileSince(release: string): string | undefined {
  const texts = committedTexts();
  const count = releases(texts).get(release);
  if (count === undefined) return undefined;
  const { name, hash } = latest(texts.slice(0, count));
  return [
    head(`what has come since ${release}`),
    needs(release, `${name} ${hash}`),
    ...parts(texts.slice(count)),
  ].join("\n");
}

/** Without lines with --!, which are graphile-migrate's, and a host's would read them. */
function parts(texts: readonly string[]): string[] {
  return texts.map((text) => text.replaceAll(/^--!.*\n/gm, "").trim() + TAIL);
}

/** graphile-worker's migrations, and the ledger by which it knows that they have run. */
async function workerSchema(): Promise<string> {
  const folder = fileURLToPath(new URL("../sql", import.meta.resolve("graphile-worker")));
  const parts = (await readInOrder(folder)).map(({ name, text }) => {
    const breaking = text.startsWith("--! breaking");
    const body = text
      .replaceAll(/^--!.*\n/gm, "")
      .replaceAll(":GRAPHILE_WORKER_SCHEMA", "graphile_worker");
    return `insert into graphile_worker.migrations (id, breaking) values (${Number(name.slice(0, 6))}, ${breaking});\n${body}`;
  });
  return `
create schema graphile_worker;
create table graphile_worker.migrations (
  id int primary key,
  ts timestamptz default now() not null,
  breaking boolean not null default false
);
${parts.join("\n")}`;
}

async function readInOrder(folder: string): Promise<{ name: string; text: string }[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".sql")).toSorted();
  return Promise.all(
    names.map(async (name) => ({ name, text: await readFile(join(folder, name), "utf8") })),
  );
}
