// What a style guide says and a program can check, held against the files and the catalog.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import t, { type Test } from "tap";
import { committedTexts } from "../src/committed.ts";
import { root } from "../src/config.ts";
import { testDatabase } from "./support/database.ts";
import { readPage, tableRows } from "./support/markdown.ts";
import { type SqlFile, sqlFiles } from "./support/sql_files.ts";

const { sql } = await testDatabase(t);
const files = await sqlFiles();

/** The functions that people call with bare names, or that can't be anything else. */
const BARE_NAMED = new Set([
  "webhook_publish_tx",
  "webhook_publish_best_effort_tx",
  "webhook_publish",
  "event_id",
  "is_valid_event_type",
  "explain_event",
]);

/** Columns whose name says all that there is to say; any other has a comment. */
const OBVIOUS = new Set(
  `id user_id webhook_id event_id delivery_id message_id agent_id conversation_id event_type type
  labels data dedup_key description enabled secret max_attempts status_code last_status_code
  last_error created_at disabled_at processed_at delivered_at last_attempt_at`.split(/\s+/),
);

const LABELS = ["Called by", "Locks", "Returns", "Raises"];

interface SqlFunction {
  readonly schema: string;
  readonly name: string;
  readonly signature: string;
  readonly definer: boolean;
  readonly volatility: string;
  /** Names of the parameters that a caller gives. */
  readonly inputs: string[];
  readonly config: string[] | null;
  readonly comment: string | null;
  readonly public_may_execute: boolean;
}

const functions: readonly SqlFunction[] = await sql<SqlFunction[]>`
  select
    n.nspname as schema,
    p.proname as name,
    p.oid::regprocedure::text as signature,
    p.prosecdef as definer,
    p.provolatile as volatility,
    array(
      select a.name
      from unnest(
        p.proargnames,
        coalesce(p.proargmodes::text[], array_fill('i'::text, array[p.pronargs]))
      ) as a (name, mode)
      where a.mode in ('i', 'v')
    ) as inputs,
    p.proconfig as config,
    obj_description(p.oid, 'pg_proc') as comment,
    has_function_privilege('public', p.oid, 'execute') as public_may_execute
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  where n.nspname = 'webhookpub' or (n.nspname = 'public' and p.proname like 'webhook\\_%')
  order by 1, 2`;

interface Relation {
  readonly name: string;
  readonly kind: string;
  readonly comment: string | null;
  readonly columns: Record<string, string | null>;
}

const relations: readonly Relation[] = await sql<Relation[]>`
  select
    c.relname as name,
    c.relkind as kind,
    obj_description(c.oid, 'pg_class') as comment,
    (
      select json_object_agg(a.attname, col_description(c.oid, a.attnum))
      from pg_attribute as a
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ) as columns
  from pg_class as c
  where c.relnamespace = 'webhookpub'::regnamespace
    and c.relkind in ('r', 'p', 'v', 'm')
    and (not c.relispartition or c.relname like '%\\_default')
  order by 1`;

/** Fails once, with everything that breaks a rule. */
const none = (t: Test, found: readonly string[], rule: string) => t.strictSame(found, [], rule);

const keyword =
  /\b(?:SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|CREATE|BEGIN|END|RETURNS?|LANGUAGE|AND|OR|NOT|NULL)\b/;

/** The code without what stands in quotes. */
const bare = (code: string) => code.replaceAll(/'(?:[^']|'')*'/g, "''");

/** Lines of a file that break a rule, as file:line. */
function lines(file: SqlFile, breaks: (line: string) => boolean): string[] {
  return file.text
    .split("\n")
    .flatMap((line, i) => (breaks(line) ? [`sql/${file.path}:${i + 1} ${line.trim()}`] : []));
}

// Files of sql/ -----------------------------------------------------------------------

void t.test("each file of sql/ creates one object, which is called like the file", (t) => {
  t.ok(files.length > 50, `${files.length} files`);
  for (const { path, name, code } of files) {
    const created = [
      ...code.matchAll(/^create or replace (?:function|procedure|view) (\w+)\.(\w+)/gm),
    ].map((match) => match[2]);
    t.strictSame(created, [name], path);
    const statements = code.replaceAll(/^as \$\$\n[^]*?^\$\$;/gm, "");
    t.equal(statements.match(/^\s*(?:create|alter|drop)\b/gm)?.length, 1, `${path}: nothing else`);
    t.match(code, new RegExp(`comment on (function|view) \\w+\\.${name}\\b`), `${path}: comment`);
  }
  t.end();
});

void t.test("each file of sql/ begins with a sentence of purpose, then known labels", (t) => {
  for (const { path, header, text } of files) {
    t.match(text, /^-- [A-Z]/, `${path}: a sentence at the top`);
    const purpose = header.slice(0, header.includes("") ? header.indexOf("") : undefined);
    t.match(purpose.join(" "), /[.:]$/, `${path}: it is a whole one`);
    const labels = header.flatMap(
      (line) => /^([A-Z][a-z]+(?: [a-z]+)?) {2,}\S/.exec(line)?.[1] ?? [],
    );
    none(
      t,
      labels.filter((label) => !LABELS.includes(label)),
      `${path}: labels`,
    );
    t.strictSame(
      labels,
      LABELS.filter((label) => labels.includes(label)),
      `${path}: in order`,
    );
  }
  t.end();
});

void t.test("whoever calls an object, as its file says, does call it", (t) => {
  const byName = new Map(files.map((file) => [file.name, file]));
  const wrong = files.flatMap(({ path, name, header }) => {
    const from = header.findIndex((line) => line.startsWith("Called by"));
    if (from < 0) return [];
    const rest = header.slice(from + 1);
    const length = rest.findIndex((line) => !line.startsWith(" "));
    const calledBy = [header[from], ...rest.slice(0, length < 0 ? undefined : length)].join(" ");
    // Those of the list; a name with a verb behind it is prose.
    const callers = /\b(?:webhookpub|public)\.(\w+)(?=[,.;:]|$| and\b| in\b| \()/g;
    return [...calledBy.matchAll(callers)].flatMap(([said, caller]) => {
      const code = byName.get(caller ?? "")?.code ?? "";
      return new RegExp(`\\b${name}\\b`).test(code) || relations.some((one) => one.name === caller)
        ? []
        : [`sql/${path}: ${said} does not`];
    });
  });
  none(t, wrong, "the caller's code names the object");
  t.end();
});

void t.test("each error that a file raises stands under Raises", (t) => {
  const wrong = files.flatMap(({ path, header, code }) => {
    const raises = header.slice(header.findIndex((line) => line.startsWith("Raises"))).join(" ");
    const codes = [...code.matchAll(/errcode = '(\w+)'/g)].map((match) => match[1] ?? "");
    return codes.filter((one) => !raises.includes(one)).map((one) => `sql/${path}: ${one}`);
  });
  none(t, wrong, "Raises");
  const raised = files.flatMap(({ code }) => [...code.matchAll(/raise exception using([^;]*);/g)]);
  t.ok(raised.length > 10);
  for (const [statement, options = ""] of raised) {
    t.match(options, /errcode = 'WH\d{3}'/, statement);
    t.match(options, /\bmessage = /, statement);
    t.match(options, /\bhint = (?:'|webhookpub\.json_hint\()/, statement);
  }
  none(
    t,
    files.flatMap(({ path, code }) => (/raise exception (?!using)/.test(code) ? [path] : [])),
    "no other way to raise",
  );
  t.end();
});

void t.test("functions say their volatility, and bodies begin in the first column", (t) => {
  for (const { path, code } of files) {
    if (!code.includes("create or replace function")) continue;
    t.match(code, /^ {2}(?:volatile|stable|immutable)$/m, `${path}: volatility`);
    t.match(code, /^ {2}language (?:sql|plpgsql)$/m, `${path}: language`);
    t.match(code, /^(?:as \$\$|return\b)/m, `${path}: body`);
  }
  t.end();
});

void t.test("sql/ is lowercase, in spaces, and not too wide", (t) => {
  none(
    t,
    files.flatMap((file) => lines(file, (line) => /\t|\s$/.test(line))),
    "blanks",
  );
  none(
    t,
    files.flatMap(
      ({ path, code }) => keyword.exec(bare(code))?.map((word) => `${path}: ${word}`) ?? [],
    ),
    "keywords",
  );
  // The text of a comment, which can't be broken, may be longer.
  const isTooWide = (line: string) => line.length > 110 && !/^ *(?:.* is )?'.*';$/.test(line);
  none(
    t,
    files.flatMap((file) => lines(file, isTooWide)),
    "at most 110 columns",
  );
  const all = files.flatMap((file) => file.text.split("\n"));
  const wide = all.filter((line) => line.length > 88).length;
  t.ok(wide < all.length / 10, `${wide} of ${all.length} lines are wider than 88 columns`);
  t.end();
});

/** Beside the makers and droppers of partitions: what goes over tables or grantees. */
const DYNAMIC = new Set(["grant_tables", "lock_tables", "settle_privileges"]);
const OF_PARTITIONS = /_partitions?$|_strays$|^swap_default$/;

void t.test("locals start with v_, and only partitions and privileges need dynamic SQL", (t) => {
  const locals = files.flatMap(({ path, code }) =>
    [...code.matchAll(/^declare\n([^]*?)^begin$/gm)].flatMap(([, block = ""]) =>
      [...block.matchAll(/^ {2}(\w+) /gm)].map(([, local = ""]) => ({ path, local })),
    ),
  );
  t.ok(locals.length > 20);
  none(
    t,
    locals
      .filter(({ local }) => !local.startsWith("v_"))
      .map(({ path, local }) => `${path}: ${local}`),
    "v_",
  );
  none(
    t,
    files
      .filter(({ code }) => /^\s*execute\b/m.test(code))
      .map(({ name }) => name)
      .filter((name) => !OF_PARTITIONS.test(name) && !DYNAMIC.has(name)),
    "execute",
  );
  t.end();
});

/** Longer bodies, how long, and why each is one. None is to be added, and none to grow. */
const LONG_BODIES: Readonly<Record<string, number>> = {
  add_deliver_jobs: 50, // one statement
  backlog: 105, // one row of many numbers
  check_filters: 47, // one list of rules
  check_url: 71, // one list of rules
  delete_expired: 53, // one for events, one for deliveries
  diagnose_work: 57, // one list of findings
  due_deliveries: 62, // one statement
  fan_out_batch: 54, // a batch, and its events one by one
  fan_out_events: 112, // one statement
  judge_answers: 64, // one statement
  rate_webhooks: 68, // one statement
  redeliver: 83, // one statement, then what it did
  redeliver_since: 76, // guards, then one statement
  refuse_event: 77, // one list of rules
  signed_requests: 66, // one statement
  wake_deliveries: 59, // one list, and what is struck from it
  webhook_publish_tx: 77, // each call of another function is dear
};

void t.test("no number is shown as a float, which is printed as each session likes", async (t) => {
  const shown = await sql<{ name: string }[]>`
    select c.relname || '.' || a.attname as name
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p', 'v')
      and a.atttypid in ('float4'::regtype, 'float8'::regtype)
    union all
    select p.proname
    from pg_proc as p
    where p.pronamespace = 'webhookpub'::regnamespace
      and array['float4'::regtype, 'float8'::regtype]::oid[]
        && (coalesce(p.proallargtypes[p.pronargs + 1 :], '{}') || p.prorettype)
      and exists (
        select from unnest(array['publisher', 'worker', 'operator', 'readonly', 'tenant']) as r
        where has_function_privilege('webhookpub_' || r, p.oid, 'execute')
      )`;
  none(
    t,
    shown.map(({ name }) => name),
    "numeric",
  );
});

void t.test("a body has about 40 lines", (t) => {
  const lengths = files.map(({ name, code }) => {
    const body =
      /^(?:as \$\$\n|as\n|return\b|begin atomic\n)([^]*?)^comment on/m.exec(code)?.[1] ?? "";
    return [name, body.split("\n").filter((line) => /[^\s$;]/.test(line)).length] as const;
  });
  t.ok(lengths.every(([, length]) => length > 0));
  none(
    t,
    lengths
      .filter(([name, length]) => length > (LONG_BODIES[name] ?? 45))
      .map(([name, length]) => `${name}: ${length}`),
    "make a function of a part of it",
  );
  none(
    t,
    Object.keys(LONG_BODIES).filter(
      (name) => (lengths.find(([one]) => one === name)?.[1] ?? 0) <= 45,
    ),
    "what is short by now leaves the list",
  );
  t.end();
});

void t.test("each file of sql/ is in a migration, and nothing else is", async (t) => {
  const current = await readFile(join(root, "migrations/current.sql"), "utf8");
  const included = new Set(
    [...committedTexts(), current].flatMap((text) =>
      [...text.matchAll(/^--!(?: Included|include) (\S+)$/gm)].map((match) => match[1]),
    ),
  );
  none(
    t,
    files.map((file) => file.path).filter((path) => !included.has(path)),
    "included",
  );
  const names = new Set(files.map((file) => file.name));
  const objects = [...functions, ...relations.filter(({ kind }) => kind === "v" || kind === "m")];
  none(
    t,
    objects.map(({ name }) => name).filter((name) => !names.has(name)),
    "functions and views without a file",
  );
  const existing = new Set(objects.map(({ name }) => name));
  none(
    t,
    [...names].filter((name) => !existing.has(name)),
    "files whose object is not there",
  );
});

/** What people wrote for people: comments, and what the database says. */
async function prosePlaces(): Promise<Map<string, string>> {
  const places = new Map<string, string>();
  for (const { path, text } of files) places.set(`sql/${path}`, proseOfSql(text));
  places.set("the baseline", proseOfSql(committedTexts()[0] ?? ""));
  for (const [path, text] of await sources()) {
    const comments = text.match(/\/\*\*?[^]*?\*\/|(?<=^|\s)\/\/ .*$/gm) ?? [];
    places.set(path, comments.join("\n"));
  }
  return places;
}

/** Comments, and literals with a blank in them. */
function proseOfSql(text: string): string {
  const comments = text.match(/--(?!!).*$/gm) ?? [];
  const literals = text.replaceAll(/--.*$/gm, "").match(/'(?:[^']|'')* (?:[^']|'')*'/g) ?? [];
  return [...comments, ...literals].join("\n");
}

async function sources(): Promise<[string, string][]> {
  const found: [string, string][] = [];
  for (const folder of ["src", "tasks"]) {
    for (const name of await readdir(join(root, folder), { recursive: true })) {
      if (!name.endsWith(".ts")) continue;
      found.push([`${folder}/${name}`, await readFile(join(root, folder, name), "utf8")]);
    }
  }
  return found;
}

/** Words that are something else there: doctor's findings have topics. */
const OTHERWISE = new Map([["topic", /diagnose|doctor/]]);

void t.test("comments have the words of the glossary", async (t) => {
  const glossary = await readPage("docs/glossary.md");
  const words = tableRows(glossary, "word").flatMap(([, , not = ""]) => not.split(", "));
  const places = await prosePlaces();
  t.ok(places.size > 100, `${places.size} places`);
  none(
    t,
    [...places].flatMap(([path, prose]) =>
      words
        .filter((word) => word !== "" && !OTHERWISE.get(word)?.test(path))
        .flatMap((word) => prose.match(new RegExp(`\\b${word}(?:e?s)?\\b`, "gi")) ?? [])
        .map((word) => `${path}: ${word}`),
    ),
    "docs/glossary.md has the word",
  );
});

void t.test("names in the code have the glossary's words", async (t) => {
  const rows = tableRows(await readPage("docs/glossary.md"), "in code");
  t.ok(rows.length > 5);
  const names =
    /\b(?:function|const|let) (\w+)|^ {2,4}(?:async )?(\w+)\(|^ {2,4}(?:readonly )?(\w+)\??:/gm;
  const banned = new RegExp(
    `^(?:${rows
      .flatMap(([, , not = ""]) => not.split(", "))
      .filter((word) => word !== "")
      .join("|")})(?:$|[A-Z])`,
  );
  none(
    t,
    (await sources()).flatMap(([path, text]) =>
      [...text.matchAll(names)]
        .map(([, a, b, c]) => a ?? b ?? c ?? "")
        .filter((name) => banned.test(name))
        .map((name) => `${path}: ${name}`),
    ),
    "docs/glossary.md, in the code",
  );
});

// The catalog -------------------------------------------------------------------------

void t.test("every object has a comment, and so has every column that needs one", async (t) => {
  const isSentence = (comment: string | null) => comment !== null && /\S.*\.$/s.test(comment);
  t.ok(functions.length > 50 && relations.length > 8);
  const [schema] = await sql<[{ comment: string | null }]>`
    select obj_description('webhookpub'::regnamespace, 'pg_namespace') as comment`;
  t.ok(isSentence(schema.comment), "the schema");
  none(
    t,
    functions.filter(({ comment }) => !isSentence(comment)).map(({ signature }) => signature),
    "functions",
  );
  none(
    t,
    relations.filter(({ comment }) => !isSentence(comment)).map(({ name }) => name),
    "tables and views",
  );
  const columns = relations.flatMap((relation) =>
    Object.entries(relation.columns).map(([column, comment]) => ({
      name: `${relation.name}.${column}`,
      comment,
      // A default partition's columns are its parent's.
      obvious: OBVIOUS.has(column) || relation.name.endsWith("_default"),
    })),
  );
  none(
    t,
    columns.filter(({ obvious, comment }) => !obvious && comment === null).map(({ name }) => name),
    "columns",
  );
  none(
    t,
    columns
      .filter(({ comment }) => comment !== null && !isSentence(comment))
      .map(({ name }) => name),
    "whole sentences",
  );
  const others = await sql<{ name: string; comment: string | null }[]>`
    select c.oid::regclass::text as name, obj_description(c.oid, 'pg_class') as comment
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind = 'S'
      -- One of an identity column belongs to it.
      and not exists (select from pg_depend as d where d.objid = c.oid and d.deptype = 'i')
    union all
    select y.oid::regtype::text, obj_description(y.oid, 'pg_type')
    from pg_type as y
    where y.typnamespace = 'webhookpub'::regnamespace and y.typtype in ('e', 'd')`;
  t.ok(others.length > 1);
  none(
    t,
    others.filter(({ comment }) => !isSentence(comment)).map(({ name }) => name),
    "sequences and types",
  );
});

void t.test("the comment of a function names the errors that it raises", (t) => {
  const wrong = files.flatMap(({ path, name, header }) => {
    const from = header.findIndex((line) => line.startsWith("Raises"));
    const raises = from < 0 ? [] : header.slice(from);
    const length = raises.findIndex((line, i) => i > 0 && !line.startsWith(" "));
    const codes =
      raises
        .slice(0, length < 0 ? undefined : length)
        .join(" ")
        .match(/WH\d{3}/g) ?? [];
    const comment = functions.find((one) => one.name === name)?.comment ?? "";
    const [, first, last] = /(WH\d{3}) to (WH\d{3})/.exec(comment) ?? [];
    const named = (code: string) =>
      comment.includes(code) ||
      (first !== undefined && last !== undefined && first <= code && code <= last);
    return codes.filter((code) => !named(code)).map((code) => `sql/${path}: ${code}`);
  });
  none(t, wrong, "WH…");
  t.ok(functions.some(({ comment }) => comment?.includes("WH020")));
  t.end();
});

void t.test("security definer functions pin their search_path, pg_temp last", (t) => {
  const definers = functions.filter(({ definer }) => definer);
  t.ok(definers.length > 10, `${definers.length} of them`);
  for (const { signature, config } of definers) {
    const path = config?.find((setting) => setting.startsWith("search_path="));
    t.match(path, /^search_path=(?:.*, )?pg_temp$/, signature);
    t.notMatch(path, /public|\$user/, `${signature}: nobody else can write there`);
  }
  for (const name of BARE_NAMED) {
    // These need no rights of their own, or are to show what their caller may see.
    if (name === "event_id" || name === "explain_event") continue;
    t.ok(
      definers.some((one) => one.name === name),
      `${name}, which roles without rights on tables call, is one of them`,
    );
  }
  t.end();
});

void t.test("whoever says how it is planned does so by a recipe of CONTRIBUTING.md", async (t) => {
  const recipes = new Map(
    tableRows(await readPage("CONTRIBUTING.md"), "recipe").map(([name = "", , settings = ""]) => [
      settings.replaceAll(/`| (?==)|(?<==) /g, ""),
      name,
    ]),
  );
  const uses = new Map<string, number>();
  const others = functions.flatMap(({ signature, config }) => {
    const settings = (config ?? []).filter((one) =>
      /^(?:enable_|plan_cache_mode|jit|.*_cost)/.test(one),
    );
    if (settings.length === 0) return [];
    const recipe = recipes.get(settings.join(", "));
    if (recipe !== undefined) uses.set(recipe, (uses.get(recipe) ?? 0) + 1);
    return recipe === undefined ? [`${signature}: ${settings.join(", ")}`] : [];
  });
  none(t, others, "the same settings, in the same order");
  t.strictSame([...uses.keys()].toSorted(), [...recipes.values()].toSorted(), "each is in use");
});

void t.test("PUBLIC may execute none of the functions", (t) => {
  none(
    t,
    functions.filter((one) => one.public_may_execute).map(({ signature }) => signature),
    "EXECUTE",
  );
  t.end();
});

void t.test("each function, table and view stands in the test of the roles", async (t) => {
  const text = await readFile(join(root, "test/roles/roles.test.ts"), "utf8");
  const listed = new Set(
    [...text.matchAll(/^ {2}(\w+): (?:\[|"|NOBODY)/gm)].map((match) => match[1]),
  );
  none(
    t,
    [...functions, ...relations.filter((one) => !one.name.endsWith("_default"))]
      .map(({ name }) => name)
      .filter((name) => !listed.has(name)),
    "decide in sql/9_roles/ who may use it, and list it in test/roles/roles.test.ts",
  );
});

void t.test("PUBLIC and strangers have no privilege on any table or view", async (t) => {
  const open = await sql<{ name: string }[]>`
    select c.relname as name
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace
      and exists (select from aclexplode(c.relacl) as a where a.grantee = 0)`;
  none(
    t,
    open.map(({ name }) => name),
    "PUBLIC",
  );
  const [schema] = await sql<[{ usage: boolean }]>`
    select has_schema_privilege('public', 'webhookpub', 'usage') as usage`;
  t.notOk(schema.usage, "nor on the schema");
});

void t.test(
  "whatever a user has is under row-level security; views ask as who reads",
  async (t) => {
    const secured = await sql<{ name: string; secured: boolean }[]>`
    select c.relname as name, c.relrowsecurity as secured
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p')`;
    none(
      t,
      secured
        .filter((one) => !one.secured && !["settings", "event_types", "upkeep"].includes(one.name))
        .map(({ name }) => name),
      "row-level security, on partitions, too",
    );
    t.ok(secured.length > 40);
    const invokers = await sql<{ name: string }[]>`
    select c.relname as name
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind = 'v'
      and not coalesce('security_invoker=true' = any (c.reloptions), false)`;
    none(
      t,
      invokers.map(({ name }) => name),
      "security_invoker",
    );
  },
);

void t.test("parameters start with p_, but for those that people type", (t) => {
  const wrong = functions
    .filter(({ name }) => !BARE_NAMED.has(name))
    .flatMap(({ signature, inputs }) =>
      inputs.filter((input) => !/^p_[a-z]/.test(input)).map((input) => `${signature}: ${input}`),
    );
  none(t, wrong, "p_");
  const prefixed = functions
    .filter(
      ({ name, inputs }) => BARE_NAMED.has(name) && inputs.some((one) => one.startsWith("p_")),
    )
    .map(({ signature }) => signature);
  none(t, prefixed, "bare names");
  t.end();
});

void t.test(
  "constraints and indexes have names of their own that say what they hold",
  async (t) => {
    const named = await sql<{ relation: string; name: string; type: string }[]>`
    select c.relname as relation, k.conname as name, k.contype::text as type
    from pg_constraint as k
    join pg_class as c on c.oid = k.conrelid
    where c.relnamespace = 'webhookpub'::regnamespace and not c.relispartition
      and k.contype not in ('n', 'p')
    union all
    select c.relname, i.indexrelid::regclass::text, 'index'
    from pg_index as i
    join pg_class as c on c.oid = i.indrelid
    where c.relnamespace = 'webhookpub'::regnamespace and not c.relispartition
      and not i.indisprimary`;
    t.ok(named.length > 15);
    for (const { relation, name: qualified, type } of named) {
      const name = qualified.replace(/^webhookpub\./, "");
      t.ok(name.startsWith(`${relation}_`), `${name} begins with its table`);
      t.notMatch(name, /_(?:check|idx|key|fkey|excl)\d*$/, `${name} is not generated`);
      if (type === "c") t.match(name, /_(?:is|are|have|has|iff)_/, `${name} is a sentence`);
    }
    const triggers = await sql<{ name: string }[]>`
    select p.proname as name
    from pg_proc as p
    where p.pronamespace = 'webhookpub'::regnamespace and p.prorettype = 'trigger'::regtype
      -- For tables of others.
      and p.proname <> 'publish_row'`;
    for (const { name } of triggers) t.match(name, /^tg_[a-z_]+__[a-z_]+$/);
  },
);

/** Text for people to read; any other may be an id or a machine's name. */
const PROSE = "description last_error error message response_body envelope body".split(" ");

void t.test("ids and names compare by their bytes", async (t) => {
  const columns = await sql<{ name: string; column: string }[]>`
    select c.relname as name, a.attname as column
    from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p')
      and not a.attisdropped
      and a.attcollation not in (0, '"C"'::regcollation)`;
  none(
    t,
    columns
      .filter(({ column }) => !PROSE.includes(column))
      .map((one) => `${one.name}.${one.column}`),
    'collate "C"',
  );
  none(
    t,
    files.flatMap(({ path, code }) =>
      [...code.matchAll(/\b(?:lower|upper|initcap)\s*\((?:[^()]|\([^()]*\))*\)/g)]
        .map(([call]) => call)
        .filter((call) => !call.includes('collate "C"'))
        .map((call) => `sql/${path}: ${call}`),
    ),
    "case is folded as ASCII's is",
  );
  none(
    t,
    files.flatMap(({ path, code }) =>
      /~\*|\bi?like_regex\b|\bilike\b/.test(bare(code)) ? [path] : [],
    ),
    "no other way to fold it",
  );
});

void t.test("no literal means something else where backslashes escape", async (t) => {
  const texts = new Map(files.map(({ path, code }) => [`sql/${path}`, code]));
  committedTexts().forEach((text, i) => {
    texts.set(`migration ${i + 1}`, text.replaceAll(/^\s*--.*$/gm, ""));
  });
  none(
    t,
    [...texts].flatMap(([path, code]) =>
      [...code.matchAll(/(E?)'(?:[^']|'')*'/g)]
        .filter(([literal, escapes]) => escapes === "" && literal.includes("\\"))
        .map(([literal]) => `${path}: ${literal}`),
    ),
    "E'…', or no backslash",
  );
});

void t.test("a migration of a later release locks the tables that it changes", async (t) => {
  const later = new Map<string, string>();
  // What the baseline makes, nobody uses yet.
  committedTexts().forEach((text, i) => {
    if (i >= 2) later.set(`migration ${i + 1}`, text);
  });
  for (const path of ["migrations/current.sql", "test/package/next_release.sql"]) {
    later.set(path, await readFile(join(root, path), "utf8"));
  }
  const change =
    /^(?:(?:alter|drop) table|(?:create|drop) (?:trigger|policy|rule) [^;]*? on|create (?:unique )?index [^;]*? on) (?:only )?(webhookpub\.\w+)/gm;
  let count = 0;
  const unlocked = [...later].flatMap(([path, text]) => {
    const own = new Set(
      [...text.matchAll(/^create table (webhookpub\.\w+)/gm)].map(([, name]) => name),
    );
    const changes = [...text.matchAll(change)].filter(([, name]) => !own.has(name));
    count += changes.length;
    return changes
      .filter(({ index, 1: name }) => {
        const [, locked = ""] = /lock_tables\(([^)]*)\)/.exec(text.slice(0, index)) ?? [];
        return !locked.includes(`'${name}'`);
      })
      .map(([statement]) => `${path}: ${statement}`);
  });
  none(t, unlocked, "webhookpub.lock_tables names them, before");
  t.ok(count > 0);
});

// The repository ----------------------------------------------------------------------

const skip = existsSync(join(root, ".git")) ? false : "this is no git checkout";

void t.test("no file holds a path of somebody's machine", { skip }, async (t) => {
  const listed = execFileSync("git", ["ls-files", "-z", "-c", "-o", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
  });
  const paths = listed.split("\0").filter((path) => path !== "");
  t.ok(paths.length > 50);
  const machine = [root.replace(/\/$/, ""), `${homedir()}/`, "/home/", "/Users/"].filter(
    (prefix) => prefix.length > 2,
  );
  const found: string[] = [];
  for (const path of paths) {
    if (path === "test/house_style.test.ts") continue;
    const text = await readFile(join(root, path), "utf8").catch(() => "");
    const prefix = machine.find((one) => text.includes(one));
    if (prefix !== undefined) found.push(`${path}: ${prefix}`);
  }
  none(t, found, "paths");
});

void t.test("no test takes another's locks or sessions for its own", async (t) => {
  // Tests share a PostgreSQL, and their databases have the same OIDs.
  const folder = join(root, "test");
  for (const path of await readdir(folder, { recursive: true })) {
    if (!path.endsWith(".ts")) continue;
    const text = await readFile(join(folder, path), "utf8");
    for (const [query] of text.matchAll(/`[^`]*from pg_(?:locks|stat_activity)[^`]*`/g)) {
      t.match(query, /\bpid\b|current_database\(\)|application_name/, path);
    }
  }
});

void t.test("no file of src/ imports itself, by whatever way round", async (t) => {
  const files = new Map<string, string[]>();
  for (const name of await readdir(join(root, "src"), { recursive: true })) {
    if (!name.endsWith(".ts")) continue;
    const path = join(root, "src", name);
    const text = await readFile(path, "utf8");
    const imports = [...text.matchAll(/^(?:import|export) [^;]*?"(\.[^"]+)"/gm)];
    files.set(
      path,
      imports.map(([, to = ""]) => join(dirname(path), to)),
    );
  }
  t.ok(files.size > 20);
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (path: string, way: readonly string[]) => {
    if (way.includes(path)) circles.push([...way, path].map((p) => relative(root, p)).join(" > "));
    if (way.includes(path) || done.has(path)) return;
    for (const next of files.get(path) ?? []) visit(next, [...way, path]);
    done.add(path);
  };
  for (const path of files.keys()) visit(path, []);
  t.strictSame(circles, []);
});
