// What a supervisor does to npm, and to what npm started.
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { root } from "../../src/config.ts";
import { testDatabase } from "../support/database.ts";
import { type Project, projectIn } from "../support/project.ts";
import { until } from "../support/until.ts";

const WORKERS = [
  ["npm", "start"],
  ["npx", "graphile-worker"],
];

for (const command of WORKERS) {
  void t.test(`SIGTERM to ${command.join(" ")} alone leaves no process`, async (t) => {
    const { url, sql } = await testDatabase(t);
    const worker = await projectIn(t, root).start(command, { DATABASE_URL: url });
    await worker.printed("looking for jobs");
    await worker.stop();
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

void t.test("npm that ends before its end is looked for leaves no process", async (t) => {
  const late = `
    import { endWithParent } from ${JSON.stringify(join(root, "src/orphan.ts"))};
    const parent = process.ppid;
    console.log("up");
    while (process.ppid === parent) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    endWithParent({ info: console.log });
    setInterval(() => {}, 1000);`;
  // What stands behind the command keeps sh from becoming it.
  const command = ["sh", "-c", '"$0" --input-type=module -e "$1"; true', process.execPath, late];
  const started = await projectIn(t, root).start(command, { npm_command: "exec" });
  await started.printed("up");
  await started.stop();
  t.match(started.output(), "npm, which started this process, has ended: stopping");
});

/** What npm start runs, for another folder. */
const START = [process.execPath, join(root, "src/cli/webhookpub.ts"), "start"];

/** An empty folder. */
async function newPlace(t: Test): Promise<Project> {
  const folder = await mkdtemp(join(tmpdir(), "folder-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  // Where root runs this, PostgreSQL is another user.
  await chmod(folder, 0o755);
  return projectIn(t, folder);
}

void t.test("a second npm start in one folder says so, and touches nothing", async (t) => {
  const place = await newPlace(t);
  const first = await place.start(START, {});
  await first.printed("looking for jobs");
  const second = await place.run(START);
  t.equal(second.code, 1);
  t.match(
    second.output,
    /^ERROR: {2}WH030: webhookpub runs in this folder already, as process \d+/,
  );
  t.match(second.output, /^HINT: {2}.*psql "postgres:/m);
  t.notMatch(first.output(), /lost|terminat|stopp|error/i, "the first goes on");
  await first.stop();

  const third = await place.start(START, {});
  await third.printed("looking for jobs");
  await third.stop();
});

void t.test(
  "npm start waits for the PostgreSQL of one that is stopped at that moment",
  async (t) => {
    const place = await newPlace(t);
    const first = await place.start(START, {});
    await first.printed("worker running");
    const [pid] = (
      await readFile(join(place.folder, ".webhookpub/data/postmaster.pid"), "utf8")
    ).split("\n");
    // It waits for its sessions, and takes no more; the worker would hear of that, and stop it.
    first.kill("SIGSTOP");
    t.teardown(() => first.kill("SIGCONT"));
    process.kill(Number(pid), "SIGTERM");
    const second = await place.start(START, {});
    await second.printed("PostgreSQL starts or stops");
    first.kill("SIGCONT");
    await first.stop();
    await second.printed("looking for jobs");
    await second.stop();
  },
);
