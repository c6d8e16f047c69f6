// The manual as a whole: its links, its words, its index, and the columns that it promises.
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { root } from "../src/config.ts";
import { testDatabase } from "./support/database.ts";
import {
  anchors,
  blocks,
  localLinks,
  prose,
  readPage,
  readPages,
  section,
  tableRows,
} from "./support/markdown.ts";

const pages = await readPages();

/** Fails once, with everything that breaks a rule. */
const none = (t: Test, found: readonly string[], rule: string) => t.strictSame(found, [], rule);

void t.test("every link within the project leads somewhere", (t) => {
  const lost = pages.flatMap((page) =>
    localLinks(page)
      .filter(({ path, anchor }) => {
        if (!anchor) return !existsSync(join(root, path));
        const target = pages.find((other) => other.path === path);
        return !target || !anchors(target).includes(anchor);
      })
      .map(({ path, anchor }) => `${page.path}: ${path}#${anchor}`),
  );
  none(t, lost, "no file, or no such heading");
  t.ok(pages.flatMap(localLinks).length > 100);
  t.end();
});

void t.test("a page answers one question, and README leads to it by that question", async (t) => {
  const questions = new Map(
    pages
      .filter(({ path }) => path.startsWith("docs/"))
      .map(({ path, text }) => [path, /^# (.*)$/m.exec(text)?.[1] ?? ""]),
  );
  none(
    t,
    [...questions].flatMap(([path, title]) => (title.endsWith("?") ? [] : [`${path}: ${title}`])),
    "its first line is a question",
  );
  const { text } = await readPage("README.md");
  const listed = new Map(
    [...text.matchAll(/^\| \[.*?\]\((docs\/[^)]*)\) *\| (.*?) *\|$/gm)].map(
      ([, path = "", question = ""]) => [path, question],
    ),
  );
  t.strictSame(
    Object.fromEntries(listed),
    Object.fromEntries([...questions].filter(([path]) => !path.startsWith("docs/contributing/"))),
    "the index of README.md",
  );
});

void t.test("a block says what it is, and what is no output is run", (t) => {
  // Commands are run by commands.test.ts, SQL by examples.test.ts; the others are snippets, which
  // snippets.test.ts, client.test.ts or a test of their own compares.
  const languages = new Set(
    "sh sql psql text mermaid ini json js ts python go rust java ruby php".split(" "),
  );
  const command =
    /^\s*(?:[A-Z_]+=\S+ )*(?:npm|npx|node|psql|pg_\w+|docker|curl|git|export|kubectl) /m;
  none(
    t,
    pages.flatMap((page) =>
      blocks(page)
        .filter(({ language }) => !languages.has(language))
        .map(({ at, language }) => `${at} ${language}`),
    ),
    "```sh for commands, ```text for output",
  );
  none(
    t,
    pages.flatMap((page) =>
      blocks(page)
        .filter(({ language, code }) => language === "text" && command.test(code))
        .map(({ at }) => at),
    ),
    "a command does not hide in a block of output",
  );
  t.end();
});

void t.test("whoever has installed the package finds the commands that it has", (t) => {
  const script = /npm (?:start|run (?:start|migrate|demo))\b/;
  const readers = pages.filter(
    ({ path }) => path !== "CONTRIBUTING.md" && !path.startsWith("docs/contributing/"),
  );
  none(
    t,
    readers.flatMap(({ path, text }) =>
      text
        .split(/\n\n/)
        .filter((paragraph) => script.test(paragraph) && !/\bclone\b/.test(paragraph))
        .map((paragraph) => `${path}: ${script.exec(paragraph)?.[0]}`),
    ),
    "npx webhookpub …, but in a clone",
  );
  t.end();
});

void t.test("the manual has one word for one thing", async (t) => {
  const rows = tableRows(await readPage("docs/glossary.md"), "word");
  t.ok(rows.length > 40, `${rows.length} words`);
  const words = rows.map(([word = ""]) => word.replaceAll("*", ""));
  none(
    t,
    words.filter((word, i) => words.indexOf(word) !== i),
    "and says it once",
  );
  const others = rows.flatMap(([, , instead = ""]) => instead.split(", ").filter(Boolean));
  t.ok(others.length > 20, `${others.length} other words`);
  none(
    t,
    others.filter((word) => words.includes(word)),
    "no word stands for another",
  );
  // Where others are spoken of, so are their words.
  const foreign = new Set(["docs/glossary.md", "docs/comparison.md", "docs/hosted.md"]);
  const found = pages
    .filter(({ path }) => !foreign.has(path))
    .flatMap((page) =>
      others.flatMap((word) =>
        [...prose(page).matchAll(new RegExp(`\\b${word}(?:e?s)?\\b`, "gi"))].map(
          ([used]) => `${page.path}: ${used}`,
        ),
      ),
    );
  none(t, found, "docs/glossary.md has the word");
});

void t.test("what waits for what is told where it is looked for", async (t) => {
  const { sql } = await testDatabase(t);
  const [view] = await sql<[{ definition: string }]>`
    select pg_get_viewdef('webhookpub.delivery_log'::regclass) as definition`;
  const functions = await sql<{ definition: string }[]>`
    select pg_get_functiondef(p.oid) as definition
    from pg_proc as p
    where p.pronamespace = 'webhookpub'::regnamespace
      and p.proname in ('webhook_waits_for', 'webhook_waits', 'standing')`;
  t.equal(functions.length, 3);
  const [, cases = ""] = /CASE(.*?)END AS waits_for/s.exec(view.definition) ?? [];
  const said = /(?:then|else|webhook_waits\(.*?\),) '([^']+)'/gis;
  const reasons = [cases, ...functions.map(({ definition }) => definition)]
    .flatMap((text) => [...text.matchAll(said)])
    .map(([, reason = ""]) => reason);
  t.equal(new Set(reasons).size, 11, reasons.join(", "));
  const psql = await readPage("docs/psql.md");
  const life = await readPage("docs/life_of_a_delivery.md");
  none(
    t,
    reasons.filter((reason) => !psql.text.includes(`| \`${reason}\` `)),
    "docs/psql.md",
  );
  none(
    t,
    reasons.filter((reason) => !new RegExp(`"waits for (?:an? |its )?${reason}"`).test(life.text)),
    "docs/life_of_a_delivery.md",
  );
});

void t.test("each guarantee names a test that is there", async (t) => {
  const page = await readPage("docs/guarantees.md");
  const rows = ["guarantee", "fault", "taken out"].flatMap((first) => tableRows(page, first));
  t.ok(rows.length > 90, `${rows.length} rows`);
  const files = new Set(
    (await readdir(join(root, "test"), { recursive: true })).flatMap(
      (path) => /(\w+)\.test\.ts$/.exec(path)?.[1] ?? [],
    ),
  );
  const quoted = (text: string) =>
    [...text.matchAll(/`(\w+)`(?=:|$|,)/g)].map(([, name = ""]) => name);
  none(
    t,
    rows.flatMap(([, test = ""]) => quoted(test)).filter((name) => !files.has(name)),
    "test/**/<name>.test.ts",
  );
});

void t.test("the columns that are promised are there", async (t) => {
  const { sql } = await testDatabase(t);
  const page = await readPage("docs/tables.md");
  const columns = await sql<{ table: string; name: string; type: string }[]>`
    select c.relname as table, a.attname as name,
      replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz') as type
    from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid
    where c.relnamespace = 'webhookpub'::regnamespace and a.attnum > 0 and not a.attisdropped`;
  const headings = [...page.text.matchAll(/^## ([a-z_]+)$/gm)].map(([, name = ""]) => name);
  t.ok(headings.length > 5, headings.join(", "));
  for (const table of headings) {
    const rows = tableRows(section(page, table), "column").map(([name = "", type = ""]) => ({
      name: name.replaceAll("`", ""),
      type: type.replaceAll("`", ""),
    }));
    t.ok(rows.length > 2, `${table}: ${rows.length} columns`);
    none(
      t,
      rows
        .filter(
          ({ name, type }) =>
            !columns.some((one) => one.table === table && one.name === name && one.type === type),
        )
        .map(({ name, type }) => `${table}.${name} ${type}`),
      table,
    );
  }
});

void t.test("the client's rows are of the columns that are promised", async (t) => {
  const page = await readPage("docs/tables.md");
  const { text } = await readPage("src/client/rows.ts");
  const interfaces = text.matchAll(/A row of webhookpub\.(\w+)\. \*\/\n[^\n]*\{\n(.*?)^\}/gms);
  let count = 0;
  for (const [, table = "", body = ""] of interfaces) {
    const promised = tableRows(section(page, table), "column").map(([name]) => name);
    const typed = [...body.matchAll(/^ {2}(\w+): /gm)].map(([, name = ""]) => `\`${name}\``);
    count += typed.length;
    none(
      t,
      typed.filter((name) => !promised.includes(name)),
      table,
    );
  }
  t.ok(count > 20, `${count} columns`);
});

void t.test("every function that somebody may call for themselves is on a page", async (t) => {
  const { sql } = await testDatabase(t);
  // Called by others of these, with their caller's rights, or by views.
  const helpers = new Set(
    `stored_envelope type_patterns unmatched_clause data_holds current_user_id
    read_jobs read_partitions read_sessions webhook_waits webhook_waits_for`.split(/\s+/),
  );
  const functions = await sql<{ name: string }[]>`
    select distinct p.proname as name
    from pg_proc as p
    cross join unnest(array['publisher', 'operator', 'readonly', 'tenant']) as r
    where (p.pronamespace = 'webhookpub'::regnamespace or p.proname like 'webhook\\_publish%')
      and has_function_privilege('webhookpub_' || r, p.oid, 'execute')`;
  const page = section(await readPage("docs/tables.md"), "Functions");
  const named = [...page.text.matchAll(/`(\w+)`/g)].map(([, name = ""]) => name);
  none(
    t,
    functions.map(({ name }) => name).filter((name) => !helpers.has(name) && !named.includes(name)),
    "docs/tables.md, Functions",
  );
  none(
    t,
    named.filter(
      (name) =>
        name !== "webhookpub" && name !== "public" && !functions.some((one) => one.name === name),
    ),
    "and each of them is there",
  );
});

void t.test("no fact about somebody else's system is without its source", async (t) => {
  const { text } = await readPage("docs/comparison.md");
  const facts = section(await readPage("docs/comparison.md"), "What they are");
  const defined = [...text.matchAll(/^\[(\w+)\]: https:\/\/\S+$/gm)].map(([, name = ""]) => name);
  const used = [...text.matchAll(/(?<=[(\]])\[(\w+)\](?!:)/g)].map(([, name = ""]) => name);
  t.ok(defined.length > 20, `${defined.length} sources`);
  none(
    t,
    used.filter((name) => !defined.includes(name)),
    "defined",
  );
  none(
    t,
    defined.filter((name) => !used.includes(name)),
    "used",
  );
  const rows = tableRows(facts, "");
  t.ok(rows.length > 10, `${rows.length} rows`);
  none(
    t,
    rows.flatMap(([what = "", , ...cells]) =>
      cells
        .filter((cell) => cell !== "–" && !/\(\[\w+\]\)$/.test(cell))
        .map((cell) => `${what}: ${cell}`),
    ),
    "a cell says where it was read, or that nothing was found",
  );
});
