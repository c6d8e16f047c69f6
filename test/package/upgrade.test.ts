// From each release to the next one, under load, with workers of both: from the package that was
// kept of it, by what docs/upgrading.md says.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { root } from "../../src/config.ts";
import type { Sql } from "../../src/database/connect.ts";
import { codeOf } from "../../src/errors.ts";
import { version } from "../../src/version.ts";
import { isAccepted, type Request } from "../faults/receiver_process.ts";
import { conserved, makeWorld } from "../faults/world.ts";
import { contents } from "../support/contents.ts";
import { emptyDatabase } from "../support/database.ts";
import { freePort } from "../../src/free_port.ts";
import { installPacked, type Project } from "../support/project.ts";
import { copyRepository } from "../support/repository.ts";
import { until } from "../support/until.ts";

const NEXT = `${Number(version.split(".")[0]) + 1}.0.0-next`;

/** The releases that there are, or else what the first would be; and what may come after all. */
async function packages() {
  const repository = await copyRepository(t);
  const make = async (name: string) => {
    const { code, output } = await repository.release(name);
    if (code !== 0) throw new Error(output);
  };
  if (repository.has("migrations/baseline.sql")) await make(version);
  const current = await repository.read("migrations/current.sql");
  const next = await readFile(join(root, "test/package/next_release.sql"), "utf8");
  await writeFile(join(repository.folder, "migrations/current.sql"), `${current}\n${next}`);
  await make(NEXT);
  const all = await repository.releases();
  return { olds: all.filter((one) => one.version !== NEXT), next: all.at(-1)?.tarball ?? "" };
}

interface Signature {
  readonly name: string;
  /** Its parameters, each with its type, and whether it may be left out. */
  readonly inputs: readonly { name: string; type: string; has_default: boolean }[];
  /** The columns of its result, or its type alone. */
  readonly result: readonly string[];
  readonly publishes: boolean;
}

/** What somebody outside may call: workers, and people. */
async function signatures(sql: Sql): Promise<Signature[]> {
  return await sql<Signature[]>`
    select
      p.proname as name,
      (
        select coalesce(json_agg(json_build_object(
          'name', a.name, 'type', format_type(a.type, null),
          'has_default', a.i > p.pronargs - p.pronargdefaults
        ) order by a.i), '[]')
        from (
          select a.name, a.type, row_number() over (order by a.n) as i
          from unnest(
            p.proargnames,
            coalesce(p.proallargtypes, p.proargtypes::oid[]),
            coalesce(p.proargmodes::text[], array_fill('i'::text, array[p.pronargs]))
          ) with ordinality as a (name, type, mode, n)
          where a.mode in ('i', 'v')
        ) as a
      ) as inputs,
      coalesce(
        (
          select json_agg(o.name || ' ' || format_type(o.type, null))
          from unnest(p.proargnames, p.proallargtypes, p.proargmodes::text[]) as o (name, type, mode)
          where o.mode in ('o', 't')
        ),
        json_build_array(format_type(p.prorettype, null))
      ) as result,
      p.pronamespace = 'public'::regnamespace as publishes
    from pg_proc as p
    where exists (
      select from aclexplode(p.proacl) as a
      where a.grantee in (select r.oid from pg_roles as r where r.rolname like 'webhookpub\\_%')
    )
    order by 1`;
}

/** What a call that was right does not find any more, a sentence each. */
function lost(before: readonly Signature[], after: readonly Signature[]): string[] {
  return before.flatMap(({ name, inputs, result, publishes }) => {
    const now = after.find((one) => one.name === name);
    if (!now) return [`${name} is gone`];
    const known = new Set(inputs.map((input) => input.name));
    return [
      ...inputs
        .filter(
          ({ name, type }) => !now.inputs.some((one) => one.name === name && one.type === type),
        )
        .map((input) => `${name} has no ${input.name} ${input.type}`),
      ...now.inputs
        .filter((input) => !known.has(input.name) && !input.has_default)
        .map((input) => `${name} asks for ${input.name}`),
      ...result
        .filter((column) => !now.result.includes(column))
        .map((column) => `${name} does not return ${column}`),
      // A call that is under way has the function itself, which a new one would take from it.
      ...(publishes && now.inputs.length !== inputs.length ? [`${name} is another function`] : []),
    ];
  });
}

const by = (release: string) => (request: Request) =>
  isAccepted(request) && request.headers["user-agent"] === `webhookpub/${release}`;

const { olds, next } = await packages();
const after = await installPacked(t, next);

for (const old of olds) {
  const before = await installPacked(t, old.tarball);

  void t.test(`from ${old.version}, by a tool of the application's`, async (t) => {
    const { sql, url, session } = await emptyDatabase(t);
    const print = async (project: Project, args: string) => {
      const { code, output } = await project.run(`npx webhookpub sql ${args}`.split(" "));
      t.equal(code, 0, args);
      return output;
    };
    await sql.unsafe(await print(before, "--graphile-worker"));
    const upgrade = await print(after, `--from ${old.version}`);
    const application = session();
    await application`begin`;
    await application`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
    const code = await sql.unsafe(upgrade).catch(codeOf);
    t.equal(code, "55P03", "it gives up, rather than stand in publishers' way");
    await application`commit`;
    await sql.unsafe(upgrade);
    const [{ version: now }] = await sql<[{ version: string }]>`select webhookpub.version()`;
    t.equal(now, NEXT);
    await t.rejects(sql.unsafe(upgrade), {
      code: "WH030",
      message: `this upgrades webhookpub ${old.version}, and in this database is ${NEXT}`,
    });
    const found = await after.run(["npx", "webhookpub", "migrate"], { DATABASE_URL: url });
    t.strictSame(found, { code: 0, output: `webhookpub ${NEXT} is installed\n` });
    const other = await emptyDatabase(t);
    await after.run(["npx", "webhookpub", "migrate"], { DATABASE_URL: other.url });
    t.strictSame(await contents(sql), await contents(other.sql), "as migrate makes it");
  });

  void t.test(`from ${old.version}, under load, beside its worker`, async (t) => {
    const database = await emptyDatabase(t);
    const { sql, url, session } = database;
    const port = await freePort();
    const env = { DATABASE_URL: url, WEBHOOKPUB_PORT: `127.0.0.1:${port}` };
    const start = ["npx", "webhookpub", "start", "--no-migrate"];
    const installed = await before.run(["npx", "webhookpub", "migrate"], env);
    t.match(installed, { code: 0, output: `webhookpub ${old.version} is installed` });
    await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
    const world = await makeWorld(t, database);
    await world.webhook("steady");
    const slow = await world.webhook("slow", { maxInFlight: 50 });
    await world.webhook("flaky", { retrySchedule: "{1 s,1 s,1 s}" });
    await world.receivers.behave({
      slow: { answers: [200], delayMs: 400 },
      flaky: { answers: [500, 200] },
    });
    const oldWorker = await before.start(start, env);
    await oldWorker.printed("looking for jobs");
    const load = world.load({ connections: 4, pauseMs: 100 });
    await world.receivers.saw(200, by(old.version), "load");
    const oldSignatures = await signatures(sql);

    // An application that has published and steered, and takes its time to commit.
    const application = session();
    await application`begin`;
    await application`select application.publish('user_1', 3, false)`;
    await application`select webhookpub.update_webhook(${slow.id}, p_description => 'slow')`;
    const published = async () =>
      (await sql<[{ count: number }]>`select count(*)::integer from application.published`)[0]
        .count;
    const migration = await after.start(["npx", "webhookpub", "migrate"], { DATABASE_URL: url });
    await migration.printed("is in the way");
    const since = await published();
    await until(async () => (await published()) > since + 100, "publishers to go on meanwhile");
    t.notMatch(migration.output(), "installed", "it has not got through");
    await application`commit`;
    await migration.printed(`webhookpub ${NEXT} is installed`);
    t.strictSame(lost(oldSignatures, await signatures(sql)), [], "all that was called is there");

    const has = (request: Request) => by(old.version)(request);
    const then = world.receivers.requests().filter(has).length;
    await world.receivers.saw(then + 200, has, "the old worker to go on");
    const ready = await fetch(`http://127.0.0.1:${port}/readyz`);
    t.equal(ready.status, 503);
    t.match(await ready.text(), "this webhookpub is older than the database");

    const refused = await before.run(start, { DATABASE_URL: url });
    t.match(
      refused,
      { code: 1, output: /WH030: this webhookpub is older/ },
      "but it does not start",
    );
    const newWorker = await after.start(start, { DATABASE_URL: url });
    await newWorker.printed("looking for jobs");
    const both = world.receivers.requests().filter(has).length;
    await world.receivers.saw(200, by(NEXT), "the new worker");
    await world.receivers.saw(both + 50, has, "and the old one beside it");
    await oldWorker.stop();
    await load.stop();
    await world.settled();
    await newWorker.stop();
    t.strictSame([...new Set(load.failures)], [], "no publisher has failed");
    const { failed, requests } = await conserved(t, world, { allowed: 0 });
    t.equal(failed, 0);
    t.ok(requests > 600, `${requests} requests`);
    const complaints = oldWorker.output().match(/^.*(?:error|warn|fail).*$/gim) ?? [];
    t.comment(`the old worker complained ${complaints.length} times`, ...complaints.slice(0, 5));
  });
}

void t.test("what would break an old worker's calls is noticed", (t) => {
  const input = (name: string, has_default = false) => ({ name, type: "text", has_default });
  const before = {
    name: "lease",
    inputs: [input("p_id")],
    result: ["id text", "more boolean"],
    publishes: false,
  };
  const compare = (now: Partial<Signature>) => lost([before], [{ ...before, ...now }]);
  t.strictSame(compare({ inputs: [input("p_id"), input("p_more", true)] }), []);
  t.strictSame(compare({ result: [...before.result, "later text"] }), []);
  t.strictSame(compare({ name: "lease_all" }), ["lease is gone"]);
  t.strictSame(compare({ inputs: [input("p_key")] }), [
    "lease has no p_id text",
    "lease asks for p_key",
  ]);
  t.strictSame(compare({ result: ["id text"] }), ["lease does not return more boolean"]);
  t.end();
});
