// The preset in the project of a host with a graphile-worker of its own.
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { emptyDatabase } from "../support/database.ts";
import { installProject, type Project } from "../support/project.ts";
import { startReceiver } from "../support/receiver.ts";
import { until } from "../support/until.ts";

const HOST_CONFIG = `import { WorkerPreset } from "graphile-worker";
import webhookpub, { checkConnection } from "webhookpub/preset";

await checkConnection();

const seen = {
  name: "HostPlugin",
  version: "1.0.0",
  worker: { hooks: { init: ({ events }) => events.on("pool:create", () => console.log("host plugin")) } },
};

export default {
  extends: [WorkerPreset, webhookpub],
  plugins: [seen],
  worker: { concurrentJobs: 4 },
};
`;

const HOST_TASK = `export default async (payload, { query }) => {
  await query("insert into greetings values ($1)", [payload.name]);
};
`;

async function makeHost(project: Project, config = HOST_CONFIG): Promise<void> {
  await project.write("graphile.config.mjs", config);
  await project.write("tasks/greet.mjs", HOST_TASK);
  await project.write("crontab", '0 4 * * * greet ?jobKey=nightly {name: "cron"}\n');
}

/** By name: at four in the morning its crontab greets, too. */
const untilGreeted = (sql: Sql) =>
  until(
    async () => (await sql`select from greetings where name = 'Ada'`).count === 1,
    "the host's task",
  );

const project = await installProject(t);

void t.test("beside the host's tasks, crontab and plugins, in one process", async (t) => {
  await makeHost(project);
  const { url, sql } = await emptyDatabase(t);
  const env = { DATABASE_URL: url };
  const nowhere = await project.run(["npx", "graphile-worker"], { DATABASE_URL: `${url}_nowhere` });
  t.equal(nowhere.code, 1);
  t.match(nowhere.output, /^ERROR: {2}3D000: database \S+ does not exist\nHINT: /);
  t.notMatch(nowhere.output, /^ +at /m, "no stack");
  t.equal((await project.run(["npx", "webhookpub", "migrate"], env)).code, 0);
  await sql`create table greetings (name text)`;
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const receiver = await startReceiver(t);
  await sql`select webhookpub.create_webhook('user_1', ${receiver.url()}, '{*}')`;

  const worker = await project.start(["npx", "graphile-worker"], env);
  await worker.printed("looking for jobs");
  t.match(worker.output(), /'greet'.*'webhook_deliver'.*'webhook_fan_out'.*'webhook_maintain'/);
  t.match(worker.output(), "host plugin");
  const known = () => sql`select identifier from graphile_worker._private_known_crontabs`;
  // Read after it says that it looks for jobs.
  await until(async () => (await known()).count > 0, "the host's crontab");
  const crontabs = await known();
  t.strictSame([...crontabs], [{ identifier: "greet" }], "the host's crontab is its own");

  await sql`select graphile_worker.add_job('greet', '{"name": "Ada"}')`;
  await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
  await receiver.received(1);
  await untilGreeted(sql);
  await worker.stop();
  const locked = await sql`select from graphile_worker.jobs where locked_at is not null`;
  t.equal(locked.count, 0);
});

void t.test("beside the host's worker, as a process of its own", async (t) => {
  await makeHost(
    project,
    `import { WorkerPreset } from "graphile-worker";\nexport default { extends: [WorkerPreset] };\n`,
  );
  const { url, sql } = await emptyDatabase(t);
  const env = { DATABASE_URL: url };
  const host = await project.start(
    // Without webhookpub's plugin, npx would leave it an orphan.
    [process.execPath, "node_modules/graphile-worker/dist/cli.js"],
    env,
  );
  await host.printed("looking for jobs");
  const worker = await project.start(["npx", "webhookpub", "start"], env);
  await worker.printed("looking for jobs");
  t.notMatch(host.output(), "webhook_");
  t.notMatch(worker.output(), "greet");
  await sql`create table greetings (name text)`;
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const receiver = await startReceiver(t);
  await sql`select webhookpub.create_webhook('user_1', ${receiver.url()}, '{*}')`;
  await sql`select graphile_worker.add_job('greet', '{"name": "Ada"}')`;
  await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
  await receiver.received(1);
  await untilGreeted(sql);
  await Promise.all([host.stop(), worker.stop()]);
});
