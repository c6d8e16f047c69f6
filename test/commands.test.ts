// Every command of the manual, run as a reader does it: in a project with the packed package, on a
// real database, in the order of the page.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { root } from "../src/config.ts";
import { emptyDatabase, type TestDatabase, testDatabase } from "./support/database.ts";
import { NO_DUMP } from "./support/dump.ts";
import { freePort } from "../src/free_port.ts";
import { type Block, blocks, type Page, readPage, readPages } from "./support/markdown.ts";
import { installProject, type Project, projectIn } from "./support/project.ts";
import { findPsql } from "./support/psql.ts";
import { until } from "./support/until.ts";

/**
 * Commands that no test of this file runs, and why that is no hole. It may get shorter, not longer:
 * a command that is new in the manual is one that can be run.
 */
const EXCEPTIONS: ReadonlyMap<RegExp, string> = new Map([
  [/^npm ci$/, "would replace what the tests run with; .ci/run does it"],
  [/^npm test\b/, "is what runs this"],
  [/^npm run (?:test:faults|test:soak|demo|bench|check)\b/, "takes minutes; .ci/run does it"],
  [/^npm run examples\b/, "is test/languages.test.ts"],
]);
const AT_MOST = 4;

/** What goes on until it is stopped, and what it says when it is there. */
const SERVES: ReadonlyMap<RegExp, string> = new Map([
  [/\bwebhookpub start\b/, "looking for jobs"],
  [/\bgraphile-worker$/, "looking for jobs"],
  [/\bwebhookpub listen\b/, "listening on "],
]);

/** What may end with other codes than 0. */
const CODES: ReadonlyMap<RegExp, readonly number[]> = new Map([
  // It finds that no worker is connected.
  [/\bwebhookpub doctor\b/, [0, 1]],
]);

const pages = await readPages();
const scripts = Object.keys(
  (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { scripts: object }).scripts,
);

/** The commands of a block: without comments, and with lines that go on on the next one joined. */
function commands({ code }: Block): string[] {
  return code
    .replaceAll(/\\\n\s*/g, "")
    .split("\n")
    .map((line) => line.replace(/(?:^|\s+)#.*$/, "").trim())
    .filter(Boolean);
}

const exceptionOf = (command: string) =>
  [...EXCEPTIONS.keys()].find((exception) =>
    command.split(" && ").some((part) => exception.test(part.replace(/^(?:[A-Z_]+=\S+ )+/, ""))),
  );

/** The files that a page says to write: blocks below a line that ends with their name. */
function files({ text }: Page): { name: string; code: string }[] {
  const found = text.matchAll(/`([\w.]+\.(?:mjs|ts|js|json|ini))`:\n\n```\w+\n(.*?)^```$/gms);
  return [...found].map(([, name = "", code = ""]) => ({ name, code }));
}

interface Scene {
  readonly project: Project;
  readonly database: TestDatabase;
  readonly port: number;
  /** What create_webhook showed last. */
  secret: string;
}

/** The name of a second database, where a page makes one. */
const COPY = "shop_copy";

const copyOf = (url: string) => `${url}_copy`;
const nameOf = (url: string) => new URL(url).pathname.slice(1);

/**
 * Puts what is the reader's own into a command or a block of SQL. Another run of this file may
 * have the port that commands take where they are given none.
 */
function fill(text: string, { database, port, secret }: Scene): string {
  return text
    .replaceAll(/postgres:\/\/\w+@host:5432\/(\w+)/g, (_, name: string) =>
      name === COPY ? copyOf(database.url) : database.url,
    )
    .replaceAll(/\b(?<!\/)shop_copy\b/g, nameOf(copyOf(database.url)))
    .replaceAll("whsec_…", secret)
    .replaceAll(/(?<=--port |127\.0\.0\.1:)3000\b/g, String(port))
    .replace(/(?<=^npx webhookpub listen)(?! --(?:port|help))/, " --port 0")
    .replace(/^npm install webhookpub$/, "npm install --prefer-offline ./webhookpub-*.tgz")
    .replaceAll("examples/psqlrc", "node_modules/webhookpub/examples/psqlrc");
}

/** Runs the commands of a block one after another; what goes on is left to go on. */
async function runCommands(t: Test, scene: Scene, block: Block, exports: string[]): Promise<void> {
  const psql = findPsql();
  const PATH = `${process.env["PATH"] ?? ""}:${psql ? join(psql, "..") : ""}`;
  const { hostname, port, username } = new URL(scene.database.url);
  const env = {
    PATH,
    DATABASE_URL: scene.database.url,
    PAGER: "cat",
    PGHOST: hostname,
    PGPORT: port,
    PGUSER: username,
  };
  if (block.code.includes("pg_dump") && NO_DUMP) {
    t.comment(`${block.at}: ${NO_DUMP}`);
    return;
  }
  if (block.code.includes(COPY)) {
    const copy = nameOf(copyOf(scene.database.url));
    t.teardown(() => scene.database.sql.unsafe(`drop database if exists ${copy} with (force)`));
  }
  for (const command of commands(block)) {
    if (exceptionOf(command)) continue;
    const filled = fill(command, scene);
    if (filled.startsWith("export ")) {
      exports.push(filled);
      continue;
    }
    // With exec, what is started is npx itself, and not a shell before it.
    const alone = /^(?:[A-Z_]+=\S+ )*(?:npx|npm|node|psql)\b[^|;&>]*$/.test(filled);
    const [, assigned = "", rest = ""] = /^((?:[A-Z_]+=\S+ )*)(.*)$/s.exec(filled) ?? [];
    const shell = [
      ...exports,
      ...assigned
        .split(" ")
        .filter(Boolean)
        .map((one) => `export ${one}`),
      alone ? `exec ${rest}` : rest,
    ].join("\n");
    const ready = [...SERVES].find(([pattern]) => pattern.test(command))?.[1];
    const line = ["sh", "-ec", shell];
    if (ready !== undefined && !command.endsWith("--help")) {
      const started = await scene.project.start(line, env);
      await started.printed(ready);
      t.pass(`${block.at}: ${command}`);
      running.push({ command, output: () => started.output() });
    } else {
      const { code, output } = await scene.project.run(line, env);
      const codes = [...CODES].find(([pattern]) => pattern.test(command))?.[1] ?? [0];
      t.ok(code !== null && codes.includes(code), `${block.at}: ${command}`, { code, output });
    }
  }
}

/** What has been started. */
const running: { command: string; output: () => string }[] = [];

const { folder } = await installProject(t);

void t.test("what the README says leads from nothing to a verified delivery", async (t) => {
  if (!findPsql()) t.comment("without psql");
  const begun = performance.now();
  const page = await readPage("README.md");
  const database = await emptyDatabase(t);
  const project = projectIn(t, folder);
  const scene: Scene = { project, database, port: await freePort(), secret: "" };
  const session = database.session();
  const exports: string[] = [];
  for (const block of blocks(page)) {
    if (block.language === "sh") await runCommands(t, scene, block, exports);
    if (block.language !== "sql") continue;
    const answer = await session.unsafe(fill(block.code, scene));
    const results = ("command" in answer ? [answer] : answer) as unknown as {
      count: number;
      command: string;
    }[][];
    const rows = results.flat() as unknown as Record<string, unknown>[];
    const created = rows.find((row) => "signing_secret" in row);
    if (created) scene.secret = String(created["signing_secret"]);
    if (!block.code.includes("insert into")) continue;
    await until(
      async () =>
        (await database.sql`select from webhookpub.deliveries where status = 'delivered'`).count >
        0,
      "the delivery",
    );
    t.comment(`${Math.round((performance.now() - begun) / 100) / 10} s from npm install to there`);
  }
  const receiver = running.find(({ command }) => command.includes("webhookpub listen"));
  t.match(receiver?.output(), "verified (standard)", "the receiver says so");
  const [{ status, matched, envelope } = {}] = await database.sql`
    select l.status, x.matched, e.envelope
    from webhookpub.delivery_log as l
    join webhookpub.envelopes_by_event as e on e.event_id = l.event_id
    cross join webhookpub.explain_event(l.event_id) as x`;
  t.match({ status, matched }, { status: "delivered", matched: true });
  t.match(envelope, /"event": "\w+\.\w+"/);
});

for (const page of pages.filter(({ path }) => path !== "README.md")) {
  const own = blocks(page).filter(({ language }) => language === "sh");
  if (own.flatMap(commands).every(exceptionOf)) continue;
  const psql = own.some(({ code }) => /\bpsql\b/.test(code)) && !findPsql();
  void t.test(`the commands of ${page.path}`, { skip: psql && "psql is not here" }, async (t) => {
    const installs = /webhookpub (?:migrate|sql)\b|npm install/.test(own[0]?.code ?? "");
    const database = await (installs ? emptyDatabase(t) : testDatabase(t));
    const secret = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;
    const project = projectIn(t, folder);
    for (const { name, code } of files(page)) await project.write(name, code);
    const exports: string[] = [];
    for (const block of own) {
      await t.test(block.at, async (t) => {
        const scene: Scene = { project, database, port: await freePort(), secret };
        await runCommands(t, scene, block, exports);
      });
    }
  });
}

void t.test("what is not run is no new command, and there", (t) => {
  const all = pages.flatMap((page) =>
    blocks(page)
      .filter(({ language }) => language === "sh")
      .flatMap((block) => commands(block).map((command) => ({ command, at: block.at }))),
  );
  const used = new Set(all.map(({ command }) => exceptionOf(command)));
  for (const [exception, reason] of EXCEPTIONS)
    t.ok(used.has(exception), `${exception}: ${reason}`);
  t.ok(EXCEPTIONS.size <= AT_MOST, "the list of exceptions only shrinks");
  const ci = readFileSync(join(root, ".ci/run"), "utf8");
  for (const { command, at } of all) {
    const script = /\bnpm (?:run ([\w:]+)|(test|start))\b/.exec(command);
    const name = script?.[1] ?? script?.[2];
    if (name === undefined) continue;
    t.ok(scripts.includes(name), `${at}: npm run ${name} is there`);
    if (exceptionOf(command) && name !== "examples") t.match(ci, name, `.ci/run does ${name}`);
    for (const [file] of command.matchAll(/\b(?:test|bench|src)\/[\w/]+\.ts\b/g)) {
      t.ok(existsSync(join(root, file)), `${at}: ${file} is there`);
    }
    const [, bench] = /npm run bench -- ([a-z][\w-]*)/.exec(command) ?? [];
    if (bench)
      t.ok(existsSync(join(root, `bench/${bench.replaceAll("-", "_")}.ts`)), `${at}: ${bench}`);
  }
  t.end();
});
